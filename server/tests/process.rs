//! The server as a process: ready line, signals, exit codes, and the sentences of its errors.

#![allow(clippy::unwrap_used)] // helpers of tests

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

/// A server process; killed when dropped, so that a failing test leaves nothing behind.
struct Server {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Server {
    fn spawn(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dfs-server"))
            .args(args)
            .env("DFS_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        Server { child, stdout }
    }

    /// The address of the ready line.
    fn ready(&mut self) -> String {
        let mut stdout = self.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            let _ = sender.send((read.map(|_| line), stdout));
        });
        let (line, stdout) = receiver.recv_timeout(DEADLINE).expect("a ready line in time");
        self.stdout = Some(stdout);
        let line = line.unwrap();
        match line.trim_end().strip_prefix("listening on ") {
            Some(address) => address.to_owned(),
            None => panic!("no ready line but {line:?}; {}", self.stderr()),
        }
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process did not end in time");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn stop(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.wait()
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = self.child.kill();
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs to the end: exit code and standard error.
#[track_caller]
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let mut server = Server::spawn(args);
    let status = server.wait();
    (status.code(), server.stderr())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn coordinator<'a>(data: &'a Path, listen: &'a str) -> [&'a str; 5] {
    ["coordinator", "--data", text(data), "--listen", listen]
}

#[test]
fn coordinator_says_when_ready_and_stops_on_either_signal() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("c");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::spawn(&coordinator(&data, "127.0.0.1:0"));
        let address = server.ready();
        std::net::TcpStream::connect(&address).unwrap();
        assert_eq!(
            server.stop(signal).code(),
            Some(0),
            "{signal}: {}",
            server.stderr()
        );
    }
}

#[test]
fn restart_after_kill_keeps_address_and_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Server::spawn(&coordinator(dir.path(), "127.0.0.1:0"));
    let address = first.ready();
    first.stop(Signal::SIGKILL);
    let mut second = Server::spawn(&coordinator(dir.path(), &address));
    assert_eq!(second.ready(), address);
    assert_eq!(second.stop(Signal::SIGTERM).code(), Some(0));
}

/// How many sockets have the name that belongs to `address`: the one that listens, and each connection of a server.
fn local_sockets(address: &str) -> usize {
    let name = format!(" @dfs/1/{address}");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().filter(|line| line.ends_with(&name)).count()
}

#[test]
fn local_socket_is_offered_unless_off_and_again_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (data, node) = (dir.path().join("c"), dir.path().join("n"));
    let mut server = Server::spawn(&coordinator(&data, "127.0.0.1:0"));
    let address = server.ready();
    for _ in 0..3 {
        assert_eq!(local_sockets(&address), 1);
        server.stop(Signal::SIGKILL);
        assert_eq!(local_sockets(&address), 0, "the name ends with the process");
        server = Server::spawn(&coordinator(&data, &address));
        assert_eq!(server.ready(), address);
    }
    server.stop(Signal::SIGTERM);

    let off = [
        &coordinator(&data, "127.0.0.1:0")[..],
        &["--local-sockets", "off"],
    ]
    .concat();
    let mut server = Server::spawn(&off);
    assert_eq!(local_sockets(&server.ready()), 0);
    let mut datanode = Server::spawn(&[
        "datanode",
        "--data",
        text(&node),
        "--coordinator",
        "127.0.0.1:1",
        "--local-sockets",
        "off",
    ]);
    assert_eq!(local_sockets(&datanode.ready()), 0);
}

#[test]
fn standalone_is_ready_with_three_datanodes_and_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "standalone",
        "--data",
        text(dir.path()),
        "--listen",
        "127.0.0.1:0",
    ];
    for _ in 0..2 {
        let mut server = Server::spawn(&args);
        server.ready();
        for name in ["coordinator", "datanode-1", "datanode-2", "datanode-3"] {
            assert!(dir.path().join(name).is_dir(), "{name}");
        }
        assert_eq!(
            server.stop(Signal::SIGTERM).code(),
            Some(0),
            "{}",
            server.stderr()
        );
    }
}

#[test]
fn datanode_is_ready_and_stops_while_the_coordinator_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "datanode",
        "--data",
        text(dir.path()),
        "--coordinator",
        "127.0.0.1:1",
    ];
    let mut server = Server::spawn(&args);
    server.ready();
    assert_eq!(
        server.stop(Signal::SIGTERM).code(),
        Some(0),
        "{}",
        server.stderr()
    );
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_setting() {
    let (code, error) = refused(&["coordinator", "--data", "/nonexistent/d", "--replication", "0"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("replication is 1 to"), "{error}");
    assert_eq!(refused(&["coordinator"]).0, Some(2));
    assert!(!Path::new("/nonexistent").exists());
}

#[test]
fn port_in_use_is_said_with_its_number() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("d");
    for args in [
        vec!["coordinator", "--data", text(&data), "--listen", &address],
        vec!["standalone", "--data", text(dir.path()), "--listen", &address],
        vec![
            "datanode",
            "--data",
            text(&data),
            "--listen",
            &address,
            "--coordinator",
            "127.0.0.1:1",
        ],
    ] {
        let (code, error) = refused(&args);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(&address) && error.contains("in use"), "{error}");
        let _ = std::fs::remove_dir_all(dir.path());
    }
}

#[test]
fn directory_in_use_of_another_kind_or_not_writable_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Server::spawn(&coordinator(dir.path(), "127.0.0.1:0"));
    let address = first.ready();
    let (code, error) = refused(&coordinator(dir.path(), "127.0.0.1:0"));
    assert_eq!(code, Some(1));
    assert!(error.contains("in use by another process"), "{error}");

    let (code, error) = refused(&["datanode", "--data", text(dir.path()), "--coordinator", &address]);
    assert_eq!(code, Some(1));
    assert!(error.contains(text(dir.path())), "{error}");

    let (code, error) = refused(&[
        "standalone",
        "--data",
        text(dir.path()),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1));
    assert!(error.contains("standalone"), "{error}");

    let (code, error) = refused(&coordinator(Path::new("/proc/dfs"), "127.0.0.1:0"));
    assert_eq!(code, Some(1));
    assert!(error.contains("/proc/dfs"), "{error}");
}

#[test]
fn datanode_of_another_cluster_is_turned_away_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, node) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("n"));
    let mut first = Server::spawn(&coordinator(&one, "127.0.0.1:0"));
    let mut second = Server::spawn(&coordinator(&two, "127.0.0.1:0"));
    let (first_address, second_address) = (first.ready(), second.ready());
    let spawn = |address: &str| Server::spawn(&["datanode", "--data", text(&node), "--coordinator", address]);
    let mut datanode = spawn(&first_address);
    datanode.ready();
    // The membership is known to the data directory once the registration was answered.
    let end = Instant::now() + DEADLINE;
    loop {
        let known = std::fs::read_dir(&node)
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
            .any(|content| content.contains(&cluster_of(&one)));
        if known {
            break;
        }
        assert!(Instant::now() < end, "the datanode did not register in time");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(datanode.stop(Signal::SIGTERM).code(), Some(0));
    let mut stranger = spawn(&second_address);
    let status = stranger.wait();
    let error = stranger.stderr();
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(error.contains("cluster"), "{error}");
}

/// The cluster id in a coordinator's directory.
fn cluster_of(data: &Path) -> String {
    let text = std::fs::read_to_string(data.join("coordinator.json")).unwrap();
    let (_, rest) = text.split_once("\"cluster\": \"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

/// The metadata journal of a coordinator that was killed, and how many bytes of it are not zeros behind the last record.
fn killed_coordinator(data: &Path) -> (std::path::PathBuf, usize) {
    let mut server = Server::spawn(&coordinator(data, "127.0.0.1:0"));
    server.ready();
    server.stop(Signal::SIGKILL);
    let journal = data.join("meta/0.jnl");
    let bytes = std::fs::read(&journal).unwrap();
    let content = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    (journal, content)
}

#[test]
fn write_that_a_crash_cut_short_is_cut_off_with_a_warning() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let (journal, content) = killed_coordinator(dir.path());
    // The beginning of a record, behind the last whole one.
    let torn = std::fs::read(&journal).unwrap()[..60].to_vec();
    let file = std::fs::File::options().write(true).open(&journal).unwrap();
    file.write_all_at(&torn, content as u64).unwrap();
    let mut server = Server::spawn(&coordinator(dir.path(), "127.0.0.1:0"));
    server.ready();
    assert_eq!(server.stop(Signal::SIGTERM).code(), Some(0));
    let log = server.stderr();
    for part in [" WARN ", text(&journal), &format!("offset={content}"), "bytes=60"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let kept = dir.path().join(format!("meta/0.jnl.cut-{content}"));
    assert_eq!(std::fs::read(kept).unwrap(), torn);
}

#[test]
fn damaged_metadata_are_refused_and_stay_as_they_are() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = killed_coordinator(dir.path());
    let file = std::fs::File::options().write(true).open(&journal).unwrap();
    file.write_all_at(b"rotten", 40).unwrap();
    let before = std::fs::read(&journal).unwrap();
    let (code, error) = refused(&coordinator(dir.path(), "127.0.0.1:0"));
    assert_eq!(code, Some(1), "{error}");
    for part in [
        text(&journal),
        "is damaged at byte 0",
        "dfs admin metadata restore",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(std::fs::read(&journal).unwrap() == before);
}

#[test]
fn unknown_failpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dfs-server"))
        .args(coordinator(dir.path(), "127.0.0.1:0"))
        .env("DFS_FAILPOINT", "COMMIT_AFTER_LUNCH")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("unset DFS_FAILPOINT"), "{error}");
}
