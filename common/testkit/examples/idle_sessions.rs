//! What idle clients cost the coordinator in memory, each with a connection for calls, a lifeline, a parked call for recalls, and leases.
//!
//! `cargo run -p dfs-testkit --example idle_sessions -- [SESSIONS [INODES]]` (1,000 sessions with leases on 1,000 inodes each unless given),
//! with `DFS_BIN_DIR` where the binaries are. The coordinator is a process, the sessions are all of this one.

use dfs_testkit::idle::{Leased, growth};
use dfs_testkit::process::{ClusterOptions, ProcessCluster};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[tokio::main]
async fn main() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("it may be used");
    let mut numbers = std::env::args()
        .skip(1)
        .map(|text| text.parse::<usize>().expect("a number"));
    let sessions = numbers.next().unwrap_or(1000);
    let inodes = numbers.next().unwrap_or(1000);
    for leased in [Leased::Shared, Leased::Own] {
        let mut cluster = ProcessCluster::start(ClusterOptions::with_datanodes(1));
        let growth = growth(&mut cluster, sessions, inodes, leased).await;
        println!(
            "{sessions} sessions, {inodes} leases each ({leased:?}): {} KiB before, {} KiB after, {:.1} KiB per session",
            growth.before >> 10,
            growth.after >> 10,
            growth.per_session() as f64 / 1024.0
        );
    }
}
