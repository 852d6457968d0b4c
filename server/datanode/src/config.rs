//! Settings of a datanode: what an administrator chooses, and the times and sizes that only tests change.

use dfs_common::limits::{
    DATANODE_RESERVE_BYTES_MAX, DATANODE_WRITES_MAX, FORWARD_REPLY, FORWARD_STALL, HEARTBEAT,
};
use dfs_proto::socket::LocalSockets;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a datanode.
#[derive(Clone, Debug)]
pub struct DatanodeConfig {
    /// Its data directory; made if missing.
    pub data_dir: PathBuf,
    /// Address of the chunk service; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether it offers and uses Unix sockets within this machine.
    pub local_sockets: LocalSockets,
    /// `host:port` that clients and other datanodes use; the bound address if absent.
    pub advertise: Option<String>,
    /// `host:port` of the coordinator.
    pub coordinator: String,
}

/// Times and sizes that nobody but a test changes.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Deadline of a call to the coordinator.
    pub call_deadline: Duration,
    /// First and last pause between two attempts to register.
    pub register_pause: (Duration, Duration),
    /// A replica that takes no piece for so long has failed.
    pub forward_stall: Duration,
    /// A replica that gives no receipt for so long after this node's own has failed.
    pub forward_reply: Duration,
    /// How long a write waits to learn of a replica's address that the known cluster state does not have.
    pub peer_wait: Duration,
    /// Concurrent chunk writes.
    pub writes_max: usize,
    /// Space that chunks do not get: a hundredth of the disk, at most so many bytes.
    pub reserve_bytes_max: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            heartbeat: HEARTBEAT,
            call_deadline: Duration::from_secs(5),
            register_pause: (Duration::from_millis(50), Duration::from_secs(2)),
            forward_stall: FORWARD_STALL,
            forward_reply: FORWARD_REPLY,
            peer_wait: Duration::from_secs(2),
            writes_max: DATANODE_WRITES_MAX,
            reserve_bytes_max: DATANODE_RESERVE_BYTES_MAX,
        }
    }
}
