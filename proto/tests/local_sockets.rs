//! Who is reached over a Unix socket and who is not: processes of this machine and network namespace, and nobody who has no
//! right to the address.

#![allow(clippy::unwrap_used)] // the whole file is test code

use dfs_proto::socket::{Listener, LocalSockets, Peer, Socket, dial};
use dfs_testkit::process::{User, as_user};
use nix::libc;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net as unix;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(20);
const ALICE: User<'static> = User::plain(12345);
const BOB: User<'static> = User::plain(12346);
/// What an unknown user of another user namespace looks like.
const NOBODY: User<'static> = User::plain(65534);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn listen(address: &str, local_sockets: LocalSockets) -> Listener {
    Listener::bind(address.parse().unwrap(), local_sockets)
        .await
        .unwrap()
}

async fn connect(address: SocketAddr, local_sockets: LocalSockets) -> std::io::Result<Socket> {
    within(dial(&Peer::new(address.to_string(), local_sockets))).await
}

/// Connects to `listener` at `address`, passes bytes both ways, and answers whether it was over a Unix socket.
async fn is_reached_locally(listener: &Listener, address: SocketAddr) -> bool {
    let (socket, accepted) =
        within(async { tokio::join!(connect(address, LocalSockets::On), listener.accept()) }).await;
    let (mut socket, mut accepted) = (socket.unwrap(), accepted.unwrap());
    assert_eq!(socket.is_local(), accepted.is_local(), "one connection");
    let mut bytes = [0; 4];
    socket.write_all(b"ping").await.unwrap();
    within(accepted.read_exact(&mut bytes)).await.unwrap();
    accepted.write_all(&bytes).await.unwrap();
    drop(accepted);
    let mut back = Vec::new();
    within(socket.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"ping");
    socket.is_local()
}

/// `address` with the port of `listener`.
fn at(address: &str, listener: &Listener) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), listener.address().port())
}

/// Takes the name of `address`.
fn take_name(address: impl std::fmt::Display) -> unix::UnixListener {
    let name = unix::SocketAddr::from_abstract_name(format!("dfs/1/{address}")).unwrap();
    unix::UnixListener::bind_addr(&name).unwrap()
}

/// Whether somebody waits to be accepted.
fn has_caller(listener: &unix::UnixListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_ok()
}

#[tokio::test]
async fn server_of_this_machine_is_reached_by_its_unix_socket() {
    let listener = listen("127.0.0.1:0", LocalSockets::On).await;
    assert!(is_reached_locally(&listener, listener.address()).await);
    let everywhere = listen("0.0.0.0:0", LocalSockets::On).await;
    assert!(is_reached_locally(&everywhere, at("127.0.0.1", &everywhere)).await);
    let dual = listen("[::]:0", LocalSockets::On).await;
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert!(is_reached_locally(&dual, at(address, &dual)).await, "{address}");
    }
    if let Some(own) = own_address() {
        let own = own.to_string();
        assert!(
            is_reached_locally(&everywhere, at(&own, &everywhere)).await,
            "{own}"
        );
        assert!(is_reached_locally(&dual, at(&own, &dual)).await, "{own}");
    }
}

/// An address of this machine towards others, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[tokio::test]
async fn server_without_one_and_a_client_that_wants_none_use_tcp() {
    let plain = listen("127.0.0.1:0", LocalSockets::Off).await;
    assert!(!is_reached_locally(&plain, plain.address()).await);
    assert!(connect(plain.address(), LocalSockets::Only).await.is_err());

    let listener = listen("127.0.0.1:0", LocalSockets::On).await;
    let socket = connect(listener.address(), LocalSockets::Off).await.unwrap();
    assert!(!socket.is_local());
    assert!(
        connect(listener.address(), LocalSockets::Only)
            .await
            .unwrap()
            .is_local()
    );

    let address = listener.address();
    drop(listener);
    for way in [LocalSockets::On, LocalSockets::Off, LocalSockets::Only] {
        assert!(connect(address, way).await.is_err(), "nobody listens, {way}");
    }
}

#[tokio::test]
async fn address_of_another_machine_is_not_looked_for_here() {
    // Nobody has TEST-NET-1; whoever took its name here must not be taken for it.
    let squatter = take_name("192.0.2.1:1");
    let everywhere = take_name("0.0.0.0:1");
    let address = "192.0.2.1:1".parse().unwrap();
    assert!(connect(address, LocalSockets::Only).await.is_err());
    assert!(!has_caller(&squatter) && !has_caller(&everywhere));
}

#[tokio::test]
async fn name_taken_by_another_user_is_not_trusted() {
    let listener = listen("127.0.0.1:0", LocalSockets::Off).await;
    let squatter = as_user(BOB, || take_name(listener.address()));
    assert!(!is_reached_locally(&listener, listener.address()).await);
    assert!(has_caller(&squatter), "it was looked at");
    assert!(connect(listener.address(), LocalSockets::Only).await.is_err());

    // Nor while nobody has the port.
    let address = listener.address();
    drop(listener);
    assert!(connect(address, LocalSockets::On).await.is_err());
}

#[tokio::test]
async fn name_taken_by_another_user_costs_the_server_its_unix_socket_only() {
    // A port that was free a moment ago.
    let address = listen("127.0.0.1:0", LocalSockets::Off).await.address();
    let squatter = as_user(BOB, || take_name(address));
    let listener = listen(&address.to_string(), LocalSockets::On).await;
    assert!(!is_reached_locally(&listener, address).await);
    drop(squatter);
}

/// A connection as `user` would make it.
fn dial_as(user: User<'_>, address: SocketAddr) -> bool {
    as_user(user, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { connect(address, LocalSockets::On).await.unwrap().is_local() })
    })
}

/// What `user` listens on.
async fn listen_as(user: User<'_>, address: &str) -> Listener {
    let runtime = tokio::runtime::Handle::current();
    as_user(user, || {
        let _inside = runtime.enter();
        futures::executor::block_on(listen(address, LocalSockets::On))
    })
}

/// Servers run as a user of their own (deploy/), mounts as root.
#[tokio::test]
async fn whoever_has_the_port_may_have_the_name() {
    let of_alice = listen_as(ALICE, "127.0.0.1:0").await;
    assert!(is_reached_locally(&of_alice, of_alice.address()).await);
    let dual = listen_as(ALICE, "[::]:0").await;
    for address in ["127.0.0.1", "::1"] {
        assert!(is_reached_locally(&dual, at(address, &dual)).await, "{address}");
    }
    let of_root = listen("127.0.0.1:0", LocalSockets::On).await;
    assert!(dial_as(ALICE, of_root.address()));
    assert!(dial_as(ALICE, of_alice.address()));
    assert!(dial_as(BOB, of_alice.address()));
}

#[tokio::test]
async fn whoever_has_the_name_alone_is_nobodys_server() {
    let of_root = listen("127.0.0.1:0", LocalSockets::Off).await;
    let _trap = as_user(ALICE, || take_name(of_root.address()));
    assert!(!dial_as(BOB, of_root.address()));
    // One's own user is as good as oneself.
    assert!(dial_as(ALICE, of_root.address()));

    let of_nobody = listen_as(NOBODY, "127.0.0.1:0").await;
    assert!(!dial_as(User::plain(0), of_nobody.address()));
    assert!(!dial_as(NOBODY, of_nobody.address()));
}

#[tokio::test]
async fn name_that_a_predecessor_lets_go_late_is_waited_for() {
    let address = listen("127.0.0.1:0", LocalSockets::Off).await.address();
    let predecessor = take_name(address);
    let bind = Listener::bind(address, LocalSockets::On);
    tokio::pin!(bind);
    assert!(matches!(futures::poll!(&mut bind), Poll::Pending));
    drop(predecessor);
    let listener = within(bind).await.unwrap();
    assert!(is_reached_locally(&listener, address).await);
}

/// Names are one per network namespace, as ports are: the same address elsewhere is another server.
#[tokio::test]
async fn other_network_namespace_is_another_machine() {
    let listener = listen("127.0.0.1:0", LocalSockets::On).await;
    let address = listener.address();
    let elsewhere = std::thread::spawn(move || {
        // SAFETY: a system call with a flag; it moves this thread alone, which ends below.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let why = std::io::Error::last_os_error();
        assert_eq!(moved, 0, "a network namespace of its own needs root: {why}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            assert!(connect(address, LocalSockets::On).await.is_err(), "out of reach");
            raise_loopback();
            assert!(connect(address, LocalSockets::On).await.is_err(), "nobody here");
            let here = listen(&address.to_string(), LocalSockets::Off).await;
            assert!(!is_reached_locally(&here, address).await);
            drop(here);
            let here = listen(&address.to_string(), LocalSockets::On).await;
            assert!(is_reached_locally(&here, address).await, "its own name");
        });
    });
    tokio::task::spawn_blocking(|| elsewhere.join().unwrap())
        .await
        .unwrap();
    // Nobody came out of there.
    assert!(is_reached_locally(&listener, address).await);
}

/// Brings the loopback device of this thread's namespace up.
fn raise_loopback() {
    use std::os::fd::AsRawFd;
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: all zeros are a valid value of a plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is a valid `ifreq` for as long as the call lasts.
    let raised = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    assert_eq!(raised, 0, "{}", std::io::Error::last_os_error());
}
