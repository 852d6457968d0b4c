//! `du` and `admin quota` on a real cluster.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::TestCluster;
use serde_json::json;

#[test]
fn quotas_are_set_listed_cleared_and_obeyed() {
    let cluster = TestCluster::start();
    let file = cluster.file("f", &[1; 5000]);
    cluster.ok(&["mkdir", "-p", "/a/b"]);
    cluster.ok(&["upload", &file, "/a/b/f"]);

    let usage = &cluster.json(&["du", "/a"])[0];
    assert_eq!(
        usage,
        &json!({
            "path": "/a", "bytes": 5000, "files": 1, "directories": 1, "bytes_allowed": null, "inodes_allowed": null,
        })
    );
    assert_eq!(cluster.ok(&["admin", "quota", "ls"]), "no quotas are set\n");
    assert!(cluster.json(&["admin", "quota", "ls"]).is_empty());

    let set = cluster.ok(&["admin", "quota", "set", "/a", "--bytes", "8K", "--inodes", "3"]);
    assert_eq!(
        set,
        "/a: at most 8192 bytes (8.00 KiB), at most 3 files and directories\n"
    );
    let listed = cluster.json(&["admin", "quota", "ls"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (
            &listed[0]["path"],
            &listed[0]["quota"],
            &listed[0]["used_bytes"],
            &listed[0]["used_inodes"]
        ),
        (
            &json!("/a"),
            &json!({"bytes": 8192, "inodes": 3}),
            &json!(5000),
            &json!(2)
        )
    );
    let usage = &cluster.json(&["du", "/a/b"])[0];
    assert_eq!(usage["bytes_allowed"], json!({"limit": 8192, "used": 5000}));
    let table = cluster.ok(&["du", "/a", "/"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("3192"), "{table}");

    let finished = cluster.fails(&["upload", &file, "/a/b/g"], 1);
    assert!(finished.stderr.contains("quota"), "{}", finished.describe());
    let finished = cluster.fails(&["--json", "upload", &file, "/a/b/g"], 1);
    assert!(
        finished.stderr.contains("\"quota_exceeded\""),
        "{}",
        finished.describe()
    );
    assert_eq!(cluster.names("/a/b"), ["f"], "nothing half copied is left");
    cluster.ok(&["mkdir", "/a/c"]);
    cluster.fails(&["mkdir", "/a/d"], 1);

    let finished = cluster.fails(&["admin", "quota", "set", "/a/b/f", "--bytes", "1G"], 1);
    assert!(
        finished.stderr.contains("only directories have quotas"),
        "{}",
        finished.describe()
    );
    cluster.fails(&["admin", "quota", "set", "/missing", "--bytes", "1G"], 1);
    cluster.fails(&["du", "/missing"], 1);
    cluster.fails(&["admin", "quota", "set", "/a"], 2);
    cluster.fails(&["admin", "quota", "set", "/a", "--bytes", "much"], 2);
    let cleared = cluster.ok(&["admin", "quota", "clear", "/a"]);
    assert_eq!(cleared, "/a: no quota\n");
    cluster.ok(&["upload", &file, "/a/b/g"]);
}
