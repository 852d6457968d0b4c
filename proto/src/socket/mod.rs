//! The sockets below both transports: TCP, and a Unix socket between processes of one machine, where it costs less
//! (docs/adr/0010-local-sockets.md).
//!
//! A server that listens on `host:port` has an abstract Unix socket beside it, whose name follows from the address
//! ([`Listener`]); whoever connects to the address finds it ([`dial`]). Abstract names are one per network namespace, as ports
//! are, and end with the process. Invariant: which of the two carries a connection changes its cost and nothing else; whatever is
//! wrong with the Unix socket, TCP is used.

mod dial;
mod listener;
mod local;
mod stream;

pub use dial::dial;
pub use listener::Listener;
pub use stream::Socket;

use dfs_common::{ErrorKind, FsError, FsResult};
use std::fmt;
use std::str::FromStr;

/// Whether processes of one machine talk over Unix sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalSockets {
    /// A server offers one beside its port; who connects uses one if there is any.
    #[default]
    On,
    /// TCP only.
    Off,
    /// As `On`, but a server that has none is not reached: for tests.
    Only,
}

impl fmt::Display for LocalSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LocalSockets::On => "on",
            LocalSockets::Off => "off",
            LocalSockets::Only => "only",
        })
    }
}

impl FromStr for LocalSockets {
    type Err = FsError;
    fn from_str(text: &str) -> FsResult<Self> {
        match text {
            "on" => Ok(LocalSockets::On),
            "off" => Ok(LocalSockets::Off),
            other => Err(FsError::new(
                ErrorKind::Invalid,
                format!("local sockets are on or off, not {other:?}"),
            )),
        }
    }
}

/// A server to connect to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `host:port`.
    pub address: String,
    /// Whether a Unix socket may be used.
    pub local_sockets: LocalSockets,
}

impl Peer {
    /// The server at `address` (`host:port`).
    pub fn new(address: impl Into<String>, local_sockets: LocalSockets) -> Self {
        Peer {
            address: address.into(),
            local_sockets,
        }
    }

    /// The error of a server that cannot be reached.
    pub(crate) fn unreachable(&self, why: &str) -> FsError {
        FsError::new(
            ErrorKind::Unavailable,
            format!("{} cannot be reached ({why})", self.address),
        )
    }
}

impl From<&str> for Peer {
    fn from(address: &str) -> Self {
        Peer::new(address, LocalSockets::default())
    }
}

impl From<&String> for Peer {
    fn from(address: &String) -> Self {
        Peer::from(address.as_str())
    }
}
