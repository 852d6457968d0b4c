//! Quotas of directories on real mounts: EDQUOT where the program can see it, never more than the limit, never a silent loss.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{
    ClusterOptions, Content, Mount, MountOptions, ProcessCluster, attempt, start, until,
};
use nix::libc::{EDQUOT, EXDEV};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

fn set_up(mounts: usize) -> (ProcessCluster, Vec<Mount>) {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let mounts = (0..mounts)
        .map(|_| cluster.mount(MountOptions::default()))
        .collect();
    (cluster, mounts)
}

fn limit(cluster: &ProcessCluster, args: &[&str]) {
    cluster.run_dfs(&[&["admin", "quota", "set"][..], args].concat());
}

/// Allocated bytes below a directory of the cluster, files, directories.
fn du(cluster: &ProcessCluster, path: &str) -> (u64, u64, u64) {
    let text = cluster.run_dfs(&["du", "--json", path]);
    let usage: Value = serde_json::from_str(&text).unwrap();
    let number = |name: &str| usage[name].as_u64().unwrap();
    (number("bytes"), number("files"), number("directories"))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: io::Result<T>, errno: i32) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(errno));
}

/// Pieces of 1 MiB until one fails: their number and the error.
fn fill(file: &mut File) -> (u64, io::Error) {
    for number in 0.. {
        let piece = Content::new(number, 1 << 20).bytes();
        if let Err(error) = file.write_all(&piece) {
            return (number, error);
        }
    }
    unreachable!("a quota has an end")
}

#[test]
fn write_beyond_a_quota_fails_at_once_and_what_was_written_stays() {
    let (cluster, mut mounts) = set_up(1);
    let dir = mounts[0].path().join("q");
    fs::create_dir(&dir).unwrap();
    limit(&cluster, &["/q", "--bytes", "20M"]);
    fs::write(dir.join("before"), vec![7; 100_000]).unwrap();

    let path = dir.join("large");
    let (count, error) = start("writer", {
        let path = path.clone();
        move || {
            let mut file = File::create(&path).unwrap();
            let (count, error) = fill(&mut file);
            file.sync_all().unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&[9; 4096]).unwrap();
            file.sync_all().unwrap();
            (count, error)
        }
    })
    .wait(LIMIT);
    assert_eq!(error.raw_os_error(), Some(EDQUOT), "{error}");
    assert_eq!(count, 19, "whole pieces of 1 MiB beside 100,000 bytes in 20 MiB");
    assert_eq!(du(&cluster, "/q"), (19 * MIB + 100_000, 2, 0));

    let df = nix::sys::statvfs::statvfs(&dir).unwrap();
    let blocks = |count: u64| count * df.fragment_size();
    assert_eq!(blocks(df.blocks()), 20 * MIB);
    assert!(blocks(df.blocks_available()) < MIB);
    let all = nix::sys::statvfs::statvfs(mounts[0].path()).unwrap();
    assert!(
        all.blocks() * all.fragment_size() > 20 * MIB,
        "above the tree there is more"
    );

    // A program tells its user; a file that was open for the attempt is whole, also from the servers.
    let finished = attempt(Command::new("cp").arg(&path).arg(dir.join("copy")), LIMIT);
    assert!(
        !finished.status.success() && finished.stderr.contains("quota exceeded"),
        "{}",
        finished.describe()
    );
    fs::remove_file(dir.join("copy")).unwrap();
    mounts[0].remount();
    let content = fs::read(&path).unwrap();
    assert_eq!(content.len() as u64, 19 * MIB);
    assert!(content[..4096].iter().all(|byte| *byte == 9));
    let last = Content::new(18, 1 << 20).bytes();
    assert!(content[18 * MIB as usize..] == last[..]);

    // Growing without bytes is free, and space that was freed is there again.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    file.set_len(MIB).unwrap();
    assert_eq!(du(&cluster, "/q").0, MIB + 100_000);
    file.write_all_at(&[1; 1 << 20], 5 * MIB).unwrap();
    file.sync_all().unwrap();
    assert_eq!(du(&cluster, "/q").0, 2 * MIB + 100_000);
}

#[test]
fn quota_holds_on_every_mount_when_the_command_that_set_it_returns() {
    let (cluster, mounts) = set_up(2);
    fs::create_dir(mounts[0].path().join("q")).unwrap();
    let open = |mount: &Mount, name: &str| File::create(mount.path().join("q").join(name)).unwrap();
    let mut files = [open(&mounts[0], "first"), open(&mounts[1], "second")];
    let large = vec![5; 4 << 20];
    for round in 0..3 {
        // Each mount has just learnt that nothing is limited, or that there is room for more than will be asked.
        for before in [&[][..], &["--bytes", "1G"]] {
            if !before.is_empty() {
                limit(&cluster, &[&["/q"], before].concat());
            }
            for file in &mut files {
                file.write_all(&[round; 1000]).unwrap();
            }
            limit(&cluster, &["/q", "--bytes", "1M"]);
            for file in &mut files {
                refused(file.write_all(&large), EDQUOT);
                file.write_all(&[round; 1000]).unwrap();
            }
        }
        cluster.run_dfs(&["admin", "quota", "clear", "/q"]);
        for file in &mut files {
            file.write_all(&[round; 1000]).unwrap();
        }
    }
    // What was refused is told nowhere again, and nothing else is lost.
    let mut sum = 0;
    for file in &mut files {
        file.sync_all().unwrap();
        // The kernel writes the rest of a page by itself, and that part of what was refused fits.
        let length = file.metadata().unwrap().len();
        assert!((15_000..50_000).contains(&length), "{length}");
        file.write_all(&large).unwrap();
        file.sync_all().unwrap();
        sum += length + 4 * MIB;
    }
    assert_eq!(du(&cluster, "/q"), (sum, 2, 0));
}

#[test]
fn names_beyond_a_quota_are_refused_and_links_do_not_cross_it() {
    let (cluster, mounts) = set_up(1);
    let root = mounts[0].path();
    let (q, out) = (root.join("q"), root.join("out"));
    for dir in [&q, &out] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(q.join("a"), "a").unwrap();
    fs::create_dir(out.join("tree")).unwrap();
    fs::write(out.join("tree/b"), "b").unwrap();
    limit(&cluster, &["/q", "--inodes", "2"]);

    fs::rename(out.join("tree/b"), q.join("b")).unwrap();
    refused(File::create(q.join("c")), EDQUOT);
    refused(fs::create_dir(q.join("c")), EDQUOT);
    refused(symlink("a", q.join("c")), EDQUOT);
    let fifo = nix::unistd::mkfifo(&q.join("c"), nix::sys::stat::Mode::S_IRWXU);
    assert_eq!(fifo, Err(nix::errno::Errno::EDQUOT));
    refused(fs::rename(out.join("tree"), q.join("tree")), EDQUOT);
    // One for one is no more.
    fs::write(out.join("new"), "new").unwrap();
    fs::rename(out.join("new"), q.join("a")).unwrap();
    fs::hard_link(q.join("a"), q.join("a2")).unwrap();
    refused(fs::hard_link(q.join("a"), out.join("a")), EXDEV);
    refused(fs::rename(q.join("a2"), out.join("a2")), EXDEV);
    let finished = attempt(Command::new("mv").arg(q.join("a2")).arg(&out), LIMIT);
    assert!(finished.status.success(), "mv copies: {}", finished.describe());
    assert_eq!(du(&cluster, "/q"), (4, 2, 0));
    assert_eq!(du(&cluster, "/"), (7, 3, 3));
    cluster.run_dfs(&["admin", "quota", "clear", "/q"]);
    File::create(q.join("c")).unwrap();
}

#[test]
fn guess_that_was_wrong_is_told_by_fsync() {
    let (cluster, mounts) = set_up(2);
    fs::create_dir(mounts[0].path().join("q")).unwrap();
    limit(&cluster, &["/q", "--bytes", "10M"]);
    let open = |mount: &Mount, name: &str| File::create(mount.path().join("q").join(name)).unwrap();
    let (mut first, mut second) = (open(&mounts[0], "first"), open(&mounts[1], "second"));
    // Both fit by what each mount knows; together they do not.
    first.write_all(&[1; 6 << 20]).unwrap();
    let told = second.write_all(&[2; 6 << 20]).and_then(|()| second.sync_all());
    if let Err(error) = told {
        // A machine so slow that the first was saved by itself meanwhile: the second mount knew.
        assert_eq!(error.raw_os_error(), Some(EDQUOT));
        first.sync_all().unwrap();
        assert_eq!(du(&cluster, "/q"), (6 * MIB, 2, 0));
        return;
    }
    refused(first.sync_all(), EDQUOT);
    refused(first.write_all(&[1; 4096]), EDQUOT);
    assert_eq!(du(&cluster, "/q"), (6 * MIB, 2, 0));
    // Nothing is lost as long as the file is open: with room again it is saved.
    fs::remove_file(mounts[1].path().join("q/second")).unwrap();
    drop(second);
    until("room for what was kept", LIMIT, || first.sync_all().ok());
    assert_eq!(
        fs::read(mounts[1].path().join("q/first")).unwrap(),
        vec![1; 6 << 20]
    );
}

/// Files of different sizes until nothing fits any more, some removed again on the way.
fn churn(dir: PathBuf, seed: u64) {
    let mut refusals = 0;
    for number in 0.. {
        let path = dir.join(format!("{seed}-{number}"));
        let length = [100, 5_000, 70_000, 900_000][(number % 4) as usize] + seed as usize;
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![seed as u8; length])?;
            file.sync_all()
        });
        match written {
            Ok(()) if number % 5 == 4 => fs::remove_file(&path).unwrap(),
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EDQUOT), "{error}");
                let _ = fs::remove_file(&path);
                refusals += 1;
            }
        }
        if refusals == 8 {
            return;
        }
    }
}

#[test]
fn two_mounts_together_never_exceed_a_quota() {
    let (cluster, mounts) = set_up(2);
    fs::create_dir(mounts[0].path().join("q")).unwrap();
    fs::create_dir(mounts[0].path().join("q/inner")).unwrap();
    limit(&cluster, &["/q", "--bytes", "8M", "--inodes", "60"]);
    limit(&cluster, &["/q/inner", "--bytes", "3M"]);
    let done = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    let writers: Vec<_> = [("q", 0), ("q", 1), ("q/inner", 0), ("q/inner", 1)]
        .into_iter()
        .enumerate()
        .map(|(seed, (dir, mount)): (usize, (&str, usize))| {
            let dir = mounts[mount].path().join(dir);
            start("writer", move || churn(dir, seed as u64))
        })
        .collect();
    let look = || {
        let (bytes, files, directories) = du(&cluster, "/q");
        assert!(
            bytes <= 8 * MIB && files + directories <= 60,
            "{bytes} {files} {directories}"
        );
        assert!(du(&cluster, "/q/inner").0 <= 3 * MIB);
        looks.fetch_add(1, Ordering::SeqCst);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                look();
            }
        });
        for writer in writers {
            writer.wait(LIMIT);
        }
        done.store(true, Ordering::SeqCst);
    });
    look();
    assert!(looks.load(Ordering::SeqCst) > 1);
    // Exactly what the files say themselves.
    let size = |dir: &Path| -> u64 {
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap());
        entries.filter(|attr| attr.is_file()).map(|attr| attr.len()).sum()
    };
    let inner = size(&mounts[1].path().join("q/inner"));
    assert_eq!(du(&cluster, "/q/inner").0, inner);
    assert_eq!(du(&cluster, "/q").0, inner + size(&mounts[0].path().join("q")));
}
