//! What POSIX and Linux promise of a file system, call by call, with several users.
//!
//! One mount serves all checks, each in a directory of its own; every check that fails is reported. Then everything is
//! mounted again, and what the checks left must look the same. With `DFS_TEST_CONTROL_DIR` set to a local directory the
//! same runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

mod content;
mod directory;
mod lock;
mod node;
mod open;
mod owner;
mod permission;
mod rename;
mod sys;
mod time;
mod xattr;

use dfs_testkit::process::{ClusterOptions, Place, start};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A check by name; it works in an empty directory of mode 0777 and panics when something is not as it should be.
type Check = (&'static str, fn(&Path));

/// Checks of a module.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        pub const CHECKS: &[crate::Check] = &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}
use checks;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn posix_holds() {
    let mut place = Place::new(ClusterOptions::default());
    let modules = [
        content::CHECKS,
        directory::CHECKS,
        lock::CHECKS,
        node::CHECKS,
        open::CHECKS,
        owner::CHECKS,
        permission::CHECKS,
        rename::CHECKS,
        time::CHECKS,
        xattr::CHECKS,
    ];
    let mut failed = Vec::new();
    for (number, (name, check)) in modules.concat().into_iter().enumerate() {
        let dir = place.dir().join(format!("check-{number}"));
        fs::create_dir(&dir).unwrap();
        open_to_all(&dir);
        let mut running = start(name, move || {
            // Caught here, so that one failure does not hide the next; the message is printed by the panic itself.
            std::panic::catch_unwind(|| check(&dir)).is_ok()
        });
        dfs_testkit::process::until(name, LIMIT, || running.is_done().then_some(()));
        if !running.wait(LIMIT) {
            failed.push(name);
        }
    }
    let before = picture(place.dir());
    place.cool();
    let after = picture(place.dir());
    for (path, seen) in &before {
        if after.get(path) != Some(seen) {
            println!(
                "after a remount {}: {:?}, before: {seen:?}",
                path.display(),
                after.get(path)
            );
            failed.push("the same after a remount");
        }
    }
    assert_eq!(before.len(), after.len(), "names after a remount");
    assert!(failed.is_empty(), "{} checks failed: {failed:#?}", failed.len());
}

/// A directory that everybody may write to.
fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
}

/// What stat shows of everything below `dir`, inode numbers and access times excepted.
fn picture(dir: &Path) -> BTreeMap<PathBuf, Vec<i64>> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let numbers = [
            i64::from(meta.mode()),
            meta.nlink() as i64,
            i64::from(meta.uid()),
            i64::from(meta.gid()),
            meta.rdev() as i64,
            if meta.is_dir() { 0 } else { meta.size() as i64 },
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        seen.insert(path, numbers.to_vec());
    }
    seen
}
