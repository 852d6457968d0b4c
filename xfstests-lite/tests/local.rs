//! Every case holds on the local file system, and a case that does not hold is told.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::process::Command;

fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xfstests-lite"))
        .args(args)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn every_case_passes_on_the_local_file_system() {
    let dir = env!("CARGO_TARGET_TMPDIR");
    let (code, output) = run(&[dir]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.ends_with("16 passed, 0 failed\n"), "{output}");
}

#[test]
fn difference_is_told_and_fails() {
    // /proc takes no new names: every case fails there.
    let (code, output) = run(&["--group", "attr", "/proc"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("FAILED"), "{output}");
}

#[test]
fn wrong_usage_is_2() {
    assert_eq!(run(&["/nonexistent"]).0, Some(2));
    assert_eq!(run(&["--group", "none", "/tmp"]).0, Some(2));
}
