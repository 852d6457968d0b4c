//! What ends a session through its lifeline, and what does not: over TCP and over the Unix socket.

#![allow(clippy::unwrap_used)] // the whole file is test code

use dfs_common::service::{Lifeline, MetadataService};
use dfs_common::session::{Identity, OpenSession};
use dfs_common::{ErrorKind, Ino, SessionEpoch, SessionId};
use dfs_coordinator::{Coordinator, CoordinatorConfig};
use dfs_proto::convert::identity_to_wire;
use dfs_proto::framed::MetadataFramedClient;
use dfs_proto::socket::{LocalSockets, Peer, Socket, dial};
use dfs_proto::v1;
use prost::Message;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);
/// Each kind of connection.
const KINDS: [LocalSockets; 2] = [LocalSockets::Off, LocalSockets::Only];
const PREFACE: [u8; 8] = *b"DFS\x01\x02\0\0\0";
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.expect(what);
}

struct Rig {
    _dir: tempfile::TempDir,
    coordinator: Coordinator,
    kind: LocalSockets,
}

impl Rig {
    async fn start(kind: LocalSockets) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = CoordinatorConfig::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
        Rig {
            coordinator: Coordinator::start(config).await.unwrap(),
            _dir: dir,
            kind,
        }
    }

    fn peer(&self) -> Peer {
        Peer::new(self.coordinator.address().to_string(), self.kind)
    }

    /// A client, and its session.
    async fn session(&self) -> (MetadataFramedClient, Identity) {
        let client = MetadataFramedClient::connect_lazy(self.peer(), LIMIT).unwrap();
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

    /// Sessions that hang on a lifeline, as the coordinator's workers tell it.
    fn held(&self) -> usize {
        let workers = self.coordinator.workers();
        let status = workers.iter().find(|(name, _)| *name == "session-expiry");
        let words: Vec<&str> = status.unwrap().1.split(' ').collect();
        words[2].parse().unwrap()
    }

    async fn until_held(&self, number: usize) {
        until("lifelines", async || self.held() == number).await;
    }
}

async fn is_over(client: &MetadataFramedClient, identity: Identity) -> bool {
    match within(client.getattr(identity, Ino::ROOT)).await {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::SessionFenced);
            true
        }
    }
}

async fn held(client: &MetadataFramedClient, identity: Identity, number: u64) -> Box<dyn Lifeline> {
    let mut line = within(client.lifeline(identity, number)).await.unwrap();
    within(line.hold()).await.unwrap();
    line
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (11 + payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 10]);
    bytes.push(kind);
    bytes.extend_from_slice(payload);
    bytes
}

/// A lifeline of bytes; answers the connection and the kind of the last frame.
async fn by_hand(rig: &Rig, identity: Identity, number: u64, then: &[u8]) -> (Socket, u8) {
    let mut socket = dial(&rig.peer()).await.unwrap();
    socket.write_all(&PREFACE).await.unwrap();
    let mut preface = [0; 8];
    within(socket.read_exact(&mut preface)).await.unwrap();
    assert_eq!(preface, PREFACE);
    let (client_address, server_address) = match &socket {
        Socket::Tcp(stream) => (
            stream.local_addr().unwrap().to_string(),
            stream.peer_addr().unwrap().to_string(),
        ),
        Socket::Unix(_) => Default::default(),
    };
    let request = v1::LifelineRequest {
        identity: Some(identity_to_wire(&identity)),
        number,
        client_address,
        server_address,
    };
    socket
        .write_all(&frame(REQUEST, &request.encode_to_vec()))
        .await
        .unwrap();
    let mut last = next(&mut socket).await;
    if last == REPLY && !then.is_empty() {
        socket.write_all(then).await.unwrap();
        last = next(&mut socket).await;
    }
    (socket, last)
}

async fn next(socket: &mut Socket) -> u8 {
    let mut head = [0; 15];
    within(socket.read_exact(&mut head)).await.unwrap();
    let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let mut payload = vec![0; length - 11];
    within(socket.read_exact(&mut payload)).await.unwrap();
    head[14]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_ends_with_the_connection_of_its_lifeline_and_no_other() {
    for kind in KINDS {
        let rig = Rig::start(kind).await;
        let (client, identity) = rig.session().await;
        let (other, of_other) = rig.session().await;
        let line = held(&client, identity, 1).await;
        let kept = held(&other, of_other, 1).await;
        // A process that dies leaves its calls' connection, too; here it is there to ask.
        drop(line);
        until("end of the session", async || is_over(&client, identity).await).await;
        assert!(!is_over(&other, of_other).await);
        assert_eq!(rig.held(), 1);
        // Closed in order it is over for its lifeline, too, which tells.
        let mut kept = kept;
        within(other.close_session(of_other)).await.unwrap();
        within(kept.broken()).await;
        assert_eq!(rig.held(), 0);
        rig.coordinator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifeline_that_was_replaced_ends_nothing() {
    for kind in KINDS {
        let rig = Rig::start(kind).await;
        let (client, identity) = rig.session().await;
        // Answered and never held: its client gave up.
        let unheld = within(client.lifeline(identity, 9)).await.unwrap();
        let mut first = held(&client, identity, 10).await;
        drop(unheld);
        let late = within(client.lifeline(identity, 11)).await.unwrap();
        let second = held(&client, identity, 12).await;
        // Told to be of no use, and gone.
        within(first.broken()).await;
        drop(first);
        // One whose word to be held arrives behind that of the one after it.
        let mut late = late;
        assert_eq!(within(late.hold()).await.unwrap_err().kind(), ErrorKind::Stale);
        drop(late);
        let stale = within(client.lifeline(identity, 12)).await.err().unwrap();
        assert_eq!(stale.kind(), ErrorKind::Stale);
        assert_eq!(rig.held(), 1);
        assert!(!is_over(&client, identity).await);
        drop(second);
        until("end of the session", async || is_over(&client, identity).await).await;
        rig.coordinator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_other_end_than_an_orderly_one_leaves_the_session_to_its_lease() {
    let rig = Rig::start(LocalSockets::Off).await;
    let (client, identity) = rig.session().await;
    // A reset, as of a machine that was started again.
    let (socket, last) = by_hand(&rig, identity, 1, &frame(PING, b"")).await;
    assert_eq!(last, PONG);
    let Socket::Tcp(stream) = socket else {
        unreachable!("local sockets are off")
    };
    stream.set_zero_linger().unwrap();
    drop(stream);
    rig.until_held(0).await;
    assert!(!is_over(&client, identity).await);
    // Bytes where none are due, and an end.
    let (mut socket, _) = by_hand(&rig, identity, 2, &frame(PING, b"")).await;
    rig.until_held(1).await;
    socket.write_all(b"x").await.unwrap();
    rig.until_held(0).await;
    drop(socket);
    assert!(!is_over(&client, identity).await);
    // Nonsense before it is held.
    let nonsense = [frame(REQUEST, b""), frame(PONG, b""), vec![0; 100]];
    for (number, bytes) in nonsense.into_iter().enumerate() {
        let mut socket = by_hand(&rig, identity, 10 + number as u64, b"").await.0;
        socket.write_all(&bytes).await.unwrap();
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(rig.held(), 0);
    assert!(!is_over(&client, identity).await);
    // A half-closed one is closed.
    let (mut socket, _) = by_hand(&rig, identity, 20, &frame(PING, b"")).await;
    socket.shutdown().await.unwrap();
    until("end of the session", async || is_over(&client, identity).await).await;
    rig.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_hold_and_end_nothing() {
    for kind in KINDS {
        let rig = Rig::start(kind).await;
        let (client, identity) = rig.session().await;
        let _line = held(&client, identity, 1).await;
        let mut wrong = [identity; 3];
        wrong[0].secret.0[0] ^= 1;
        wrong[1].epoch = SessionEpoch(identity.epoch.0 + 1);
        wrong[2].session = SessionId(identity.session.0 + 1);
        for identity in wrong {
            let (socket, last) = by_hand(&rig, identity, 100, &frame(PING, b"")).await;
            assert_eq!(last, ERROR);
            drop(socket);
        }
        assert_eq!(rig.held(), 1);
        assert!(!is_over(&client, identity).await);
        rig.coordinator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_proxy_there_are_none() {
    let rig = Rig::start(LocalSockets::Off).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = rig.coordinator.address();
    let proxy = tokio::spawn(async move {
        loop {
            let mut client = listener.accept().await.unwrap().0;
            let mut server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let (direct, identity) = rig.session().await;
    let peer = Peer::new(address, LocalSockets::Off);
    let client = MetadataFramedClient::connect_lazy(peer, LIMIT).unwrap();
    let refused = within(client.lifeline(identity, 1)).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::NotSupported, "{refused}");
    assert!(!is_over(&direct, identity).await);
    proxy.abort();
    rig.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinator_that_stops_ends_no_session() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let config = CoordinatorConfig::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut rig = Rig {
            coordinator: Coordinator::start(config.clone()).await.unwrap(),
            _dir: tempfile::tempdir().unwrap(),
            kind,
        };
        let address = rig.coordinator.address();
        let (client, identity) = rig.session().await;
        let mut line = held(&client, identity, 5).await;
        rig.coordinator.shutdown().await;
        within(line.broken()).await;
        drop(line);
        rig.coordinator = Coordinator::start(CoordinatorConfig {
            listen: address,
            ..config
        })
        .await
        .unwrap();
        // Not resumed yet: it may be hung up all the same, under any number.
        let line = held(&client, identity, 1).await;
        assert_eq!(rig.held(), 1);
        drop(line);
        until("end of the session", async || {
            let request = OpenSession {
                client_name: "test".to_owned(),
                resume: Some(identity),
                opened: Vec::new(),
                unsynced: None,
                locks: Default::default(),
                leases: false,
            };
            let error = within(client.open_session(request)).await.err();
            error.is_some_and(|error| error.kind() == ErrorKind::SessionFenced)
        })
        .await;
        rig.coordinator.shutdown().await;
    }
}
