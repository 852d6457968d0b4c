//! Logging for all binaries: `DFS_LOG` chooses the level (`info` by default, and warnings of the metadata store's library; `dfs_client=debug`, ...).

use tracing_subscriber::EnvFilter;

/// What is logged unless `DFS_LOG` says otherwise. Each start of a store tells steps that mean nothing to an administrator.
const DEFAULT: &str = "info,fjall=warn,lsm_tree=warn";

/// Sends logs to standard error. Call once, at the start of `main`; later calls do nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("DFS_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
