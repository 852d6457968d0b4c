//! The reference model against the local file system: what the model promises is what Linux does.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_testkit::compare::{Tolerance, Trial};
use dfs_testkit::generate::Profile;
use dfs_testkit::local::LocalTarget;
use dfs_testkit::model::Rules;
use std::os::unix::fs::PermissionsExt;

/// A local target in a directory of its own, which goes with it.
struct Fresh {
    target: LocalTarget,
    _directory: tempfile::TempDir,
}

impl dfs_testkit::call::Target for Fresh {
    fn name(&self) -> String {
        self.target.name()
    }
    fn call(
        &mut self,
        who: &dfs_common::session::Caller,
        call: &dfs_testkit::call::Call,
    ) -> dfs_testkit::call::Outcome {
        self.target.call(who, call)
    }
}

fn fresh() -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    // Other users must reach the root; nothing above it is touched after this.
    for (path, mode) in [(directory.path(), 0o755), (&root, 0o777)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    Fresh {
        target: LocalTarget::new(root).unwrap(),
        _directory: directory,
    }
}

fn run(profile: Profile, length: usize) {
    let profile = match LocalTarget::can_change_callers() {
        true => profile,
        false => Profile {
            callers: Profile::root_only().callers,
            ..profile
        },
    };
    let (rules, tolerance) = (Rules::of_this_kernel(), Tolerance::default());
    let seeds: Vec<u64> = (1..=60).collect();
    Trial {
        length,
        profile,
        rules,
        tolerance,
    }
    .run(&seeds, fresh);
}

#[test]
fn random_calls_of_all_kinds() {
    run(Profile::full(), 400);
}

#[test]
fn random_reads_writes_and_truncations() {
    run(Profile::files(), 300);
}

#[test]
fn random_names_and_permissions() {
    run(Profile::names(), 500);
}
