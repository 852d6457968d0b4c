//! A tree of some thousand real files through the programs that people copy trees with.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Place, SourceTree, attempt, digest_hex, run};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const FILES: usize = 3_000;
/// One program over the whole tree.
const LIMIT: Duration = Duration::from_secs(400);

#[test]
fn tree_of_real_files_survives_cp_diff_tar_rsync_and_rm() {
    let mut place = Place::new(ClusterOptions::default());
    let source = SourceTree::collect(place.scratch("source"), FILES);
    let dir = place.dir().to_owned();
    let inodes_before = inodes(&mut place);

    let copy = dir.join("copy");
    run(Command::new("cp").arg("-a").arg(source.dir()).arg(&copy), LIMIT);
    // At once, from whatever is cached, and again from the servers.
    assert_same_content(source.dir(), &copy);
    place.cool();
    assert_same_content(source.dir(), &copy);
    assert_same_attributes(source.dir(), &copy);

    through_tar(source.dir(), &copy, &dir, &mut place);
    through_rsync(source.dir(), &dir.join("rsync"), &mut place);

    run(
        Command::new("rm")
            .arg("-rf")
            .args([&copy, &dir.join("untar"), &dir.join("rsync")]),
        LIMIT,
    );
    run(Command::new("rm").arg(dir.join("copy.tar")), LIMIT);
    let left: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "left after rm -rf: {left:?}");
    place.cool();
    // What a program renamed over is kept for a few seconds.
    if let (Some(cluster), Some(before)) = (place.cluster(), inodes_before) {
        cluster.wait_status("every inode of the tree is gone", |status| {
            status["inodes"] == before
        });
    }
}

/// Inodes of the cluster; nothing on a local directory, which others use too.
fn inodes(place: &mut Place) -> Option<u64> {
    place
        .cluster()
        .map(|cluster| cluster.status()["inodes"].as_u64().expect("status has inodes"))
}

#[track_caller]
fn assert_same_content(one: &Path, two: &Path) {
    run(
        Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(one)
            .arg(two),
        LIMIT,
    );
}

/// Kinds, modes, owners, times to the nanosecond, links, hard links and content: rsync would change nothing.
#[track_caller]
fn assert_same_attributes(from: &Path, to: &Path) {
    assert_eq!(
        rsync(from, to, &["--dry-run", "--delete"]),
        "",
        "rsync finds differences between {from:?} and {to:?}"
    );
}

/// What rsync says it changed, one line a file.
#[track_caller]
fn rsync(from: &Path, to: &Path, more: &[&str]) -> String {
    let mut command = Command::new("rsync");
    command
        .args(["-aH", "--checksum", "--itemize-changes", "--modify-window=-1"])
        .args(more);
    let slash = |path: &Path| format!("{}/", path.display());
    run(command.arg(slash(from)).arg(slash(to)), LIMIT)
}

/// Out: an archive of what is on the mount, equal to one of the source. In: unpacked from the mount onto the mount.
fn through_tar(source: &Path, copy: &Path, dir: &Path, place: &mut Place) {
    let archive = dir.join("copy.tar");
    let pack = |from: &Path, to: &Path| {
        let mut tar = Command::new("tar");
        tar.args([
            "--format=posix",
            "--sort=name",
            "--pax-option=delete=atime,delete=ctime,exthdr.name=%f",
        ]);
        run(tar.arg("-cf").arg(to).arg("-C").arg(from).arg("."), LIMIT);
    };
    let expected = place.scratch("archives").join("source.tar");
    pack(source, &expected);
    pack(copy, &archive);
    place.cool();
    assert_eq!(
        digest_hex(&archive),
        digest_hex(&expected),
        "the archive of the copy is that of the source"
    );

    let untar = dir.join("untar");
    std::fs::create_dir(&untar).unwrap();
    run(
        Command::new("tar")
            .arg("-xpf")
            .arg(&archive)
            .arg("-C")
            .arg(&untar),
        LIMIT,
    );
    place.cool();
    assert_same_content(source, &untar);
    assert_same_attributes(source, &untar);
}

fn through_rsync(source: &Path, to: &Path, place: &mut Place) {
    let first = rsync(source, to, &[]);
    assert!(
        first.lines().count() >= FILES,
        "the first run transfers everything:\n{first}"
    );
    assert_eq!(rsync(source, to, &[]), "", "the second run transfers nothing");
    place.cool();
    let second = rsync(source, to, &["--stats"]);
    assert!(
        second.contains("Number of regular files transferred: 0\n"),
        "{second}"
    );

    // The check itself: one changed byte and one changed time are seen.
    let victim = to.join("corner/large");
    let (time, mut bytes) = (
        std::fs::metadata(&victim).unwrap().modified().unwrap(),
        std::fs::read(&victim).unwrap(),
    );
    bytes[50_000] ^= 1;
    std::fs::write(&victim, &bytes).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&victim)
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert!(
        !attempt(Command::new("diff").arg("-rq").arg(source).arg(to), LIMIT)
            .status
            .success()
    );
    assert_eq!(
        rsync(source, to, &[]).lines().count(),
        1,
        "rsync mends what differs, and that only"
    );
}
