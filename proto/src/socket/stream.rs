//! One connection, over TCP or a Unix socket: what frames and HTTP/2 need of it, and nothing that only one of the two has.

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::server::Connected;

/// What a Unix socket may have under way. The kernel doubles it and lets a writer go on when a quarter is left: with its default
/// (208 KiB) a stream of pieces of 256 KiB stops at each of them (figures in the ADR). `net.core.wmem_max` may make it less.
const SEND_BUFFER_BYTES: usize = 512 << 10;

/// A peer that says nothing for so long is asked by the kernel whether it is there, and again after as long.
const KEEP_ALIVE_SECS: u32 = 5;
/// Questions without an answer after which the connection is broken.
const KEEP_ALIVE_PROBES: u32 = 2;

/// A connection.
#[derive(Debug)]
pub enum Socket {
    /// Over the network, or the loopback device.
    Tcp(TcpStream),
    /// Within this machine.
    Unix(UnixStream),
}

/// The same expression for whichever it is.
macro_rules! each {
    ($socket:expr, $stream:ident => $body:expr) => {
        match $socket {
            Socket::Tcp($stream) => $body,
            Socket::Unix($stream) => $body,
        }
    };
}

impl Socket {
    /// A TCP connection that sends what it is given at once, and ends when its peer's machine is gone while nothing is under way.
    pub(super) fn tcp(stream: TcpStream) -> Self {
        let keep_alive = || {
            setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_SECS)?;
            setsockopt(&stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_SECS)?;
            setsockopt(&stream, sockopt::TcpKeepCount, &KEEP_ALIVE_PROBES)?;
            setsockopt(&stream, sockopt::KeepAlive, &true)
        };
        if let Err(error) = stream.set_nodelay(true).and_then(|()| Ok(keep_alive()?)) {
            tracing::debug!(%error, "a connection is broken already");
        }
        Socket::Tcp(stream)
    }

    /// A Unix connection with room for what streams have under way.
    pub(super) fn unix(stream: UnixStream) -> Self {
        if let Err(error) = setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER_BYTES) {
            tracing::debug!(%error, "a socket keeps its buffer");
        }
        Socket::Unix(stream)
    }

    /// Whether it is a Unix socket.
    pub fn is_local(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    /// Addresses of this end and of the peer, of a TCP connection.
    ///
    /// # Errors
    /// If the connection is broken.
    pub(crate) fn addresses(&self) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        match self {
            Socket::Tcp(stream) => Ok(Some((stream.local_addr()?, stream.peer_addr()?))),
            Socket::Unix(_) => Ok(None),
        }
    }

    /// Lets the peer know at once when this end closes, even if it does not read what is under way; that is lost then.
    pub(crate) fn reset_when_closed(&self) {
        // A Unix socket's peer knows in any case.
        if let Socket::Tcp(stream) = self
            && let Err(error) = stream.set_zero_linger()
        {
            tracing::debug!(%error, "a connection will close slowly");
        }
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        each!(self, stream => stream.readable().await)
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        each!(self, stream => stream.writable().await)
    }

    pub(crate) fn try_read_buf(&self, buffer: &mut bytes::BytesMut) -> io::Result<usize> {
        each!(self, stream => stream.try_read_buf(buffer))
    }

    pub(crate) fn try_read_vectored(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        each!(self, stream => stream.try_read_vectored(slices))
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_write(bytes))
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, stream => stream.try_write_vectored(slices))
    }

    /// Reads without taking away; 0 bytes at the end of the connection. Cancel-safe.
    pub(crate) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.peek(buffer).await,
            Socket::Unix(stream) => {
                let peek = || Ok(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_PEEK)?);
                stream.async_io(Interest::READABLE, peek).await
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, stream => stream.as_fd())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}

impl Connected for Socket {
    /// Nothing: calls are judged by what they carry, wherever they come from.
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
