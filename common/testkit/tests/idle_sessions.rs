//! Idle clients cost the coordinator little, however much they remember. `examples/idle_sessions` measures more of them.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_testkit::idle::{Leased, growth};
use dfs_testkit::process::{ClusterOptions, ProcessCluster};

const SESSIONS: usize = 100;
const INODES: usize = 200;
/// Far above what was measured (ADR 0021). What is the coordinator's own grows beside it.
const BYTES_MAX: u64 = 150 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sessions_cost_little() {
    for leased in [Leased::Shared, Leased::Own] {
        let mut cluster = ProcessCluster::start(ClusterOptions::with_datanodes(1));
        let growth = growth(&mut cluster, SESSIONS, INODES, leased).await;
        eprintln!(
            "{leased:?}: {growth:?}, {} bytes per session",
            growth.per_session()
        );
        assert!(growth.per_session() < BYTES_MAX, "{leased:?}: {growth:?}");
    }
}
