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
/// Opens of each reader.
const OPENS: u64 = 1_500;
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

/// Puts new files and links over "file" and "link" until `over`; answers how many of each.
fn rename_over(dir: &Path, who: u64, over: &AtomicBool) -> u64 {
    let (new, new_link) = (
        dir.join(format!("new-{who}")),
        dir.join(format!("new-link-{who}")),
    );
    let mut renamed = 0;
    while !over.load(Ordering::Relaxed) {
        renamed += 1;
        let number = who << 32 | renamed;
        fs::write(&new, content(number)).unwrap();
        fs::rename(&new, dir.join("file")).unwrap();
        symlink(format!("target-{number}"), &new_link).unwrap();
        fs::rename(&new_link, dir.join("link")).unwrap();
    }
    renamed
}

/// Opens "file" over and over; some are kept open while others come and go. Every call must succeed.
fn open_and_read(dir: &Path, opens: &AtomicU64) {
    let path = dir.join("file");
    let mut kept: Option<File> = None;
    for number in 0..OPENS {
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
        opens.fetch_add(1, Ordering::Relaxed);
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

    let (over, opens) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let dir_of = |who: u64| dirs[(who % 2) as usize].clone();
    let renamers: Vec<_> = (1..=RENAMERS)
        .map(|who| {
            let (dir, over) = (dir_of(who), over.clone());
            start("renaming over", move || rename_over(&dir, who, &over))
        })
        .collect();
    let readers: Vec<_> = (0..READERS)
        .map(|who| {
            let (dir, opens) = (dir_of(who), opens.clone());
            start("opening", move || open_and_read(&dir, &opens))
        })
        .collect();
    // All of them to their end, then the first failure.
    let outcomes: Vec<_> = readers
        .into_iter()
        .map(|reader| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reader.wait(LIMIT))))
        .collect();
    over.store(true, Ordering::Relaxed);
    let renamed: u64 = renamers.into_iter().map(|renamer| renamer.wait(LIMIT)).sum();
    println!("{} opens, {renamed} renames over", opens.load(Ordering::Relaxed));
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(failed, 0, "readers that failed");
    assert!(
        renamed > READERS * OPENS / 100,
        "too few renames to prove anything"
    );

    // Nothing of what was replaced stays.
    if let (Some(cluster), Some(before)) = (place.cluster(), inodes_before) {
        cluster.wait_status("replaced inodes go", |status| status["inodes"] == before);
    }
}
