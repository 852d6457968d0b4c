//! `dfs upload` and `dfs download` on a real cluster.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{TestCluster, assert_same, make_tree};
use dfs_testkit::process::{Content, until, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn tree_comes_back_as_it_was() {
    let cluster = TestCluster::start();
    let tree = cluster.dir("tree");
    make_tree(&tree);
    cluster.ok(&["upload", "-rp", &tree, "/copy"]);
    let back = cluster.path("back");
    cluster.ok(&["download", "-rp", "dfs:/copy", &back]);
    assert_same(&tree, &back, true);

    // Into a directory that exists the copy goes under its own name.
    let into = cluster.dir("into");
    cluster.ok(&["download", "-rp", "/copy", &into]);
    assert_same(&tree, &format!("{into}/copy"), true);
    cluster.ok(&["upload", "-rp", &tree, "/copy"]);
    let nested = cluster.path("nested");
    cluster.ok(&["download", "-rp", "/copy/tree", &nested]);
    assert_same(&tree, &nested, true);

    // Contents only.
    cluster.ok(&["mkdir", "/contents"]);
    cluster.ok(&["upload", "-r", &format!("{tree}/."), "/contents"]);
    let contents = cluster.path("contents");
    cluster.ok(&["download", "-r", "/contents", &contents]);
    assert_same(&tree, &contents, false);
}

#[test]
fn existing_files_are_replaced_or_left_alone() {
    let cluster = TestCluster::start();
    let (old, new) = (cluster.file("old", b"old"), cluster.file("new", b"new content"));
    cluster.ok(&["upload", &old, "/f"]);
    let skipped = cluster.json(&["upload", "-n", &new, "/f"]);
    assert_eq!(skipped[0]["event"], "skipped");
    assert_eq!(skipped[1]["skipped"], 1);
    let back = cluster.path("back");
    cluster.ok(&["download", "/f", &back]);
    assert_eq!(fs::read(&back).unwrap(), b"old");

    let uploaded = cluster.json(&["upload", &new, "/f"]);
    assert_eq!(
        (&uploaded[0]["event"], &uploaded[0]["bytes"]),
        (&"file".into(), &11.into())
    );
    assert_eq!(uploaded[0]["target"], "/f");
    assert_eq!(uploaded[1]["event"], "summary");
    cluster.ok(&["download", "-n", "/f", &back]);
    assert_eq!(fs::read(&back).unwrap(), b"old");
    cluster.ok(&["download", "/f", &back]);
    assert_eq!(fs::read(&back).unwrap(), b"new content");

    // Links too; and a link is replaced, not followed.
    let link = cluster.path("link");
    symlink("one", &link).unwrap();
    cluster.ok(&["upload", "-r", &link, "/l"]);
    fs::remove_file(&link).unwrap();
    symlink("two", &link).unwrap();
    cluster.ok(&["upload", "-rn", &link, "/l"]);
    assert_eq!(cluster.json(&["stat", "/l"])[0]["target"], "one");
    cluster.ok(&["upload", "-r", &link, "/l"]);
    assert_eq!(cluster.json(&["stat", "/l"])[0]["target"], "two");
    assert_eq!(cluster.names("/"), ["f", "l"], "no temporary name is left");
}

#[test]
fn failures_are_named_and_the_rest_is_copied() {
    let cluster = TestCluster::start();
    let (one, two) = (cluster.file("one", b"1"), cluster.file("two", b"2"));
    let (dir, missing) = (cluster.dir("d"), cluster.path("missing"));
    let finished = cluster.fails(&["upload", &one, &missing, &dir, &two, "/"], 1);
    assert!(finished.stderr.contains(&missing), "{}", finished.describe());
    assert!(finished.stderr.contains("use -r"), "{}", finished.describe());
    assert_eq!(cluster.names("/"), ["one", "two"]);

    let finished = cluster.fails(&["upload", &one, &two, "/nowhere"], 1);
    assert!(finished.stderr.contains("dfs mkdir"), "{}", finished.describe());
    cluster.fails(&["upload", &one, "/nowhere/x"], 1);
    cluster.fails(&["upload", "-r", &dir, "/one"], 1);
    cluster.fails(&["download", "/nowhere", &dir], 1);
    cluster.fails(&["download", "/one", &cluster.path("no/where")], 1);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);

    // A directory stands where a file should go, and the other way round.
    cluster.ok(&["mkdir", "-p", "/d2/one"]);
    cluster.fails(&["upload", &one, "/d2"], 1);
    fs::create_dir(cluster.path("one2")).unwrap();
    fs::create_dir(cluster.path("one2/one")).unwrap();
    cluster.fails(&["download", "/one", &cluster.path("one2")], 1);
    cluster.fails(&["download", "-r", "/d2", &one], 1);
    assert_eq!(fs::read(&one).unwrap(), b"1");
    assert_eq!(fs::read_dir(cluster.path("one2")).unwrap().count(), 1);
}

#[test]
fn modes_follow_the_umask_unless_preserved() {
    let cluster = TestCluster::start();
    let file = cluster.file("f", b"x");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let upload = |args: &[&str]| cluster.umasked("027", args);
    upload(&["upload", &file, "/plain"]);
    upload(&["upload", "-p", &file, "/kept"]);
    let mode = |path: &str| cluster.json(&["stat", path])[0]["mode_octal"].clone();
    assert_eq!(mode("/plain"), "0640");
    assert_eq!(mode("/kept"), "0666");
    let mtime = &cluster.json(&["stat", "/kept"])[0]["mtime"];
    let local = fs::metadata(&file).unwrap();
    assert_eq!(mtime["secs"], local.mtime());
    assert_eq!(mtime["nanos"], local.mtime_nsec());
    let (plain, kept) = (cluster.path("plain"), cluster.path("kept"));
    upload(&["download", "/kept", &plain]);
    upload(&["download", "-p", "/kept", &kept]);
    assert_eq!(fs::metadata(&plain).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o666);
    assert_eq!(fs::metadata(&kept).unwrap().mtime_nsec(), local.mtime_nsec());
}

/// A process that does not outlive the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command under way.
struct Running {
    child: Owned,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it, and waits for the first result, which is of a small file: a large one is under way then.
    fn start(cluster: &TestCluster, args: &[&str]) -> Self {
        let mut command = cluster.dfs();
        command
            .args(args)
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Owned(command.spawn().unwrap());
        let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
        let stderr = BufReader::new(child.0.stderr.take().unwrap());
        let (line, stdout) = within("the first file", LIMIT, move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            (line, stdout)
        });
        assert!(line.contains("\"file\""), "{line}");
        Running {
            child,
            stdout,
            stderr,
        }
    }

    /// The next line of standard error.
    fn next_error_line(self) -> (Self, String) {
        let Running {
            child,
            stdout,
            mut stderr,
        } = self;
        let (line, stderr) = within("a line on standard error", LIMIT, move || {
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            (line, stderr)
        });
        (
            Running {
                child,
                stdout,
                stderr,
            },
            line,
        )
    }

    /// How it ended, and the rest of standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let status = until("end of dfs", LIMIT, || self.child.0.try_wait().unwrap());
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

/// Interrupts the command while a large file is under way.
fn interrupt_after_first(cluster: &TestCluster, args: &[&str]) {
    let running = Running::start(cluster, args);
    kill(
        Pid::from_raw(running.child.0.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(running.end(), (Some(130), String::new()));
}

#[test]
fn interrupted_copy_leaves_no_half_file() {
    let cluster = TestCluster::start();
    let content = Content::new(7, 300 << 20);
    let large = cluster.file("large", &content.bytes());
    let small = cluster.file("small", b"small");
    cluster.ok(&["mkdir", "/up"]);
    interrupt_after_first(&cluster, &["upload", &large, &small, "/up"]);
    assert_eq!(
        cluster.names("/up"),
        ["small"],
        "neither the large file nor a temporary name"
    );

    cluster.ok(&["upload", &large, "/up"]);
    let down = cluster.dir("down");
    interrupt_after_first(&cluster, &["download", "/up/large", "/up/small", &down]);
    let names: Vec<_> = fs::read_dir(&down)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["small"], "neither the large file nor a temporary name");
}

#[test]
fn transfer_waits_for_a_coordinator_that_comes_back() {
    let mut cluster = TestCluster::start();
    let large = cluster.file("large", &Content::new(8, 200 << 20).bytes());
    let small = cluster.file("small", b"small");
    let running = Running::start(&cluster, &["upload", &large, &small, "/"]);
    cluster.cluster.node("coordinator").kill();
    let (running, line) = running.next_error_line();
    assert!(line.contains("still waiting"), "{line}");
    cluster.cluster.node("coordinator").start();
    let (code, text) = running.end();
    assert_eq!(code, Some(0), "{text}");
    let back = cluster.path("back");
    cluster.ok(&["download", "/large", &back]);
    assert!(fs::read(&back).unwrap() == fs::read(&large).unwrap());
    assert_eq!(cluster.names("/"), ["large", "small"]);
}

#[test]
fn transfer_gives_up_on_a_coordinator_that_stays_away() {
    let mut cluster = TestCluster::start();
    // More than the client library holds unsaved.
    let large = cluster.file("large", &Content::new(9, 400 << 20).bytes());
    let small = cluster.file("small", b"small");
    let running = Running::start(&cluster, &["upload", "--timeout", "2", &large, &small, "/"]);
    cluster.cluster.node("coordinator").kill();
    let (code, text) = running.end();
    assert_eq!(code, Some(3), "{text}");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(
        last["error"]["message"].as_str().unwrap().contains("/large"),
        "{text}"
    );
    cluster.cluster.node("coordinator").start();
    assert!(
        !cluster.names("/").contains(&"large".to_owned()),
        "nothing half copied has its name"
    );
}
