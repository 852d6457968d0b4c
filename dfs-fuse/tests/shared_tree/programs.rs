//! SQLite, rsync and a compiler on two mounts.

use super::*;
use dfs_testkit::process::{SourceTree, attempt, run, start};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Rows that each of four writers adds.
const ROWS: usize = 40;
const FILES: usize = 300;

#[track_caller]
fn sqlite(database: &Path, script: &str) -> String {
    let mut command = Command::new("sqlite3");
    command
        .args(["-batch", "-bail", "-cmd", ".timeout 120000"])
        .arg(database)
        .arg(script);
    run(&mut command, LIMIT)
}

#[test]
fn sqlite_with_a_rollback_journal_is_written_from_two_mounts_without_a_row_lost() {
    let (_cluster, mounts) = set_up();
    let database = |mount: &Mount| mount.path().join("database");
    sqlite(&database(&mounts[0]), "create table entry(who, number, text);");
    let writing: Vec<_> = mounts
        .iter()
        .flat_map(|mount| [mount, mount])
        .enumerate()
        .map(|(who, mount)| {
            let path = database(mount);
            start("a writer", move || {
                for number in 0..ROWS {
                    let mut script = String::new();
                    let text = "x".repeat(number * 37 % 3000);
                    let _ = write!(
                        script,
                        "begin immediate; insert into entry values({who}, {number}, '{text}'); commit; \
                         select count(*) from entry where who = {who};"
                    );
                    let own = sqlite(&path, &script);
                    assert_eq!(own.trim(), (number + 1).to_string(), "its own rows are there");
                }
            })
        })
        .collect();
    writing.into_iter().for_each(|writing| writing.wait(LIMIT));
    for mount in &mounts {
        assert_eq!(sqlite(&database(mount), "pragma integrity_check;").trim(), "ok");
        let rows = sqlite(
            &database(mount),
            "select count(distinct who * 1000 + number) from entry;",
        );
        assert_eq!(rows.trim(), (4 * ROWS).to_string());
    }
}

#[test]
fn sqlite_with_a_write_ahead_log_is_for_one_mount_and_says_so_on_the_other() {
    let (_cluster, mounts) = set_up();
    let path = |mount: &Mount| mount.path().join("database");
    sqlite(
        &path(&mounts[0]),
        "pragma journal_mode=wal; create table entry(number);",
    );
    // One that keeps it open; the other one comes while it does.
    let holder = "
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute('insert into entry values(1)')
database.commit()
print('ready', flush=True)
sys.stdin.read()
database.execute('insert into entry values(2)')
database.commit()
print(database.execute('select count(*) from entry').fetchone()[0])
";
    let mut holding = Command::new("python3")
        .args(["-c", holder])
        .arg(path(&mounts[0]))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(holding.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let mut other = Command::new("sqlite3");
    other.arg(path(&mounts[1])).arg("insert into entry values(3);");
    let refused = attempt(&mut other, LIMIT);
    assert!(!refused.status.success(), "{}", refused.describe());
    drop(holding.stdin.take());
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "2\n", "nothing of the one who has it is lost");
    assert!(holding.wait().unwrap().success());
    // Afterwards it is the other one's.
    let rows = sqlite(
        &path(&mounts[1]),
        "insert into entry values(3); select count(*) from entry;",
    );
    assert_eq!(rows.trim(), "3");
}

#[test]
fn rsync_and_a_compiler_work_on_two_mounts_in_one_tree() {
    let (_cluster, mounts) = set_up();
    let scratch = tempfile::tempdir().unwrap();
    let source = SourceTree::collect(scratch.path().join("source"), FILES);
    let copying: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(who, mount)| {
            let (from, to) = (source.dir().to_owned(), mount.path().join(format!("copy-{who}")));
            start("rsync", move || {
                let mut rsync = Command::new("rsync");
                run(
                    rsync.arg("-aH").arg(format!("{}/", from.display())).arg(to),
                    LIMIT,
                );
            })
        })
        .collect();
    let program = mounts[0].path().join("program");
    fs::create_dir(&program).unwrap();
    write_program(&program, 1);
    let building: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(who, mount)| {
            let dir = mount.path().join("program");
            start("make", move || make(&dir, who))
        })
        .collect();
    copying.into_iter().for_each(|copying| copying.wait(LIMIT));
    building.into_iter().for_each(|building| building.wait(LIMIT));
    for (mount, other) in [(&mounts[0], 1), (&mounts[1], 0)] {
        let copy = mount.path().join(format!("copy-{other}"));
        run(
            Command::new("diff")
                .args(["-r", "--no-dereference"])
                .arg(source.dir())
                .arg(&copy),
            LIMIT,
        );
        // Nothing is new to it: sizes and times are what they are.
        let mut rsync = Command::new("rsync");
        rsync
            .args(["-aHi", "--dry-run"])
            .arg(format!("{}/", source.dir().display()))
            .arg(&copy);
        assert_eq!(run(&mut rsync, LIMIT), "");
        // What the other one has built runs here.
        let built = mount.path().join(format!("program/out-{other}/main"));
        assert_eq!(run(&mut Command::new(built), LIMIT), "sum 1225\n");
    }
    // A change of one is noticed by the make of the other.
    write_program(&mounts[0].path().join("program"), 2);
    make(&mounts[1].path().join("program"), 1);
    let built = mounts[0].path().join("program/out-1/main");
    assert_eq!(run(&mut Command::new(built), LIMIT), "sum 2450\n");
}

const PARTS: u32 = 50;

fn write_program(dir: &Path, factor: u32) {
    let mut main = String::from("#include <stdio.h>\n");
    for part in 0..PARTS {
        let text = format!("int part{part}(void) {{ return {part} * {factor}; }}\n");
        fs::write(dir.join(format!("part{part}.c")), text).unwrap();
        let _ = writeln!(main, "int part{part}(void);");
    }
    main.push_str("int main(void) { int sum = 0;\n");
    for part in 0..PARTS {
        let _ = writeln!(main, "sum += part{part}();");
    }
    main.push_str("printf(\"sum %d\\n\", sum); return 0; }\n");
    fs::write(dir.join("main.c"), main).unwrap();
    let makefile = "OUT ?= out\nOBJECTS := $(patsubst %.c,$(OUT)/%.o,$(wildcard *.c))\n\
        $(OUT)/main: $(OBJECTS)\n\tcc -o $@ $^\n\
        $(OUT)/%.o: %.c\n\t@mkdir -p $(OUT)\n\tcc -O0 -c -o $@ $<\n";
    fs::write(dir.join("Makefile"), makefile).unwrap();
}

fn make(dir: &Path, who: usize) {
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(dir).arg(format!("OUT=out-{who}"));
    run(&mut make, LIMIT);
}
