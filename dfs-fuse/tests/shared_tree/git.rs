//! Two people push to and fetch from one repository while a third one has its garbage collected.

use super::*;
use dfs_testkit::process::{Finished, attempt, start};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const COMMITS: usize = 5;
/// A push that comes second is told to fetch first; so many times in a row it is not.
const PUSHES_MAX: usize = 60;

#[test]
fn pushes_and_fetches_of_two_mounts_and_garbage_collection_lose_nothing() {
    let (_cluster, mounts) = set_up();
    let base = mounts[0].path();
    let home = tempfile::tempdir().unwrap();
    let git = Arc::new(Git(home.path().to_owned()));
    git.run(
        base,
        &["init", "--quiet", "--bare", "--initial-branch=main", "shared.git"],
    );
    git.run(base, &["clone", "--quiet", "shared.git", "clone-0"]);
    commit(&git, &base.join("clone-0"), "first");
    git.run(&base.join("clone-0"), &["push", "--quiet", "origin", "HEAD:main"]);
    git.run(mounts[1].path(), &["clone", "--quiet", "shared.git", "clone-1"]);

    let done = Arc::new(AtomicBool::new(false));
    let collecting = {
        let (git, done, shared) = (git.clone(), done.clone(), mounts[1].path().join("shared.git"));
        start("git gc", move || {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) {
                git.run(&shared, &["gc", "--quiet", "--prune=2.weeks.ago"]);
                rounds += 1;
            }
            rounds
        })
    };
    let working: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(who, mount)| {
            let (git, clone) = (git.clone(), mount.path().join(format!("clone-{who}")));
            start("a clone", move || {
                for number in 0..COMMITS {
                    commit(&git, &clone, &format!("file-{who}-{number}"));
                    push(&git, &clone);
                }
            })
        })
        .collect();
    working.into_iter().for_each(|working| working.wait(LIMIT));
    done.store(true, Ordering::SeqCst);
    assert!(collecting.wait(LIMIT) > 0);

    for mount in &mounts {
        let shared = mount.path().join("shared.git");
        git.run(&shared, &["fsck", "--full", "--strict", "--no-progress"]);
        let files = git.run(&shared, &["ls-tree", "--name-only", "main"]);
        assert_eq!(files.lines().count(), 2 * COMMITS + 1, "{files}");
        let commits = git.run(&shared, &["rev-list", "--count", "--no-merges", "main"]);
        assert_eq!(commits.trim(), (2 * COMMITS + 1).to_string());
    }
    // Each sees the other's work tree as well.
    for (mount, other) in [(&mounts[0], "clone-1"), (&mounts[1], "clone-0")] {
        let clone = mount.path().join(other);
        git.run(&clone, &["pull", "--quiet", "--rebase", "origin", "main"]);
        assert_eq!(git.run(&clone, &["status", "--porcelain"]), "");
        git.run(&clone, &["fsck", "--full", "--strict", "--no-progress"]);
    }
}

fn commit(git: &Git, clone: &Path, name: &str) {
    fs::write(clone.join(name), format!("content of {name}\n").repeat(50)).unwrap();
    git.run(clone, &["add", name]);
    git.run(clone, &["commit", "--quiet", "-m", name]);
}

fn push(git: &Git, clone: &Path) {
    for _ in 0..PUSHES_MAX {
        git.run(clone, &["pull", "--quiet", "--rebase", "origin", "main"]);
        let pushed = git.attempt(clone, &["push", "--quiet", "origin", "HEAD:main"]);
        if pushed.status.success() {
            return;
        }
        // The other one was quicker: every other failure is one.
        let quicker = [
            "rejected",
            "failed to update ref",
            "cannot lock ref",
            "fetch first",
        ];
        let text = pushed.describe();
        assert!(quicker.iter().any(|known| text.contains(known)), "{text}");
    }
    panic!("{} was never the first", clone.display());
}

struct Git(PathBuf);

impl Git {
    fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &self.0)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("XDG_CONFIG_HOME", &self.0)
            .args(["-c", "user.name=tester", "-c", "user.email=tester@localhost"])
            .args(["-c", "gc.auto=0", "-c", "safe.directory=*"])
            .args(args)
            .current_dir(dir);
        command
    }

    #[track_caller]
    fn attempt(&self, dir: &Path, args: &[&str]) -> Finished {
        attempt(&mut self.command(dir, args), LIMIT)
    }

    #[track_caller]
    fn run(&self, dir: &Path, args: &[&str]) -> String {
        let finished = self.attempt(dir, args);
        assert!(
            finished.status.success(),
            "git {args:?} in {dir:?}: {}",
            finished.describe()
        );
        finished.stdout
    }
}
