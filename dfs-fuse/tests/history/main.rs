//! Several mounts of one cluster at the same time: what all of them saw is a history that one machine could have.
//!
//! `DFS_SEED` sets the random choices; a failure prints it with the counterexample.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::compare::chosen_seeds;
use dfs_testkit::history::*;
use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, start};
use nix::errno::Errno;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Calls of each worker.
const CALLS: usize = 150;
/// Workers on each mount.
const WORKERS: usize = 2;

fn set_up() -> (ProcessCluster, Vec<Mount>) {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(1));
    let mounts = (0..2).map(|_| cluster.mount(MountOptions::default())).collect();
    (cluster, mounts)
}

/// Runs `work` for each worker of each mount at once; it is told the mount's number and directory, and its own number.
fn play<M: Model + 'static>(
    seed: u64,
    mounts: &[Mount],
    work: fn(usize, PathBuf, usize, StdRng, &mut Log<M>),
) -> Vec<Record<M>>
where
    M::Call: Send,
    M::Reply: Send,
{
    let begin = Instant::now();
    let workers = (0..mounts.len() * WORKERS).map(|worker| {
        let mount = worker % mounts.len();
        let dir = mounts[mount].path().to_owned();
        start("a worker", move || {
            let mut log = Log::new(format!("mount-{mount}/{worker}"), begin);
            let random = StdRng::seed_from_u64(seed ^ (worker as u64) << 32);
            work(mount, dir, worker, random, &mut log);
            log
        })
    });
    let workers: Vec<_> = workers.collect();
    gather(workers.into_iter().map(|worker| worker.wait(LIMIT)))
}

fn assert_linearizable<M: Model>(seed: u64, model: &M, history: Vec<Record<M>>) {
    for (object, records) in by_object(history) {
        if let Err(violation) = check(model, &records) {
            panic!("DFS_SEED={seed}, object {object}: {violation}");
        }
    }
}

fn append_worker(_: usize, dir: PathBuf, worker: usize, mut random: StdRng, log: &mut Log<Appends>) {
    let path = dir.join("appended");
    let file = File::options().read(true).append(true).open(&path).unwrap();
    for number in 0..CALLS as u32 / 3 {
        if random.random_bool(0.5) {
            let length = [1, 16, 100, 4096, 70_001, 1 << 20][random.random_range(0..6)];
            let number = if length == 1 { 0 } else { number };
            let record = RecordText {
                writer: worker as u8,
                number,
                length,
            };
            let bytes = record.bytes();
            log.call(0, AppendCall::Append { record, at: None }, || {
                let written = nix::unistd::write(&file, &bytes);
                assert_eq!(written, Ok::<_, Errno>(length));
                Reply::Is(AppendReply::Done)
            });
        } else {
            log.call(0, AppendCall::Size { how: "stat" }, || {
                Reply::Is(AppendReply::Bytes(fs::metadata(&path).unwrap().len()))
            });
        }
    }
}

#[test]
fn appends_of_two_mounts_are_whole_and_in_order() {
    let (_cluster, mounts) = set_up();
    for seed in chosen_seeds(&[1]) {
        let path = mounts[0].path().join("appended");
        fs::write(&path, "").unwrap();
        let mut history = play(seed, &mounts, append_worker);
        let placed = AppendedFile::new(&fs::read(&path).unwrap()).and_then(|file| file.place(&mut history));
        placed.unwrap_or_else(|wrong| panic!("DFS_SEED={seed}: {wrong}"));
        assert_linearizable(seed, &Appends, history);
    }
}
