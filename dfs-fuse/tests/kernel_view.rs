//! What the kernel of one mount answers by itself: it does not ask for what nobody changes, and what another mount changed it asks for.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, start, until};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Longer than any call takes that need not wait for a lease to end.
const SOON: Duration = Duration::from_secs(10);

fn set_up() -> (ProcessCluster, Mount, Mount) {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let first = cluster.mount(MountOptions::default());
    let second = cluster.mount(MountOptions::default());
    (cluster, first, second)
}

/// True if the name is there.
fn is_there(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Looks at the names until the kernel of `mount` answers for them by itself, which a mount that stands still shows.
fn warm(mount: &Mount, paths: &[PathBuf]) {
    until("the kernel answers by itself", LIMIT, || {
        let before: Vec<bool> = paths.iter().map(|path| is_there(path)).collect();
        mount.suspend();
        let again = paths.to_vec();
        let (done, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = done.send(again.iter().map(|path| is_there(path)).collect::<Vec<_>>());
        });
        let after = answered.recv_timeout(Duration::from_millis(300));
        mount.resume();
        (after.ok()? == before).then_some(())
    });
}

#[test]
fn names_attributes_and_absences_are_answered_without_the_mount() {
    let (_cluster, first, _second) = set_up();
    let dir = first.path().join("a/b/c");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("file"), "x").unwrap();
    warm(&first, &[dir.join("file"), dir.join("missing"), dir.clone()]);
}

/// A change through one mount, and what the other one must see of it in a directory with the file `a`, the file `b`, the directory `sub` with
/// the file `deep`, and no `missing`.
type Step = (&'static str, fn(&Path), fn(&Path));

const STEPS: &[Step] = &[
    (
        "create where nothing was",
        |dir| drop(File::create_new(dir.join("missing")).unwrap()),
        |dir| assert!(is_there(&dir.join("missing"))),
    ),
    (
        "open what was not there",
        |dir| fs::write(dir.join("missing"), "new").unwrap(),
        |dir| assert_eq!(fs::read_to_string(dir.join("missing")).unwrap(), "new"),
    ),
    (
        "make a directory where nothing was",
        |dir| fs::create_dir(dir.join("missing")).unwrap(),
        |dir| assert!(fs::metadata(dir.join("missing")).unwrap().is_dir()),
    ),
    (
        "unlink, stat",
        |dir| fs::remove_file(dir.join("a")).unwrap(),
        |dir| assert!(!is_there(&dir.join("a"))),
    ),
    (
        "unlink, open",
        |dir| fs::remove_file(dir.join("a")).unwrap(),
        |dir| assert_eq!(File::open(dir.join("a")).unwrap_err().kind(), ErrorKind::NotFound),
    ),
    (
        "unlink, create only if new",
        |dir| fs::remove_file(dir.join("a")).unwrap(),
        |dir| {
            File::create_new(dir.join("a")).unwrap();
            fs::remove_file(dir.join("a")).unwrap();
        },
    ),
    (
        "create, create only if new",
        |dir| fs::write(dir.join("missing"), "first").unwrap(),
        |dir| {
            let error = File::create_new(dir.join("missing")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        },
    ),
    (
        "rename",
        |dir| fs::rename(dir.join("a"), dir.join("missing")).unwrap(),
        |dir| assert!(!is_there(&dir.join("a")) && is_there(&dir.join("missing"))),
    ),
    (
        "rename over",
        |dir| fs::rename(dir.join("a"), dir.join("b")).unwrap(),
        |dir| assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "content of a"),
    ),
    (
        "rename a directory",
        |dir| fs::rename(dir.join("sub"), dir.join("missing")).unwrap(),
        |dir| assert!(!is_there(&dir.join("sub/deep")) && is_there(&dir.join("missing/deep"))),
    ),
    (
        "rename into another directory",
        |dir| fs::rename(dir.join("a"), dir.join("sub/a")).unwrap(),
        |dir| assert!(!is_there(&dir.join("a")) && is_there(&dir.join("sub/a"))),
    ),
    (
        "exchange",
        |dir| exchange(&dir.join("a"), &dir.join("b")),
        |dir| assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "content of b"),
    ),
    (
        "replace a file by a directory",
        |dir| {
            fs::remove_file(dir.join("a")).unwrap();
            fs::create_dir(dir.join("a")).unwrap();
        },
        |dir| assert!(fs::metadata(dir.join("a")).unwrap().is_dir()),
    ),
    (
        "link",
        |dir| fs::hard_link(dir.join("a"), dir.join("missing")).unwrap(),
        |dir| assert_eq!(fs::metadata(dir.join("a")).unwrap().nlink(), 2),
    ),
    (
        "symlink",
        |dir| std::os::unix::fs::symlink("a", dir.join("missing")).unwrap(),
        |dir| assert_eq!(fs::read_to_string(dir.join("missing")).unwrap(), "content of a"),
    ),
    (
        "chmod",
        |dir| fs::set_permissions(dir.join("a"), Permissions::from_mode(0o600)).unwrap(),
        |dir| assert_eq!(fs::metadata(dir.join("a")).unwrap().mode() & 0o7777, 0o600),
    ),
    (
        "chmod of a directory above",
        |dir| fs::set_permissions(dir.join("sub"), Permissions::from_mode(0o700)).unwrap(),
        |dir| assert_eq!(fs::metadata(dir.join("sub")).unwrap().mode() & 0o7777, 0o700),
    ),
    (
        "write and close",
        |dir| fs::write(dir.join("a"), "longer than it was").unwrap(),
        |dir| assert_eq!(fs::metadata(dir.join("a")).unwrap().len(), 18),
    ),
    (
        "remove a tree",
        |dir| fs::remove_dir_all(dir.join("sub")).unwrap(),
        |dir| {
            assert!(!is_there(&dir.join("sub/deep")) && !is_there(&dir.join("sub")));
            assert_eq!(fs::metadata(dir).unwrap().nlink(), 2);
            let names: Vec<_> = fs::read_dir(dir).unwrap().collect();
            assert_eq!(names.len(), 2);
        },
    ),
];

fn exchange(one: &Path, other: &Path) {
    let text = |path: &Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let (one, other) = (text(one), text(other));
    // SAFETY: both are strings that end with a zero.
    let done = unsafe {
        nix::libc::renameat2(
            nix::libc::AT_FDCWD,
            one.as_ptr(),
            nix::libc::AT_FDCWD,
            other.as_ptr(),
            nix::libc::RENAME_EXCHANGE,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("a"), "content of a").unwrap();
    fs::write(dir.join("b"), "content of b").unwrap();
    fs::write(dir.join("sub/deep"), "deep").unwrap();
}

fn all(dir: &Path) -> Vec<PathBuf> {
    let names = ["a", "b", "sub", "sub/deep", "sub/a", "missing"];
    names.iter().map(|name| dir.join(name)).collect()
}

#[test]
fn change_elsewhere_is_seen_by_a_kernel_that_answers_by_itself() {
    let (_cluster, first, second) = set_up();
    // A directory of its own for each, all made before: the names of one that was recalled are not given again for a while.
    let name = |round, number| format!("step-{round}-{number}");
    for round in 0..2 {
        (0..STEPS.len()).for_each(|number| fill(&first.path().join(name(round, number))));
    }
    for (round, (from, to)) in [(&first, &second), (&second, &first)].into_iter().enumerate() {
        for (number, (what, change, check)) in STEPS.iter().enumerate() {
            let name = name(round, number);
            let (here, there) = (from.path().join(&name), to.path().join(&name));
            warm(to, &all(&there));
            warm(from, &all(&here));
            eprintln!("{what}, round {round}");
            let began = Instant::now();
            change(&here);
            check(&there);
            check(&here);
            assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn name_that_this_mount_moved_is_taken_back_too() {
    let (_cluster, first, second) = set_up();
    let (here, there) = (first.path().join("d"), second.path().join("d"));
    fill(&here);
    warm(&first, &all(&here));
    fs::rename(here.join("a"), here.join("moved")).unwrap();
    fs::rename(here.join("b"), here.join("sub/moved")).unwrap();
    assert!(is_there(&here.join("moved")) && is_there(&here.join("sub/moved")));
    fs::rename(there.join("moved"), there.join("missing")).unwrap();
    fs::remove_file(there.join("sub/moved")).unwrap();
    assert!(!is_there(&here.join("moved")) && is_there(&here.join("missing")));
    assert!(!is_there(&here.join("sub/moved")));
}

/// Takes the lock file `lock` until it has it, as programs without advisory locks do; gives how long the longest attempt took.
fn spin(lock: &Path, rounds: u32, inside: &AtomicU32, stop: &AtomicBool) -> (u32, Duration) {
    let (mut done, mut longest) = (0, Duration::ZERO);
    while done < rounds && !stop.load(Ordering::SeqCst) {
        let began = Instant::now();
        match File::create_new(lock) {
            Ok(_) => {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have the lock");
                inside.fetch_sub(1, Ordering::SeqCst);
                fs::remove_file(lock).unwrap();
                done += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
        }
        // Others ask whether it is there before they try.
        is_there(lock);
        longest = longest.max(began.elapsed());
    }
    (done, longest)
}

#[test]
fn two_mounts_that_spin_on_one_lock_file_go_on_and_exclude_each_other() {
    const ROUNDS: u32 = 1000;
    let (_cluster, first, second) = set_up();
    let dir = first.path().join("d");
    fs::create_dir(&dir).unwrap();
    for mount in [&first, &second] {
        warm(mount, &[mount.path().join("d/lock")]);
    }
    let (inside, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let spinning = [&first, &second].map(|mount| {
        let (lock, inside, stop) = (mount.path().join("d/lock"), inside.clone(), stop.clone());
        start("spinning on the lock file", move || {
            spin(&lock, ROUNDS, &inside, &stop)
        })
    });
    for one in spinning {
        let (rounds, longest) = one.wait(LIMIT);
        eprintln!("{rounds} rounds, {longest:?} at the longest");
        assert_eq!(rounds, ROUNDS);
        // A lease lasts for twenty times as long.
        assert!(longest < SOON / 5, "it stood still for {longest:?}");
    }
}

#[test]
fn two_mounts_that_change_one_directory_at_once_do_not_wait_for_each_others_kernel() {
    const DIRECTORIES: usize = 60;
    let (_cluster, first, second) = set_up();
    let dir = |number: usize| PathBuf::from(format!("d/{number}"));
    for number in 0..DIRECTORIES {
        fs::create_dir_all(first.path().join(dir(number))).unwrap();
    }
    for mount in [&first, &second] {
        let names = ["by-first", "by-second"];
        let paths = |number| names.map(|name| mount.path().join(dir(number)).join(name));
        warm(mount, &(0..DIRECTORIES).flat_map(paths).collect::<Vec<_>>());
    }
    // Each has the directory's lock in its kernel while it waits for the other's kernel to forget the names.
    let together = Arc::new(Barrier::new(2));
    let making = [
        (&first, "by-first", "by-second"),
        (&second, "by-second", "by-first"),
    ];
    let making = making.map(|(mount, own, others)| {
        let (root, together) = (mount.path().to_owned(), together.clone());
        start("making files in the same directories", move || {
            let mut longest = Duration::ZERO;
            for number in 0..DIRECTORIES {
                let dir = root.join(dir(number));
                together.wait();
                let began = Instant::now();
                File::create_new(dir.join(own)).unwrap();
                longest = longest.max(began.elapsed());
                together.wait();
                assert!(is_there(&dir.join(others)), "{number}: {others} was made");
            }
            longest
        })
    });
    for one in making {
        let longest = one.wait(LIMIT);
        assert!(longest < SOON / 5, "it stood still for {longest:?}");
    }
}

#[test]
fn opposite_renames_between_directories_do_not_wait_for_each_other() {
    const ROUNDS: usize = 300;
    let (_cluster, first, second) = set_up();
    let dir = first.path().join("d");
    fs::create_dir_all(dir.join("x")).unwrap();
    fs::create_dir(dir.join("y")).unwrap();
    fs::write(dir.join("x/1"), "").unwrap();
    fs::write(dir.join("y/2"), "").unwrap();
    for mount in [&first, &second] {
        let dir = mount.path().join("d");
        let paths = ["x/1", "y/2", "x/2", "y/1"].map(|name| dir.join(name));
        warm(mount, &paths);
    }
    let moving = [(&first, "1", "x", "y"), (&second, "2", "y", "x")].map(|(mount, file, from, to)| {
        let dir = mount.path().join("d");
        let (from, to) = (dir.join(from).join(file), dir.join(to).join(file));
        start("renaming to and fro", move || {
            let mut longest = Duration::ZERO;
            for _ in 0..ROUNDS {
                let began = Instant::now();
                fs::rename(&from, &to).unwrap();
                assert!(is_there(&to) && !is_there(&from));
                fs::rename(&to, &from).unwrap();
                assert!(is_there(&from) && !is_there(&to));
                longest = longest.max(began.elapsed());
            }
            longest
        })
    });
    for one in moving {
        let longest = one.wait(LIMIT);
        assert!(longest < SOON / 5, "it stood still for {longest:?}");
    }
}

#[test]
fn kernel_of_a_frozen_mount_answers_by_itself_no_longer_than_the_lease() {
    let (_cluster, first, second) = set_up();
    let (here, there) = (first.path().join("d"), second.path().join("d"));
    fill(&here);
    warm(&first, &all(&here));
    first.suspend();
    let changed = {
        let there = there.clone();
        start("changes while the other mount is frozen", move || {
            fs::remove_file(there.join("a")).unwrap();
            fs::write(there.join("missing"), "new").unwrap();
            fs::set_permissions(there.join("b"), Permissions::from_mode(0o600)).unwrap();
        })
    };
    changed.wait(LIMIT);
    // The mount still stands: whatever its kernel answers now it answers by itself, or later.
    let looks = [
        start("a name that is gone", {
            let path = here.join("a");
            move || !is_there(&path)
        }),
        start("a name that is new", {
            let path = here.join("missing");
            move || is_there(&path)
        }),
        start("attributes", {
            let path = here.join("b");
            move || fs::metadata(path).unwrap().mode() & 0o7777 == 0o600
        }),
    ];
    std::thread::sleep(Duration::from_secs(1));
    first.resume();
    for look in looks {
        assert!(look.wait(LIMIT), "the kernel answered what was before");
    }
}

#[test]
fn what_is_mounted_below_stays_while_others_change_the_directory() {
    let (_cluster, first, second) = set_up();
    let (here, there) = (first.path().join("d"), second.path().join("d"));
    fill(&here);
    warm(&first, &all(&here));
    nix::mount::mount(
        Some("none"),
        &here.join("sub"),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let mounted = Mounted(here.join("sub"));
    fs::write(here.join("sub/on-tmpfs"), "x").unwrap();
    fs::remove_file(there.join("a")).unwrap();
    assert!(!is_there(&here.join("a")));
    assert!(is_there(&here.join("sub/on-tmpfs")), "the mount below is gone");
    // Names are not given as long as it is there.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(12) {
        assert!(all(&here).iter().any(|path| is_there(path)));
        fs::write(there.join("missing"), "").unwrap();
        assert!(is_there(&here.join("missing")) && is_there(&here.join("sub/on-tmpfs")));
        fs::remove_file(there.join("missing")).unwrap();
        assert!(!is_there(&here.join("missing")) && is_there(&here.join("sub/on-tmpfs")));
    }
    drop(mounted);
}

/// A mount that does not stay behind.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
