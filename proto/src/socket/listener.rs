//! A server's port: a TCP socket, and beside it a Unix socket that processes of this machine find by the address.

use super::local::name;
use super::{LocalSockets, Socket};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::Stream;
use nix::sys::socket::{getsockopt, sockopt};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::time::Instant;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// A predecessor that was killed lets go of its port and of its name at nearly the same time.
const NAME_PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to get the name.
const NAME_POLL: Duration = Duration::from_millis(5);

/// Accepts connections of both kinds, in turns if both come.
pub struct Listener {
    // Before the port: who can take the port over can take the name over.
    local: Option<UnixListener>,
    tcp: TcpListener,
    address: SocketAddr,
    tcp_first: AtomicBool,
}

impl Listener {
    /// Listens at `address` (port 0 takes a free one), and on the Unix socket of the bound address unless those are off. A
    /// name that somebody else has costs a warning, not the server.
    ///
    /// # Errors
    /// `Busy` if the port is in use, `Invalid` if the address is not of this machine, with what to do.
    pub async fn bind(address: SocketAddr, local_sockets: LocalSockets) -> FsResult<Self> {
        Self::open(address, local_sockets)
            .await
            .map_err(|error| explain(error, address))
    }

    async fn open(address: SocketAddr, local_sockets: LocalSockets) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let bound = socket.local_addr()?;
        let local = match local_sockets {
            LocalSockets::Off => None,
            LocalSockets::On | LocalSockets::Only => {
                let only_v6 = bound.is_ipv6() && getsockopt(&socket, sockopt::Ipv6V6Only)?;
                offer(&name(bound, only_v6), bound).await
            }
        };
        Ok(Listener {
            local,
            // Last: whoever finds the port open finds the name, too.
            tcp: socket.listen(BACKLOG)?,
            address: bound,
            tcp_first: AtomicBool::new(false),
        })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Cancel-safe; one caller at a time.
    ///
    /// # Errors
    /// Those of accept(2): the next attempt may succeed.
    pub async fn accept(&self) -> io::Result<Socket> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        let tcp_first = self.tcp_first.fetch_xor(true, Ordering::Relaxed);
        for tcp in [tcp_first, !tcp_first] {
            let polled = match (&self.local, tcp) {
                (_, true) => self
                    .tcp
                    .poll_accept(context)
                    .map_ok(|(stream, _)| Socket::tcp(stream)),
                (Some(local), false) => local
                    .poll_accept(context)
                    .map_ok(|(stream, _)| Socket::unix(stream)),
                (None, false) => Poll::Pending,
            };
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }
}

/// Every connection, as tonic wants them.
impl Stream for Listener {
    type Item = io::Result<Socket>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(context).map(Some)
    }
}

/// The Unix socket of that name, if it can be had.
async fn offer(name: &str, address: SocketAddr) -> Option<UnixListener> {
    let deadline = Instant::now() + NAME_PATIENCE;
    loop {
        match UnixListener::bind(name) {
            Ok(listener) => return Some(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(NAME_POLL).await;
            }
            Err(error) => {
                tracing::warn!(%address, %error, "no local socket: processes of this machine use TCP, too");
                return None;
            }
        }
    }
}

fn explain(error: io::Error, address: SocketAddr) -> FsError {
    match error.kind() {
        io::ErrorKind::AddrInUse => FsError::new(
            ErrorKind::Busy,
            format!(
                "{address} is in use: stop the program that has it, or choose another port with --listen"
            ),
        ),
        io::ErrorKind::AddrNotAvailable => FsError::new(
            ErrorKind::Invalid,
            format!("{address} is not an address of this machine: choose another one with --listen"),
        ),
        _ => FsError::from(error).context(format_args!("listening on {address}")),
    }
}
