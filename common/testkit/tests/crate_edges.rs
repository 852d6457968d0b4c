//! Which crate may import which: the table of the architecture, checked against the manifests.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// A crate and the crates of this workspace that it may import.
const ALLOWED: &[(&str, &[&str])] = &[
    ("dfs-common", &[]),
    ("dfs-proto", &["dfs-common"]),
    ("dfs-client", &["dfs-common", "dfs-proto"]),
    ("dfs-coordinator", &["dfs-common", "dfs-proto"]),
    ("dfs-datanode", &["dfs-common", "dfs-proto"]),
    ("dfs-gateway", &["dfs-common", "dfs-client"]),
    ("dfs-cli", &["dfs-common", "dfs-client"]),
    (
        "dfs-server",
        &["dfs-common", "dfs-coordinator", "dfs-datanode", "dfs-gateway"],
    ),
    ("dfs-fuse", &["dfs-common", "dfs-client"]),
    ("xfstests-lite", &[]),
    (
        "dfs-testkit",
        &[
            "dfs-common",
            "dfs-proto",
            "dfs-client",
            "dfs-coordinator",
            "dfs-datanode",
            "dfs-gateway",
        ],
    ),
];

/// Imports among the workspace's crates, by crate. Those for tests alone are not looked at.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let own: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let imports = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let product = all.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
        product
            .map(|dependency| text(&dependency["name"]))
            .filter(|name| own.contains(name))
            .collect()
    };
    packages
        .iter()
        .map(|package| (text(&package["name"]), imports(package)))
        .collect()
}

fn forbidden(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (from, imports) in edges {
        match ALLOWED.iter().find(|(name, _)| name == from) {
            None => found.push(format!("{from} is not in the table")),
            Some((_, allowed)) => {
                let more = imports.iter().filter(|to| !allowed.contains(&&to[..]));
                found.extend(more.map(|to| format!("{from} -> {to}")));
            }
        }
    }
    found
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let edges = edges();
    assert!(
        edges["dfs-client"].contains("dfs-proto"),
        "imports are seen: {edges:?}"
    );
    let found = forbidden(&edges);
    assert!(
        found.is_empty(),
        "imports that the architecture does not allow; the table in the documents changes first: {found:?}"
    );
}

#[test]
fn forbidden_import_and_unknown_crate_are_found() {
    let mut edges = edges();
    edges.get_mut("dfs-common").unwrap().insert("dfs-proto".into());
    edges.insert("dfs-utils".into(), BTreeSet::new());
    let found = forbidden(&edges);
    assert!(found.contains(&"dfs-common -> dfs-proto".into()), "{found:?}");
    assert!(
        found.contains(&"dfs-utils is not in the table".into()),
        "{found:?}"
    );
}
