//! git with a repository and its work tree on the mount.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Place, SourceTree, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const FILES: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(400);

#[test]
fn git_repository_stays_sound_through_commit_clone_gc_and_checkout() {
    let mut place = Place::new(ClusterOptions::default());
    let source = SourceTree::collect(place.scratch("source"), FILES);
    let git = Git {
        home: place.scratch("home"),
    };
    let dir = place.dir().to_owned();
    let repository = dir.join("repository");

    git.run(&dir, &["init", "--quiet", "--initial-branch=main", "repository"]);
    run(
        Command::new("cp")
            .arg("-a")
            .arg(format!("{}/.", source.dir().display()))
            .arg(&repository),
        LIMIT,
    );
    git.run(&repository, &["add", "--all", "--force"]);
    git.run(&repository, &["commit", "--quiet", "-m", "everything"]);
    git.assert_clean(&repository);
    git.assert_sound(&repository);

    // A second commit that touches one file in ten, then back and forth.
    let tracked = git.run(&repository, &["ls-files", "-z"]);
    let changed = tracked.split('\0').filter(|name| !name.is_empty()).step_by(10);
    let changed: Vec<_> = changed
        .map(|name| repository.join(name))
        .filter(|path| is_plain(path))
        .collect();
    assert!(
        changed.len() > FILES / 20,
        "only {} files to change",
        changed.len()
    );
    for path in &changed {
        std::fs::write(path, format!("changed: {}", path.display())).unwrap();
    }
    // This time like a careful user: every object is synced.
    git.run(
        &repository,
        &[
            "-c",
            "core.fsync=committed",
            "commit",
            "--quiet",
            "--all",
            "-m",
            "one in ten",
        ],
    );
    git.run(&repository, &["checkout", "--quiet", "HEAD~1"]);
    run(
        Command::new("diff")
            .args([
                "-r",
                "--no-dereference",
                "--exclude=.git",
                "--exclude=empty directory",
            ])
            .arg(source.dir())
            .arg(&repository),
        LIMIT,
    );
    git.run(&repository, &["checkout", "--quiet", "main"]);
    assert_eq!(
        std::fs::read(&changed[0]).unwrap(),
        format!("changed: {}", changed[0].display()).as_bytes()
    );

    place.cool();
    git.assert_clean(&repository);
    git.assert_sound(&repository);
    // Through the pack protocol, and with hard links between the two object stores.
    git.run(
        &dir,
        &[
            "clone",
            "--quiet",
            &format!("file://{}", repository.display()),
            "packed",
        ],
    );
    git.run(&dir, &["clone", "--quiet", "repository", "linked"]);
    git.run(&repository, &["gc", "--quiet", "--prune=now"]);

    place.cool();
    for name in ["repository", "packed", "linked"] {
        git.assert_clean(&dir.join(name));
        git.assert_sound(&dir.join(name));
    }
    let head = git.run(&repository, &["rev-parse", "HEAD"]);
    for name in ["packed", "linked"] {
        assert_eq!(git.run(&dir.join(name), &["rev-parse", "HEAD"]), head);
    }
}

fn is_plain(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

struct Git {
    home: PathBuf,
}

impl Git {
    #[track_caller]
    fn run(&self, dir: &Path, args: &[&str]) -> String {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &self.home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("XDG_CONFIG_HOME", &self.home);
        let user = [
            "-c",
            "user.name=tester",
            "-c",
            "user.email=tester@localhost",
            "-c",
            "gc.autoDetach=false",
        ];
        run(command.args(user).args(args).current_dir(dir), LIMIT)
    }

    #[track_caller]
    fn assert_clean(&self, repository: &Path) {
        assert_eq!(
            self.run(repository, &["status", "--porcelain"]),
            "",
            "{repository:?} is clean"
        );
    }

    #[track_caller]
    fn assert_sound(&self, repository: &Path) {
        self.run(repository, &["fsck", "--full", "--strict", "--no-progress"]);
    }
}
