//! Which transport carries metadata calls and chunks.

use crate::framed::MetadataFramedClient;
use crate::grpc::MetadataGrpcClient;
use crate::socket::Peer;
use dfs_common::service::MetadataService;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A choice of transport. Every server serves both on one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Frames: a third of gRPC's latency, and less processor time for content.
    #[default]
    Framed,
    /// gRPC, the reference: for proxies and tools that know HTTP/2.
    Grpc,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Framed => "framed",
            Transport::Grpc => "grpc",
        })
    }
}

impl FromStr for Transport {
    type Err = FsError;
    fn from_str(text: &str) -> FsResult<Self> {
        match text {
            "framed" => Ok(Transport::Framed),
            "grpc" => Ok(Transport::Grpc),
            other => Err(FsError::new(
                ErrorKind::Invalid,
                format!("unknown transport {other:?}: use framed or grpc"),
            )),
        }
    }
}

/// The metadata service of the coordinator at `peer` (by default, a `host:port`), which connects at the first call and
/// again after a failure. A call is given up after `deadline`.
///
/// # Errors
/// `Invalid` if its address is not `host:port`, or outside a tokio runtime.
pub fn connect_metadata(
    transport: Transport,
    peer: impl Into<Peer>,
    deadline: Duration,
) -> FsResult<Arc<dyn MetadataService>> {
    Ok(match transport {
        Transport::Framed => Arc::new(MetadataFramedClient::connect_lazy(peer, deadline)?),
        Transport::Grpc => Arc::new(MetadataGrpcClient::connect_lazy(peer, deadline)?),
    })
}
