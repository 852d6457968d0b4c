//! Settings of a client: plain values with their defaults; no component lives here.

pub use dfs_proto::Transport;
pub use dfs_proto::socket::LocalSockets;
use std::time::Duration;

/// How a client reaches its cluster and how much memory it may use.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of the coordinator.
    pub coordinator: String,
    /// Host name and program, for administrators; cut to 255 bytes.
    pub client_name: String,
    /// What carries calls to the coordinator, and chunks.
    pub transport: Transport,
    /// Whether servers on this machine are talked to over Unix sockets.
    pub local_sockets: LocalSockets,
    /// Budget of the block cache in bytes.
    pub cache_bytes: u64,
    /// Unsaved bytes of all files together; writers wait above it.
    pub dirty_bytes_max: u64,
    /// Read ahead of one sequential stream in bytes; all streams share one budget of twice this.
    pub read_ahead_bytes: u64,
    /// Patience of [`crate::Client::connect`].
    pub connect_timeout: Duration,
    /// Patience of one operation while servers are away; `None`: for ever, as a mount has it.
    pub call_patience: Option<Duration>,
}

impl ClientConfig {
    /// The defaults, for the coordinator at `host:port`.
    pub fn new(coordinator: impl Into<String>) -> Self {
        ClientConfig {
            coordinator: coordinator.into(),
            client_name: default_client_name(),
            transport: Transport::default(),
            local_sockets: LocalSockets::default(),
            cache_bytes: 256 << 20,
            dirty_bytes_max: 256 << 20,
            read_ahead_bytes: 32 << 20,
            connect_timeout: Duration::from_secs(30),
            call_patience: None,
        }
    }
}

/// `<hostname> <program>`.
fn default_client_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let program = std::env::args_os().next().unwrap_or_default();
    let program = std::path::Path::new(&program)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{} {program}", host.trim()).trim().to_string()
}
