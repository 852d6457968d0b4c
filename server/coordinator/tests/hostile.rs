//! A coordinator among peers that speak nonsense over frames, by TCP and by its Unix socket: each is refused or given up, and
//! everybody else is served.

#![allow(clippy::unwrap_used)] // the whole file is test code

use dfs_common::limits::SESSION_LOCK_REQUESTS_MAX;
use dfs_common::lock::{LockKind, LockOutcome, LockOwner, LockRange, LockSpec, LockStyle, LockTicket};
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, Operation};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{ErrorKind, Ino, Name, OpNumber, SessionId};
use dfs_coordinator::{Coordinator, CoordinatorConfig};
use dfs_proto::framed::MetadataFramedClient;
use dfs_proto::socket::{LocalSockets, Peer, Socket, dial};
use dfs_proto::v1;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};

const DEADLINE: Duration = Duration::from_secs(20);
/// Each kind of connection.
const KINDS: [LocalSockets; 2] = [LocalSockets::Off, LocalSockets::Only];
const PREFACE: [u8; 8] = *b"DFS\x01\0\0\0\0";
const REQUEST: u8 = 1;
const ERROR: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;

async fn coordinator(dir: &std::path::Path) -> Coordinator {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Coordinator::start(CoordinatorConfig::new(dir, address))
        .await
        .unwrap()
}

fn frame(call: u64, method: u16, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(11 + payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&call.to_le_bytes());
    bytes.extend_from_slice(&method.to_le_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(payload);
    bytes
}

async fn connect(address: SocketAddr, kind: LocalSockets) -> Socket {
    let socket = dial(&Peer::new(address.to_string(), kind)).await.unwrap();
    assert_eq!(socket.is_local(), kind == LocalSockets::Only);
    socket
}

/// A connection on which both prefaces were exchanged.
async fn framed(address: SocketAddr, kind: LocalSockets) -> Socket {
    let mut stream = connect(address, kind).await;
    stream.write_all(&PREFACE).await.unwrap();
    let mut answer = [0; 8];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, PREFACE);
    stream
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Number of the call, kind and payload of the next frame.
async fn next(stream: &mut (impl AsyncRead + Unpin)) -> (u64, u8, Vec<u8>) {
    let mut head = [0; 15];
    within(stream.read_exact(&mut head)).await.unwrap();
    let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let mut payload = vec![0; length - 11];
    within(stream.read_exact(&mut payload)).await.unwrap();
    (
        u64::from_le_bytes(head[4..12].try_into().unwrap()),
        head[14],
        payload,
    )
}

/// Waits until the server closed the connection, whatever it said before.
async fn ends(mut stream: Socket, what: &str) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "{what}: the connection stays open");
}

/// A client that behaves, and its session.
async fn session(address: SocketAddr) -> (MetadataFramedClient, Identity) {
    let client = MetadataFramedClient::connect_lazy(&address.to_string(), Duration::from_secs(5)).unwrap();
    let request = OpenSession {
        client_name: "test".to_owned(),
        resume: None,
        opened: Vec::new(),
        unsynced: None,
        locks: Default::default(),
        leases: false,
    };
    let grant = within(client.open_session(request)).await.unwrap();
    (client, grant.identity)
}

async fn serves(address: SocketAddr) {
    let (client, identity) = session(address).await;
    let found = within(client.getattr(identity, Ino::ROOT)).await.unwrap();
    assert_eq!(found.attr.ino, Ino::ROOT);
    within(client.close_session(identity)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_frames_end_the_connection() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let coordinator = coordinator(dir.path()).await;
        let address = coordinator.address();
        for (what, bytes) in [
            ("silence", Vec::new()),
            ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            ("nearly HTTP/2", b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n".to_vec()),
            ("another preface", b"DFX\x01\0\0\0\0".to_vec()),
            ("a newer framing", b"DFS\x02\0\0\0\0".to_vec()),
        ] {
            let mut stream = connect(address, kind).await;
            stream.write_all(&bytes).await.unwrap();
            ends(stream, what).await;
        }
        let mut huge = frame(1, 6, REQUEST, b"");
        huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut above = frame(1, 6, REQUEST, b"");
        above[..4].copy_from_slice(&(11 + (4 << 20) + 1_u32).to_le_bytes());
        let mut short = frame(1, 6, REQUEST, b"");
        short[..4].copy_from_slice(&10_u32.to_le_bytes());
        for (what, bytes) in [
            ("a frame of 4 GiB", huge),
            ("a frame just too large", above),
            ("a frame shorter than its header", short),
            ("an unknown kind", frame(1, 6, 9, b"")),
            ("a reply to the server", frame(1, 6, 2, b"")),
        ] {
            let mut stream = framed(address, kind).await;
            stream.write_all(&bytes).await.unwrap();
            ends(stream, what).await;
        }
        // Half a frame, and gone.
        let mut stream = framed(address, kind).await;
        stream
            .write_all(&frame(1, 4, REQUEST, &[0; 1000])[..500])
            .await
            .unwrap();
        drop(stream);
        serves(address).await;
        coordinator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_mean_nothing_are_refused_and_the_connection_goes_on() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let coordinator = coordinator(dir.path()).await;
        let mut stream = framed(coordinator.address(), kind).await;
        for (call, method, payload) in [
            (7, 0, &b""[..]),
            (8, 999, b"x"),
            (9, 6, b""),
            (10, 4, &[0xff; 100]),
        ] {
            stream
                .write_all(&frame(call, method, REQUEST, payload))
                .await
                .unwrap();
            let (answered, kind, payload) = next(&mut stream).await;
            assert_eq!((answered, kind), (call, ERROR), "method {method}");
            v1::Error::decode(&payload[..]).unwrap();
        }
        stream.write_all(&frame(0, 0, PING, b"")).await.unwrap();
        assert_eq!(next(&mut stream).await.1, PONG);
        serves(coordinator.address()).await;
        coordinator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_messages_for_every_method_harm_nobody() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let coordinator = coordinator(dir.path()).await;
        let address = coordinator.address();
        // A session of its own, so that some requests get beyond its check.
        let (client, own) = session(address).await;
        let identity = dfs_proto::convert::identity_to_wire(&own);
        let mut random = StdRng::seed_from_u64(20);
        let mut stream = framed(address, kind).await;
        for call in 0..4000 {
            // Recalls (16) wait for a recall; they have a test of their own.
            let method = [random.random_range(1..16), random.random_range(17..23)][random.random_range(0..2)];
            let mut payload = vec![0; random.random_range(0..200)];
            random.fill_bytes(&mut payload);
            if random.random_bool(0.7) {
                // A real identity in the first field, then noise that looks like fields more often than bytes do.
                let mut known = vec![0x0a];
                identity.encode_length_delimited(&mut known).unwrap();
                for field in 2..random.random_range(3..9_u8) {
                    known.push(field << 3);
                    known.push(random.random_range(0..128));
                }
                if random.random_bool(0.3) {
                    known.extend_from_slice(&payload);
                }
                payload = known;
            }
            stream
                .write_all(&frame(call, method, REQUEST, &payload))
                .await
                .unwrap();
            let (answered, ..) = next(&mut stream).await;
            assert_eq!(answered, call);
        }
        let unknown = Identity {
            session: SessionId(1 << 40),
            ..own
        };
        let error = within(client.getattr(unknown, Ino::ROOT)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionFenced);
        serves(address).await;
        coordinator.shutdown().await;
    }
}

/// Requests for locks as no client of ours makes them, on the wire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_lock_requests_are_refused_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = coordinator(dir.path()).await;
    let (client, own) = session(coordinator.address()).await;
    let whole = v1::Lock {
        style: 2,
        owner: 1,
        kind: 2,
        first: 0,
        last: u64::MAX,
        pid: 1,
    };
    let request = |change: &dyn Fn(&mut v1::LockRequest)| {
        let mut request = v1::LockRequest {
            identity: Some(dfs_proto::convert::identity_to_wire(&own)),
            ticket: Some(v1::LockTicket::default()),
            ino: 1,
            lock: Some(whole),
            patience_ms: u32::MAX,
        };
        change(&mut request);
        request.encode_to_vec()
    };
    let of = |lock: v1::Lock| move |request: &mut v1::LockRequest| request.lock = Some(lock);
    let requests = [
        request(&of(v1::Lock {
            first: 1,
            last: 0,
            ..whole
        })),
        request(&of(v1::Lock { style: 0, ..whole })),
        request(&of(v1::Lock {
            style: u32::MAX,
            ..whole
        })),
        request(&of(v1::Lock { kind: 3, ..whole })),
        request(&of(v1::Lock {
            style: 1,
            last: 9,
            ..whole
        })),
        request(&|request| request.lock = None),
        request(&|request| request.ticket = None),
        request(&|request| request.identity = None),
        request(&|request| {
            request.ticket = Some(v1::LockTicket {
                answered: vec![u64::MAX; SESSION_LOCK_REQUESTS_MAX + 1],
                ..v1::LockTicket::default()
            });
        }),
    ];
    let mut stream = framed(coordinator.address(), LocalSockets::Off).await;
    for (place, payload) in requests.iter().enumerate() {
        let sent = frame(place as u64, 19, REQUEST, payload);
        stream.write_all(&sent).await.unwrap();
        let (answered, kind, payload) = next(&mut stream).await;
        assert_eq!((answered, kind), (place as u64, ERROR), "request {place}");
        let error = v1::Error::decode(&payload[..]).unwrap();
        assert_eq!(
            error.kind,
            ErrorKind::Invalid as u32,
            "request {place}: {error:?}"
        );
    }
    assert!(client.getattr(own, Ino::ROOT).await.is_ok());
    serves(coordinator.address()).await;
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_asks_for_all_locks_there_are_harms_itself_alone() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = coordinator(dir.path()).await;
    let address = coordinator.address();
    let ((greedy, me), (other, them)) = (session(address).await, session(address).await);
    let ino = created(&greedy, me).await;
    other.open(them, Caller::root(), ino, true, true).await.unwrap();
    let lock = |number: u64, first, last| LockSpec {
        owner: LockOwner {
            style: LockStyle::Process,
            number,
        },
        kind: LockKind::Exclusive,
        range: LockRange::new(first, last).unwrap(),
        pid: u32::MAX,
    };
    let ticket = |number, settled| LockTicket {
        number,
        settled,
        answered: Vec::new(),
    };
    // The ends of the ranges, and neighbours there.
    for (number, first, last) in [
        (0, u64::MAX, u64::MAX),
        (1, 0, 0),
        (2, 1, u64::MAX - 1),
        (3, u64::MAX - 1, u64::MAX),
    ] {
        let asked = greedy.lock(me, ticket(number, 0), ino, lock(1, first, last), Duration::ZERO);
        assert_eq!(asked.await, Ok(LockOutcome::Granted), "{first} to {last}");
    }
    let held = other.test_lock(them, ino, lock(1, 7, 7)).await.unwrap().unwrap();
    assert_eq!(held.lock.range, LockRange::WHOLE);
    // As many waits as a session may have.
    let mut refused = 0;
    for number in 4..SESSION_LOCK_REQUESTS_MAX as u64 + 24 {
        let asked = lock(number, 5, 5);
        let patience = Duration::from_millis(1);
        match greedy
            .lock(me, ticket(number, 0), Ino(ino.0), asked, patience)
            .await
        {
            Ok(LockOutcome::Waiting) => {}
            Ok(LockOutcome::TooMany) => refused += 1,
            told => panic!("request {number}: {told:?}"),
        }
    }
    assert_eq!(refused, 20, "no more than may wait");
    let unlock = greedy.unlock(me, ticket(9000, 0), ino, lock(1, 0, 0).owner, LockRange::WHOLE);
    assert_eq!(unlock.await, Ok(LockOutcome::Granted));
    // A number from the end of all numbers settles the session for good; it can still be closed.
    let last = ticket(u64::MAX, u64::MAX);
    let unlock = greedy.unlock(me, last, Ino(u64::MAX), lock(1, 0, 0).owner, LockRange::WHOLE);
    assert_eq!(unlock.await, Ok(LockOutcome::Granted));
    let late = greedy.lock(me, ticket(u64::MAX - 1, 0), ino, lock(1, 0, 0), Duration::ZERO);
    assert_eq!(late.await.unwrap_err().kind(), ErrorKind::StaleOperation);
    // Everybody else is served, and after its end all is free.
    let began = std::time::Instant::now();
    let asked = other.lock(them, ticket(1, 0), ino, lock(1, 0, 9), Duration::from_millis(1));
    assert_eq!(asked.await, Ok(LockOutcome::Waiting));
    within(greedy.close_session(me)).await.unwrap();
    let asked = other.lock(them, ticket(1, 0), ino, lock(1, 0, 9), DEADLINE);
    assert_eq!(within(asked).await, Ok(LockOutcome::Granted));
    assert!(began.elapsed() < DEADLINE);
    coordinator.shutdown().await;
}

async fn created(client: &MetadataFramedClient, identity: Identity) -> Ino {
    let create = Operation::Create {
        parent: Ino::ROOT,
        name: Name::new(&b"f"[..]).unwrap(),
        mode: 0o644,
        exclusive: true,
        read: true,
        write: true,
    };
    let batch = MutationBatch {
        ops: vec![NumberedOp {
            number: OpNumber(1),
            caller: Caller::root(),
            op: create,
        }],
        acknowledged_below: OpNumber(0),
        stop_on_error: true,
        durable: false,
    };
    match client.mutate(identity, batch).await.unwrap().results.remove(0) {
        Ok(OpReply::Created { entry, .. }) => entry.attr.ino,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_does_not_read_its_answers_is_held_back_alone() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let coordinator = coordinator(dir.path()).await;
        let address = coordinator.address();
        let mut stream = framed(address, kind).await;
        // An answer is several times as long as such a request. The kernel keeps some MiB under way.
        let request = frame(1, 999, REQUEST, b"");
        let batch = request.repeat(4000);
        let mut sent = 0_usize;
        // It takes no more after a while.
        while sent < 128 << 20 {
            match tokio::time::timeout(Duration::from_secs(2), stream.write_all(&batch)).await {
                Ok(written) => written.expect("held back, not given up"),
                Err(_) => break,
            }
            sent += batch.len();
        }
        assert!(
            sent < 128 << 20,
            "requests are read on though nobody reads their answers"
        );
        serves(address).await;
        // Slow is not lost.
        let mut stream = BufReader::new(stream);
        for _ in 0..sent / request.len() {
            assert_eq!(next(&mut stream).await.1, ERROR);
        }
        serves(address).await;
        drop(stream);
        coordinator.shutdown().await;
    }
}
