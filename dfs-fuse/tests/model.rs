//! Random sequences of calls by several users on the mount agree with the reference model, call by call and as a whole.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there; `DFS_SEED` runs one sequence alone.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_common::session::Caller;
use dfs_testkit::call::{Call, Outcome, Target};
use dfs_testkit::compare::{Tolerance, Trial, chosen_seeds, compare};
use dfs_testkit::generate::{Profile, sequence};
use dfs_testkit::local::LocalTarget;
use dfs_testkit::model::Rules;
use dfs_testkit::process::{ClusterOptions, Place};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sequences of each kind, beside a random one.
const SEEDS: std::ops::Range<u64> = 1_000..1_008;

/// A new directory on the mount; removed with what a sequence left in it.
struct Fresh {
    // Before the directory goes: it has files open.
    target: Option<LocalTarget>,
    dir: PathBuf,
}

impl Fresh {
    fn new(place: &Path, number: &mut u32) -> Self {
        *number += 1;
        let dir = place.join(format!("sequence-{number}"));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        Fresh {
            target: Some(LocalTarget::new(&dir).unwrap()),
            dir,
        }
    }
}

impl Target for Fresh {
    fn name(&self) -> String {
        format!("mount at {}", self.dir.display())
    }

    fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
        self.target.as_mut().expect("until drop").call(who, call)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.target = None;
        let _ = Command::new("rm").arg("-rf").arg(&self.dir).status();
    }
}

fn agree(profile: Profile, length: usize) {
    let place = Place::new(ClusterOptions::default());
    let local = matches!(place, Place::Local { .. });
    let rules = Rules {
        access_time_on_read: local,
        writes_keep_plain_set_group_id: !local,
        ..Rules::of_this_kernel()
    };
    let tolerance = Tolerance { saves_later: !local };
    let seeds: Vec<u64> = SEEDS.collect();
    let mut number = 0;
    Trial {
        length,
        profile,
        rules,
        tolerance,
    }
    .run(&seeds, || Fresh::new(place.dir(), &mut number));
}

#[test]
fn calls_of_all_kinds() {
    agree(Profile::full(), 250);
}

#[test]
fn reads_writes_and_truncations() {
    agree(Profile::files(), 250);
}

#[test]
fn names_and_permissions() {
    agree(Profile::names(), 300);
}

/// What a sequence left is the same when it comes from the servers: sizes and content of every file, by digest.
#[test]
fn content_is_the_same_after_a_remount() {
    let mut place = Place::new(ClusterOptions::default());
    let mut number = 0;
    let mut kept = Vec::new();
    for seed in chosen_seeds(&[1, 2, 3]) {
        let local = matches!(place, Place::Local { .. });
        let rules = Rules {
            access_time_on_read: local,
            writes_keep_plain_set_group_id: !local,
            ..Rules::of_this_kernel()
        };
        let steps = sequence(seed, 300, &Profile::files(), rules);
        let mut fresh = Fresh::new(place.dir(), &mut number);
        let tolerance = Tolerance { saves_later: true };
        if let Err(mismatch) = compare(rules, &mut fresh, &steps, tolerance) {
            panic!("DFS_SEED={seed}: after call {}: {}", mismatch.at, mismatch.what);
        }
        fresh.target = None;
        kept.push((fresh.dir.clone(), digests(&fresh.dir)));
        std::mem::forget(fresh);
    }
    place.cool();
    for (dir, before) in kept {
        assert_eq!(digests(&dir), before, "{}", dir.display());
    }
}

/// Path, size and digest of every file below.
fn digests(dir: &Path) -> String {
    let script =
        "find . -type f -printf '%p %s\\n' | sort && find . -type f -print0 | sort -z | xargs -0r sha256sum";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
