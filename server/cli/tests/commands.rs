//! `ls`, `mkdir`, `rm`, `stat`, `connect`, `status` and `admin nodes` on a real cluster.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::TestCluster;
use dfs_testkit::process::{attempt, run};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn directories_are_listed_in_order_with_their_attributes() {
    let cluster = TestCluster::start();
    let dir = cluster.dir("d");
    for name in ["b", "a", ".dot", "c"] {
        std::fs::write(format!("{dir}/{name}"), name).unwrap();
    }
    symlink("a", format!("{dir}/link")).unwrap();
    cluster.ok(&["upload", "-r", &dir, "/d"]);
    assert_eq!(cluster.ok(&["ls", "/d"]), "a\nb\nc\nlink\n");
    assert_eq!(cluster.names("/d"), [".dot", "a", "b", "c", "link"]);
    let mut streamed = cluster.json(&["ls", "-aU", "/d"]);
    streamed.sort_by_key(|entry| entry["name"].to_string());
    assert_eq!(streamed.len(), 5);
    assert_eq!(streamed[1]["path"], "/d/a");
    assert_eq!(
        (&streamed[1]["size"], &streamed[1]["kind"]),
        (&1.into(), &"file".into())
    );

    let long = cluster.ok(&["ls", "-l", "/d"]);
    assert!(
        long.lines().next().unwrap().starts_with("-rw-r--r--    1 root"),
        "{long}"
    );
    assert!(long.lines().last().unwrap().ends_with(" link -> a"), "{long}");
    assert_eq!(cluster.ok(&["ls", "-d", "/d"]), "/d\n");
    assert_eq!(cluster.ok(&["ls"]), "d\n");
    assert_eq!(
        cluster.ok(&["ls", "/d/a", "/d", "/d/link"]),
        "/d/a\n/d/link\n\n/d:\na\nb\nc\nlink\n"
    );
    let finished = cluster.fails(&["ls", "/missing", "/d/a"], 1);
    assert_eq!(finished.stdout, "/d/a\n");
    assert_eq!(finished.stderr, "dfs: /missing: does not exist\n");
    cluster.fails(&["ls", "/d/a/"], 1);
}

#[test]
fn large_directory_is_listed_whole_and_a_reader_may_leave() {
    let cluster = TestCluster::start();
    let dir = cluster.dir("d");
    for number in 0..2500 {
        std::fs::write(format!("{dir}/{number:05}"), "").unwrap();
    }
    cluster.ok(&["upload", "-r", &dir, "/d"]);
    let expected: String = (0..2500).map(|number| format!("{number:05}\n")).collect();
    assert!(cluster.ok(&["ls", "/d"]) == expected);
    let mut streamed: Vec<String> = cluster
        .ok(&["ls", "-U", "/d"])
        .lines()
        .map(str::to_owned)
        .collect();
    streamed.sort();
    assert!(
        streamed
            .iter()
            .map(|name| format!("{name}\n"))
            .collect::<String>()
            == expected
    );

    // More than a pipe holds, of which only one line is read.
    let mut child = cluster
        .dfs()
        .args(["ls", "--json", "/d"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let finished = child.wait_with_output().unwrap();
    assert_eq!(finished.status.code(), Some(141));
    assert_eq!(
        finished.stderr, b"",
        "a reader that left is no error to talk about"
    );

    let removed = cluster.json(&["rm", "-r", "/d"]);
    assert_eq!(removed.len(), 2501);
    assert_eq!(cluster.names("/"), [""; 0]);
}

#[test]
fn names_that_are_not_text_are_escaped_and_given_as_bytes() {
    let cluster = TestCluster::start();
    let file = cluster.file("f", b"x");
    let odd = OsStr::from_bytes(b"/a\xff\n");
    run(cluster.dfs().arg("upload").arg(&file).arg(odd), LIMIT);
    assert_eq!(cluster.ok(&["ls"]), "a\\xff\\n\n");
    let listed = &cluster.json(&["ls"])[0];
    assert_eq!(listed["name"], "a\u{fffd}\n");
    assert_eq!(listed["name_bytes_hex"], "61ff0a");
    let text = run(cluster.dfs().arg("stat").arg(odd), LIMIT);
    assert!(text.contains("path      /a\\xff\\n\n"), "{text}");
    run(cluster.dfs().arg("rm").arg(odd), LIMIT);
    assert_eq!(cluster.ok(&["ls"]), "");
}

#[test]
fn directories_are_made_with_parents_and_modes() {
    let cluster = TestCluster::start();
    cluster.umasked("022", &["mkdir", "/a"]);
    cluster.umasked("077", &["mkdir", "-p", "-m", "1770", "/a/b/c"]);
    let mode = |path: &str| cluster.json(&["stat", path])[0]["mode_octal"].clone();
    assert_eq!(
        (mode("/a"), mode("/a/b"), mode("/a/b/c")),
        ("0755".into(), "0700".into(), "1770".into())
    );
    let finished = cluster.fails(&["mkdir", "/a", "/d"], 1);
    assert_eq!(finished.stderr, "dfs: /a: exists already\n");
    assert_eq!(cluster.names("/"), ["a", "d"], "the rest is done");
    cluster.ok(&["mkdir", "-p", "/a/b", "/"]);
    cluster.fails(&["mkdir", "/x/y"], 1);
    let file = cluster.file("f", b"x");
    cluster.ok(&["upload", &file, "/f"]);
    cluster.fails(&["mkdir", "-p", "/f"], 1);
    cluster.fails(&["mkdir", "-p", "/f/g"], 1);
}

#[test]
fn removal_needs_r_for_directories_and_never_takes_the_root() {
    let cluster = TestCluster::start();
    let file = cluster.file("f", b"x");
    cluster.ok(&["mkdir", "-p", "/d/e"]);
    cluster.ok(&["upload", &file, "/d/e/f"]);
    cluster.ok(&["upload", &file, "/g"]);
    let finished = cluster.fails(&["rm", "/d", "/g"], 1);
    assert!(finished.stderr.contains("use -r"), "{}", finished.describe());
    assert_eq!(cluster.names("/"), ["d"]);
    for path in ["/", "/.", "/d/..", "/d/."] {
        cluster.fails(&["rm", "-rf", path], 1);
    }
    cluster.fails(&["rm", "/missing"], 1);
    cluster.ok(&["rm", "-f", "/missing"]);
    cluster.fails(&["rm", "/d/e/f/"], 1);
    assert_eq!(cluster.names("/d/e"), ["f"]);
    let said = cluster.ok(&["rm", "-rv", "/d"]);
    assert_eq!(said, "removed /d/e/f\nremoved /d/e\nremoved /d\n");
    assert_eq!(cluster.ok(&["ls", "-a"]), "");
}

#[test]
fn commands_act_as_the_user_who_runs_them() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("passed over: acting as other users needs root");
        return;
    }
    let cluster = TestCluster::start();
    let dfs = |args: &[&str]| {
        let own = cluster.dfs();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "4242", "--regid", "4243", "--groups", "4244"]);
        command.arg(own.get_program()).args(own.get_args()).args(args);
        attempt(command.env_remove("DFS_LOG"), LIMIT)
    };
    cluster.ok(&["mkdir", "-m", "700", "/private"]);
    cluster.ok(&["mkdir", "-m", "1777", "/open"]);
    for args in [
        &["ls", "/private"][..],
        &["mkdir", "/mine"],
        &["rm", "-r", "/private"],
    ] {
        let finished = dfs(args);
        assert_eq!(finished.status.code(), Some(1), "{}", finished.describe());
        assert!(
            finished.stderr.contains("permission denied"),
            "{}",
            finished.describe()
        );
    }
    assert!(dfs(&["mkdir", "/open/mine"]).status.success());
    let made = &cluster.json(&["stat", "/open/mine"])[0];
    assert_eq!((&made["uid"], &made["gid"]), (&4242.into(), &4243.into()));

    // A supplementary group counts too; owner and group travel with -p.
    let shared = cluster.dir("shared");
    std::os::unix::fs::chown(&shared, Some(4999), Some(4244)).unwrap();
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o770)).unwrap();
    cluster.ok(&["upload", "-rp", &shared, "/shared"]);
    let made = &cluster.json(&["stat", "/shared"])[0];
    assert_eq!(
        (&made["uid"], &made["gid"], &made["mode_octal"]),
        (&4999.into(), &4244.into(), &"0770".into())
    );
    let finished = dfs(&["mkdir", "/shared/mine"]);
    assert!(finished.status.success(), "{}", finished.describe());
}

#[test]
fn connect_is_remembered_and_weaker_than_variable_and_argument() {
    let cluster = TestCluster::start();
    let config = cluster.dir("config");
    let address = cluster.cluster.coordinator().to_owned();
    let dfs = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dfs"));
        command
            .env_remove("DFS_COORDINATOR")
            .env_remove("DFS_LOG")
            .env("XDG_CONFIG_HOME", &config);
        command
    };
    let said = run(dfs().args(["connect", &address]), LIMIT);
    assert!(said.contains(&address) && said.contains("healthy"), "{said}");
    let profile = std::fs::read(format!("{config}/dfs/profile.json")).unwrap();
    let profile: Value = serde_json::from_slice(&profile).unwrap();
    assert_eq!(profile["coordinator"], *address);
    run(dfs().args(["ls", "/"]), LIMIT);
    let nobody = "127.0.0.1:1";
    let with_variable = attempt(dfs().env("DFS_COORDINATOR", nobody).arg("status"), LIMIT);
    assert_eq!(
        with_variable.status.code(),
        Some(3),
        "{}",
        with_variable.describe()
    );
    run(
        dfs()
            .env("DFS_COORDINATOR", nobody)
            .args(["status", "--coordinator", &address]),
        LIMIT,
    );
    // One that does not answer does not replace it.
    assert_eq!(
        attempt(dfs().args(["connect", nobody]), LIMIT).status.code(),
        Some(3)
    );
    run(dfs().arg("status"), LIMIT);
}

#[test]
fn status_counts_nodes_and_says_with_4_that_one_is_missing() {
    let mut cluster = TestCluster::start();
    let status = &cluster.json(&["status"])[0];
    assert_eq!(
        (&status["healthy"], &status["under_replicated"]),
        (&true.into(), &0.into())
    );
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    assert!(status["capacity_bytes"].as_u64().unwrap() > status["used_bytes"].as_u64().unwrap());
    let text = cluster.ok(&["status"]);
    assert!(text.contains("health       healthy\n"), "{text}");
    let nodes = cluster.json(&["admin", "nodes"]);
    assert_eq!(nodes.iter().filter(|node| node["health"] == "up").count(), 3);
    assert_eq!(cluster.ok(&["admin", "nodes"]).lines().count(), 4);

    cluster.cluster.node("datanode-2").kill();
    cluster
        .cluster
        .wait_status("a node is missed", |status| status["healthy"] == false);
    let finished = cluster.fails(&["status"], 4);
    assert!(
        finished.stdout.contains("NOT HEALTHY: 1 of 3 nodes"),
        "{}",
        finished.describe()
    );
    let finished = cluster.fails(&["status", "--json"], 4);
    let status: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(status["healthy"], false);
    assert_eq!(finished.stderr, "");
}
