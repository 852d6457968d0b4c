//! `dfs` without a cluster: arguments, exit codes, and the sentences of its errors.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{Finished, attempt, until, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Nothing listens there.
const NOBODY: &str = "127.0.0.1:1";

/// `dfs` as a user without settings, whose configuration is in `config`.
fn dfs(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs"));
    command
        .env_remove("DFS_COORDINATOR")
        .env_remove("DFS_LOG")
        .env("XDG_CONFIG_HOME", config);
    command
}

#[track_caller]
fn ends(command: &mut Command, code: i32) -> Finished {
    let finished = attempt(command, LIMIT);
    assert_eq!(finished.status.code(), Some(code), "{}", finished.describe());
    finished
}

/// The one error on standard error.
#[track_caller]
fn error_object(finished: &Finished) -> Value {
    let lines: Vec<Value> = finished
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", finished.describe())))
        .filter(|object: &Value| object.get("note").is_none())
        .collect();
    assert_eq!(lines.len(), 1, "{}", finished.describe());
    lines[0]["error"].clone()
}

#[test]
fn help_tells_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = ends(dfs(dir.path()).arg("--help"), 0).stdout;
    for words in [
        "Exit codes:",
        "2    wrong usage",
        "3    the cluster cannot",
        "4    the cluster answers",
        "130  ",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
    ends(dfs(dir.path()).args(["ls", "--help"]), 0);
    ends(dfs(dir.path()).arg("--version"), 0);
}

#[test]
fn wrong_usage_ends_with_2_and_names_the_argument() {
    let dir = tempfile::tempdir().unwrap();
    for (args, words) in [
        (&["ls", "relative"][..], "begins with a slash"),
        (&["frobnicate"], "frobnicate"),
        (&["upload", "x"], "DST"),
        (&["connect", "nowhere"], "HOST:PORT is needed"),
        (&["status", "--timeout", "never"], "seconds are needed"),
        (&["mkdir", "-m", "9", "/a"], "octal"),
    ] {
        let finished = ends(dfs(dir.path()).args(args), 2);
        assert!(finished.stderr.contains(words), "{}", finished.describe());
        assert_eq!(finished.stdout, "");
        let finished = ends(dfs(dir.path()).args(args).arg("--json"), 2);
        assert_eq!(error_object(&finished)["kind"], "usage");
    }
    ends(&mut dfs(dir.path()), 2);
}

#[test]
fn without_any_coordinator_the_user_is_told_how_to_name_one() {
    let dir = tempfile::tempdir().unwrap();
    let finished = ends(dfs(dir.path()).arg("status"), 2);
    for words in ["dfs connect", "--coordinator", "DFS_COORDINATOR"] {
        assert!(finished.stderr.contains(words), "{}", finished.describe());
    }
    let finished = ends(dfs(dir.path()).env("DFS_COORDINATOR", "nowhere").arg("status"), 2);
    assert!(
        finished.stderr.contains("DFS_COORDINATOR"),
        "{}",
        finished.describe()
    );
}

#[test]
fn damaged_profile_is_an_error_that_says_how_to_mend_it() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("dfs/profile.json");
    std::fs::create_dir(dir.path().join("dfs")).unwrap();
    std::fs::write(&profile, "{").unwrap();
    let finished = ends(dfs(dir.path()).arg("status"), 2);
    assert!(finished.stderr.contains("dfs connect"), "{}", finished.describe());
    assert!(
        finished.stderr.contains(profile.to_str().unwrap()),
        "{}",
        finished.describe()
    );
    // A stronger setting does not need it.
    ends(dfs(dir.path()).args(["status", "--coordinator", NOBODY]), 3);
}

#[test]
fn unreachable_coordinator_ends_with_3_and_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("f");
    std::fs::write(&local, "x").unwrap();
    let local = local.to_str().unwrap();
    for args in [
        &["status"][..],
        &["admin", "nodes"],
        &["connect", NOBODY],
        &["ls", "/"],
        &["stat", "/a"],
        &["mkdir", "/a"],
        &["rm", "/a"],
        &["upload", local, "/a"],
        &["download", "/a", local],
    ] {
        let run = |json: &[&str]| {
            let global = ["--coordinator", NOBODY, "--timeout", "0.5"];
            ends(dfs(dir.path()).args(args).args(global).args(json), 3)
        };
        let finished = run(&[]);
        assert!(finished.stderr.contains(NOBODY), "{}", finished.describe());
        let advised = finished.stderr.matches("start the coordinator there").count();
        assert_eq!(advised, 1, "{}", finished.describe());
        assert!(!finished.stderr.contains("os error"), "{}", finished.describe());
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.describe());
        let kind = error_object(&run(&["--json"]))["kind"].clone();
        assert!(kind == "unavailable" || kind == "timed_out", "{args:?}: {kind}");
    }
    assert!(
        !dir.path().join("dfs").exists(),
        "a coordinator that did not answer is not remembered"
    );
    assert_eq!(std::fs::read(local).unwrap(), b"x");
}

#[test]
fn server_that_never_answers_ends_with_3_when_the_timeout_is_over() {
    let dir = tempfile::tempdir().unwrap();
    // Connections wait in its queue for ever.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for args in [&["status"][..], &["ls", "/"]] {
        let finished = ends(
            dfs(dir.path())
                .args(args)
                .args(["--coordinator", &address, "--timeout", "1"]),
            3,
        );
        assert!(finished.stderr.contains(&address), "{}", finished.describe());
    }
}

#[test]
fn signal_ends_the_wait_for_a_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child = dfs(dir.path())
            .args(["ls", "/", "--coordinator", NOBODY, "--timeout", "600"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let line = within("a note on what is being waited for", LIMIT, move || {
            let mut line = String::new();
            stderr.read_line(&mut line).map(|_| line)
        });
        assert!(line.unwrap().contains("waiting for the coordinator"));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let status = until("end of dfs", LIMIT, || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(code));
    }
}
