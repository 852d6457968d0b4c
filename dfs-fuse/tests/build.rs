//! A compiler and a linker at work: a small crate is built with source and target directory on the mount, and run.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Place, run};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn crate_is_built_changed_and_run() {
    let mut place = Place::new(ClusterOptions::default());
    let source = place.dir().join("crate");
    let target = place.dir().join("target");
    write_crate(&source, 1);
    cargo(&source, &target, &["build"]);
    assert_eq!(
        run(&mut Command::new(target.join("debug/small")), LIMIT),
        "answer 42, edition 1\n"
    );
    let fresh = cargo(&source, &target, &["build", "--message-format=json"]);
    assert_eq!(
        rebuilt(&fresh),
        0,
        "nothing changed, nothing is built again:\n{fresh}"
    );

    place.cool();
    let fresh = cargo(&source, &target, &["build", "--message-format=json"]);
    assert_eq!(
        rebuilt(&fresh),
        0,
        "time stamps are the same after a remount:\n{fresh}"
    );
    assert_eq!(
        run(&mut Command::new(target.join("debug/small")), LIMIT),
        "answer 42, edition 1\n"
    );

    fs::write(source.join("src/edition.rs"), "pub const EDITION: u32 = 2;\n").unwrap();
    cargo(&source, &target, &["build"]);
    assert_eq!(
        run(&mut Command::new(target.join("debug/small")), LIMIT),
        "answer 42, edition 2\n"
    );
    // Another profile, and the program that cargo itself starts from there.
    cargo(&source, &target, &["test", "--release"]);
    cargo(&source, &target, &["clean"]);
    assert!(!target.join("debug").exists());
}

/// Two crates of one workspace and a build script, so that the build writes and runs more than one program.
fn write_crate(dir: &Path, edition: u32) {
    let files = [
        (
            "Cargo.toml",
            "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
             [workspace]\nmembers = [\"part\"]\n[dependencies]\npart = { path = \"part\" }\n"
                .to_owned(),
        ),
        (
            "build.rs",
            "fn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
             std::fs::write(format!(\"{out}/answer.rs\"), \"const ANSWER: u32 = 42;\").unwrap();\n    \
             println!(\"cargo:rerun-if-changed=build.rs\");\n}\n"
                .to_owned(),
        ),
        (
            "src/main.rs",
            "mod edition;\ninclude!(concat!(env!(\"OUT_DIR\"), \"/answer.rs\"));\n\
             fn main() {\n    println!(\"{}\", part::sentence(ANSWER, edition::EDITION));\n}\n\
             #[test]\nfn sentence_names_both() {\n    assert_eq!(part::sentence(1, 2), \"answer 1, edition 2\");\n}\n"
                .to_owned(),
        ),
        ("src/edition.rs", format!("pub const EDITION: u32 = {edition};\n")),
        ("part/Cargo.toml", "[package]\nname = \"part\"\nversion = \"0.1.0\"\nedition = \"2021\"\n".to_owned()),
        (
            "part/src/lib.rs",
            "pub fn sentence(answer: u32, edition: u32) -> String {\n    \
             format!(\"answer {answer}, edition {edition}\")\n}\n"
                .to_owned(),
        ),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// Runs cargo without the settings of the build that this test is part of.
#[track_caller]
fn cargo(source: &Path, target: &Path, args: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let kept = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&text.as_ref());
        let ours = ["CARGO", "RUST", "NEXTEST"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if ours && !kept {
            command.env_remove(name);
        }
    }
    command.env("CARGO_TARGET_DIR", target).current_dir(source);
    run(
        command
            .args(args)
            .arg("--offline")
            .args(if args[0] == "clean" { &[][..] } else { &["--quiet"] }),
        LIMIT,
    )
}

/// Artefacts that were not fresh.
fn rebuilt(messages: &str) -> usize {
    messages
        .lines()
        .filter(|line| line.contains("\"fresh\":false"))
        .count()
}
