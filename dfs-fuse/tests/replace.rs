//! A name that many rename over all the time while many open it, through two mounts: every open finds the old or the new
//! file, whole, never neither.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Content, MountOptions, Place, start};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Those that rename, half of them on each mount.
const RENAMERS: u64 = 6;
/// Those that open, half of them on each mount.
const READERS: u64 = 8;
/// Opens of each reader, at least.
const OPENS: u64 = 1_500;
/// Files renamed over the name meanwhile, at least.
const RENAMES: u64 = 500;
/// All of it, and the going of what was replaced.
const LIMIT: Duration = Duration::from_secs(300);
/// A length that stays in the coordinator, and one that goes to the datanodes.
const LENGTHS: [usize; 2] = [3_000, 90_000];

/// What file `number` holds: its number, and bytes that follow from it.
fn content(number: u64) -> Vec<u8> {
    let length = LENGTHS[usize::from(number.is_multiple_of(8))];
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(Content::new(number, length).bytes());
    bytes
}

#[track_caller]
fn assert_whole(found: &[u8]) {
    let number = u64::from_le_bytes(found[..8].try_into().unwrap());
    assert!(
        found == content(number),
        "version {number}, {} bytes",
        found.len()
    );
}

/// What all of them did.
#[derive(Default)]
struct Progress {
    opens: AtomicU64,
    renames: AtomicU64,
    over: AtomicBool,
}

/// Puts new files and links over "file" and "link" until it is over.
fn rename_over(dir: &Path, who: u64, progress: &Progress) {
    let (new, new_link) = (
        dir.join(format!("new-{who}")),
        dir.join(format!("new-link-{who}")),
    );
    for round in 1.. {
        if progress.over.load(Ordering::Relaxed) {
            return;
        }
        let number = who << 32 | round;
        fs::write(&new, content(number)).unwrap();
        fs::rename(&new, dir.join("file")).unwrap();
        symlink(format!("target-{number}"), &new_link).unwrap();
        fs::rename(&new_link, dir.join("link")).unwrap();
        progress.renames.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens "file" over and over; some are kept open while others come and go. Every call must succeed.
fn open_and_read(dir: &Path, progress: &Progress) {
    let path = dir.join("file");
    let mut kept: Option<File> = None;
    for number in 0.. {
        if number >= OPENS && progress.renames.load(Ordering::Relaxed) >= RENAMES {
            return;
        }
        let mut file = File::open(&path).unwrap_or_else(|error| panic!("open {number}: {error}"));
        let mut found = Vec::new();
        match number % 4 {
            // What was opened before is what it was, replaced or not.
            0 => kept = Some(file),
            1 if kept.is_some() => {
                kept.take().unwrap().read_to_end(&mut found).unwrap();
                assert_whole(&found);
            }
            2 => {
                let length = file.metadata().unwrap().len();
                file.read_to_end(&mut found).unwrap();
                assert_eq!(found.len() as u64, length);
                assert_whole(&found);
            }
            _ => {
                file.read_to_end(&mut found).unwrap();
                assert_whole(&found);
                let seen = fs::metadata(&path).unwrap_or_else(|error| panic!("stat {number}: {error}"));
                assert!(LENGTHS.contains(&(seen.size() as usize - 8)));
                let target =
                    fs::read_link(dir.join("link")).unwrap_or_else(|error| panic!("link {number}: {error}"));
                assert!(target.to_str().unwrap().starts_with("target-"));
            }
        }
        progress.opens.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn name_that_is_renamed_over_all_the_time_is_always_openable() {
    let mut place = Place::new(ClusterOptions::with_datanodes(3));
    let second = place
        .cluster()
        .map(|cluster| cluster.mount(MountOptions::default()));
    let first = place.dir().to_owned();
    let dirs: [PathBuf; 2] = [
        first.clone(),
        second.as_ref().map_or(first, |mount| mount.path().to_owned()),
    ];
    fs::write(dirs[0].join("file"), content(0)).unwrap();
    symlink("target-0", dirs[0].join("link")).unwrap();
    let inodes_before = place.cluster().map(|cluster| cluster.status()["inodes"].clone());

    let progress = Arc::new(Progress::default());
    let start_one = |what: &str, who: u64, work: fn(&Path, u64, &Progress)| {
        let (dir, progress) = (dirs[(who % 2) as usize].clone(), progress.clone());
        start(what, move || work(&dir, who, &progress))
    };
    let renamers: Vec<_> = (1..=RENAMERS)
        .map(|who| start_one("renaming over", who, rename_over))
        .collect();
    let readers: Vec<_> = (1..=READERS)
        .map(|who| start_one("opening", who, |dir, _, progress| open_and_read(dir, progress)))
        .collect();
    // All of them to their end, then the first failure.
    let outcomes: Vec<_> = readers
        .into_iter()
        .map(|reader| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reader.wait(LIMIT))))
        .collect();
    progress.over.store(true, Ordering::Relaxed);
    for renamer in renamers {
        renamer.wait(LIMIT);
    }
    let (opens, renames) = (&progress.opens, &progress.renames);
    println!(
        "{} opens, {} renames over",
        opens.load(Ordering::Relaxed),
        renames.load(Ordering::Relaxed)
    );
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(failed, 0, "readers that failed");

    // Nothing of what was replaced stays.
    if let (Some(cluster), Some(before)) = (place.cluster(), inodes_before) {
        cluster.wait_status("replaced inodes go", |status| status["inodes"] == before);
    }
}
