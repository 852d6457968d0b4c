//! A recall storm: many clients read one directory all the time while some of them change it. Nobody stops, nobody starves: neither
//! those who change by those who take leases again and again, nor the other way round.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_client::Client;
use dfs_common::op::RenameMode;
use dfs_common::session::Caller;
use dfs_testkit::cluster::InProcessCluster;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Barrier;

const READERS: usize = 40;
const WRITERS: usize = 10;
const FILES: usize = 20;
/// `DFS_STORM_SECS` makes it longer.
const STORM: Duration = Duration::from_secs(10);
/// Nobody waits for one call for longer; far above what it takes, far below the lease.
const GAP_MAX: Duration = Duration::from_secs(5);
/// The slowest of a kind has at least this part of the mean of its kind.
const FAIR: f64 = 0.1;

/// What one client did.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    calls: u64,
    /// Between two calls that returned.
    longest_gap: Duration,
}

struct Pace {
    done: Done,
    last: Instant,
}

impl Pace {
    fn call_returned(&mut self) {
        self.done.calls += 1;
        self.done.longest_gap = self.done.longest_gap.max(self.last.elapsed());
        self.last = Instant::now();
    }
}

/// Lists the directory, and looks at some names of it.
async fn read(client: Client, pace: &mut Pace) {
    let paths = client.paths(Caller::root());
    let page = paths.list(b"/hot", 0, 100).await.unwrap();
    pace.call_returned();
    for entry in page.entries.iter().take(5) {
        let path = [b"/hot/", entry.name.as_bytes()].concat();
        // It may be gone.
        let _ = paths.stat(&path, false).await;
        pace.call_returned();
    }
}

/// Makes a file, gives it another name and removes it.
async fn write(client: Client, who: usize, pace: &mut Pace) {
    let paths = client.paths(Caller::root());
    let (new, old) = (format!("/hot/new-{who}"), format!("/hot/old-{who}"));
    let file = paths.writer(new.as_bytes(), 0o644, false).await.unwrap();
    pace.call_returned();
    file.finish().await.unwrap();
    let replace = RenameMode::Replace;
    paths
        .rename(new.as_bytes(), old.as_bytes(), replace)
        .await
        .unwrap();
    pace.call_returned();
    paths.remove(old.as_bytes()).await.unwrap();
    pace.call_returned();
}

fn judge(what: &str, storm: Duration, done: &[Done]) {
    let calls: Vec<u64> = done.iter().map(|done| done.calls).collect();
    let mean = calls.iter().sum::<u64>() as f64 / done.len() as f64;
    let slowest = *calls.iter().min().unwrap() as f64;
    let gap = done.iter().map(|done| done.longest_gap).max().unwrap();
    eprintln!(
        "{} {what}: {:.0} calls/s together, {:.1} each; the slowest {:.2} of the mean; longest wait {gap:?}",
        done.len(),
        mean * done.len() as f64 / storm.as_secs_f64(),
        mean / storm.as_secs_f64(),
        slowest / mean
    );
    assert!(gap < GAP_MAX, "one of the {what} waited for {gap:?}");
    assert!(slowest >= mean * FAIR, "{what} share unfairly: {calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_directory_is_read_and_changed_by_many_and_nobody_starves() {
    let secs = std::env::var("DFS_STORM_SECS").ok();
    let storm = secs.map_or(STORM, |secs| Duration::from_secs(secs.parse().unwrap()));
    let cluster = InProcessCluster::start(1).await;
    let first = cluster.client().await;
    let paths = first.paths(Caller::root());
    paths.mkdir(b"/hot", 0o755, false).await.unwrap();
    for number in 0..FILES {
        let path = format!("/hot/file-{number}");
        paths.mkdir(path.as_bytes(), 0o755, false).await.unwrap();
    }
    let over = Arc::new(AtomicBool::new(false));
    let together = Arc::new(Barrier::new(READERS + WRITERS + 1));
    let mut tasks = Vec::new();
    for who in 0..READERS + WRITERS {
        let (over, together, client) = (over.clone(), together.clone(), cluster.client().await);
        tasks.push(tokio::spawn(async move {
            together.wait().await;
            let mut pace = Pace {
                done: Done::default(),
                last: Instant::now(),
            };
            while !over.load(Ordering::Relaxed) {
                match who < READERS {
                    true => read(client.clone(), &mut pace).await,
                    false => write(client.clone(), who, &mut pace).await,
                }
            }
            pace.done.longest_gap = pace.done.longest_gap.max(pace.last.elapsed());
            client.shutdown(GAP_MAX).await.unwrap();
            pace.done
        }));
    }
    together.wait().await;
    tokio::time::sleep(storm).await;
    over.store(true, Ordering::Relaxed);
    let mut done = Vec::new();
    for task in tasks {
        // A deadlock shows here.
        let one = tokio::time::timeout(GAP_MAX * 4, task).await;
        done.push(one.expect("every client comes to its end").unwrap());
    }
    judge("readers", storm, &done[..READERS]);
    judge("writers", storm, &done[READERS..]);
    let left = paths.list(b"/hot", 0, 100).await.unwrap();
    assert_eq!(left.entries.len(), FILES);
}
