//! Connects to a server: over its Unix socket if it is a process of this machine, over TCP otherwise.

use super::local::{is_local, is_trusted, names};
use super::{LocalSockets, Peer, Socket};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout};

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// A name's addresses above this number are not tried.
const ADDRESSES_MAX: usize = 16;

/// Connects to `peer`, trying the addresses of its name one after the other; each has its share of 3 s.
///
/// # Errors
/// Why the last address could not be reached, `TimedOut` after 3 s.
pub async fn dial(peer: &Peer) -> io::Result<Socket> {
    timeout(CONNECT_DEADLINE, dial_name(peer))
        .await
        .unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer")
}

async fn dial_name(peer: &Peer) -> io::Result<Socket> {
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let addresses = lookup_host(peer.address.as_str()).await?;
    let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (tried, &address) in addresses.iter().enumerate() {
        let share = (deadline - Instant::now()) / (addresses.len() - tried) as u32;
        match timeout(share, dial_address(address, peer.local_sockets)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = no_answer(),
        }
    }
    Err(last)
}

async fn dial_address(address: SocketAddr, local_sockets: LocalSockets) -> io::Result<Socket> {
    if local_sockets != LocalSockets::Off
        && let Some(socket) = dial_local(address).await
    {
        return Ok(socket);
    }
    if local_sockets == LocalSockets::Only {
        let text = format!("{address} has no local socket");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    TcpStream::connect(address).await.map(Socket::tcp)
}

/// The Unix socket of the server at `address`; `None` if there is none, or none to rely on.
async fn dial_local(address: SocketAddr) -> Option<Socket> {
    if !is_local(address) {
        return None;
    }
    for name in names(address) {
        // Refused if nobody has the name. Any other failure (many who wait, a policy of the machine) is no reason to
        // give up either: TCP may do better.
        if let Ok(stream) = UnixStream::connect(&name).await
            && is_trusted(&stream, address)
        {
            tracing::debug!(%address, "connected by a local socket");
            return Some(Socket::unix(stream));
        }
    }
    None
}
