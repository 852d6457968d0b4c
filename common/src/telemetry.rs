//! Logging for all binaries: `DFS_LOG` chooses the level (`info` by default, `dfs_client=debug`, ...).

use tracing_subscriber::EnvFilter;

/// Sends logs to standard error. Call once, at the start of `main`; later calls do nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("DFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
