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
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Calls of each worker.
const CALLS: usize = 150;
/// Workers on each mount.
const WORKERS: usize = 2;
const PLACES: usize = 4;

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

/// The mode of a file is its number: it is there with the name.
fn names_worker(_: usize, dir: PathBuf, worker: usize, mut random: StdRng, log: &mut Log<Names>) {
    let path = |place: usize| {
        dir.join(format!("dir-{}", place % 2))
            .join(format!("name-{}", place / 2))
    };
    let outcome = |result: std::io::Result<()>| match result {
        Ok(()) => Reply::Is(NameReply::Done),
        Err(error) if error.kind() == ErrorKind::NotFound => Reply::Is(NameReply::Missing),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Reply::Is(NameReply::Exists),
        Err(error) => panic!("{error}"),
    };
    for number in 0..CALLS {
        let (place, to) = (random.random_range(0..PLACES), random.random_range(0..PLACES));
        match random.random_range(0..6) {
            0 | 1 => {
                let file = (worker * CALLS + number) as u16 % 511 + 1;
                log.call(0, NameCall::Create { place, file }, || {
                    let mut options = File::options();
                    let options = options.write(true).create_new(true).mode(u32::from(file));
                    outcome(options.open(path(place)).map(drop))
                });
            }
            2 => drop(log.call(0, NameCall::Unlink { place }, || {
                outcome(fs::remove_file(path(place)))
            })),
            3 if place != to => drop(log.call(0, NameCall::Rename { from: place, to }, || {
                outcome(fs::rename(path(place), path(to)))
            })),
            4 => {
                let invoked = log.now();
                let entries = fs::read_dir(path(place).parent().unwrap()).unwrap();
                let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                let listed = names.iter().any(|name| *name == *format!("name-{}", place / 2));
                let reply = Reply::Is(NameReply::Listed(listed));
                log.note(0, NameCall::List { place }, reply, invoked);
            }
            _ => drop(log.call(0, NameCall::Stat { place }, || {
                match fs::symlink_metadata(path(place)) {
                    Ok(found) => Reply::Is(NameReply::File(found.mode() as u16 & 0o777)),
                    Err(error) => outcome(Err(error)),
                }
            })),
        }
    }
}

#[test]
fn names_of_two_mounts_are_linearizable() {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let (_cluster, mounts) = set_up();
    for seed in chosen_seeds(&[1]) {
        for dir in ["dir-0", "dir-1"] {
            let _ = fs::remove_dir_all(mounts[0].path().join(dir));
            fs::create_dir(mounts[0].path().join(dir)).unwrap();
        }
        let history = play(seed, &mounts, names_worker);
        assert_linearizable(seed, &Names { places: PLACES }, history);
    }
}

fn register_worker(mount: usize, dir: PathBuf, worker: usize, mut random: StdRng, log: &mut Log<Register>) {
    let kept = File::options()
        .read(true)
        .write(true)
        .open(dir.join("register"))
        .unwrap();
    for number in 1..=CALLS {
        let object = random.random_range(0..2);
        let fresh = random.random_bool(0.2);
        let opened = || match fresh {
            true => File::options()
                .read(true)
                .write(true)
                .open(dir.join("register"))
                .unwrap(),
            false => kept.try_clone().unwrap(),
        };
        let at = [8, 5000][object];
        if random.random_bool(0.4) {
            let value = (worker * 1000 + number) as u64;
            log.call(object, RegisterCall::Write { mount, value }, || {
                opened().write_all_at(&value.to_le_bytes(), at).unwrap();
                Reply::Is(RegisterReply::Done)
            });
        } else {
            let how = if fresh { "opened for it" } else { "kept open" };
            log.call(object, RegisterCall::Read { mount, how }, || {
                let mut value = [0; 8];
                opened().read_exact_at(&mut value, at).unwrap();
                Reply::Is(RegisterReply::Value(u64::from_le_bytes(value)))
            });
        }
    }
}

/// Without the reads that saw a write of their own mount before it returned: its kernel shows it at once, and others do not see it yet
/// (docs/SEMANTICS.md).
fn without_early_reads(history: Vec<Record<Register>>) -> Vec<Record<Register>> {
    let early = |read: &Record<Register>| {
        let (RegisterCall::Read { mount: of, .. }, Some(RegisterReply::Value(seen))) =
            (&read.call, &read.reply)
        else {
            return false;
        };
        history.iter().any(|write| match &write.call {
            RegisterCall::Write { mount, value } => {
                mount == of && value == seen && write.object == read.object && read.invoked < write.returned
            }
            _ => false,
        })
    };
    let early: Vec<bool> = history.iter().map(early).collect();
    history
        .into_iter()
        .zip(early)
        .filter(|(_, early)| !early)
        .map(|(record, _)| record)
        .collect()
}

#[test]
fn values_in_a_file_that_two_mounts_have_open_are_linearizable() {
    let (_cluster, mounts) = set_up();
    for seed in chosen_seeds(&[1]) {
        fs::write(mounts[0].path().join("register"), [0; 8192]).unwrap();
        let history = play(seed, &mounts, register_worker);
        assert_linearizable(seed, &Register::default(), without_early_reads(history));
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
