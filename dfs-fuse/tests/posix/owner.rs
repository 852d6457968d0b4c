//! Owners and groups of what is made, who may change them, and the set-id bits.

use crate::sys::errno;
use dfs_testkit::process::{User, as_user};
use nix::libc::EPERM;
use nix::sys::stat::{Mode, SFlag, mknod};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

crate::checks![
    new_names_belong_to_their_maker,
    setgid_directory_gives_its_group,
    only_root_gives_files_away,
    owner_may_give_the_group_to_a_group_of_his,
    chown_of_a_symbolic_link_is_of_the_link,
    mode_is_changed_by_owner_and_root_only,
    writing_clears_set_id_bits,
    truncating_clears_set_id_bits,
    chown_clears_set_id_bits,
    setgid_is_refused_for_a_group_that_one_is_not_in,
    umask_is_honoured,
];

const MAKER: User = User {
    uid: 1001,
    gid: 2001,
    groups: &[2002],
};
const OTHER: User = User::plain(1003);

fn owner_of(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// One of each kind.
fn make_all(dir: &Path) -> [std::path::PathBuf; 4] {
    let paths = ["file", "directory", "link", "fifo"].map(|name| dir.join(name));
    as_user(MAKER, || {
        fs::write(&paths[0], "content").unwrap();
        fs::create_dir(&paths[1]).unwrap();
        symlink("target", &paths[2]).unwrap();
        mknod(&paths[3], SFlag::S_IFIFO, Mode::S_IRWXU, 0).unwrap();
    });
    paths
}

fn new_names_belong_to_their_maker(dir: &Path) {
    for path in make_all(dir) {
        assert_eq!(owner_of(&path), (1001, 2001), "{path:?}");
    }
}

fn setgid_directory_gives_its_group(dir: &Path) {
    chown(dir, None, Some(3001)).unwrap();
    set_mode(dir, 0o2777).unwrap();
    let paths = make_all(dir);
    for path in &paths {
        assert_eq!(owner_of(path), (1001, 3001), "{path:?}");
    }
    assert_eq!(mode_of(&paths[1]) & 0o2000, 0o2000, "directories in it do so too");
    assert_eq!(mode_of(&paths[0]) & 0o2000, 0, "files do not");
}

fn only_root_gives_files_away(dir: &Path) {
    let [file, ..] = make_all(dir);
    for user in [MAKER, OTHER] {
        assert_eq!(errno(as_user(user, || chown(&file, Some(1003), None))), EPERM);
        assert_eq!(errno(as_user(user, || chown(&file, None, Some(3001)))), EPERM);
    }
    assert_eq!(owner_of(&file), (1001, 2001));
    chown(&file, Some(1003), Some(3001)).unwrap();
    assert_eq!(owner_of(&file), (1003, 3001));
}

fn owner_may_give_the_group_to_a_group_of_his(dir: &Path) {
    let [file, ..] = make_all(dir);
    as_user(MAKER, || chown(&file, Some(1001), Some(2002))).unwrap();
    assert_eq!(owner_of(&file), (1001, 2002));
}

fn chown_of_a_symbolic_link_is_of_the_link(dir: &Path) {
    fs::write(dir.join("file"), "").unwrap();
    symlink("file", dir.join("link")).unwrap();
    lchown(dir.join("link"), Some(1001), Some(2001)).unwrap();
    assert_eq!(owner_of(&dir.join("link")), (1001, 2001));
    assert_eq!(owner_of(&dir.join("file")), (0, 0));
    chown(dir.join("link"), Some(1003), None).unwrap();
    assert_eq!(owner_of(&dir.join("file")).0, 1003);
}

fn mode_is_changed_by_owner_and_root_only(dir: &Path) {
    let [file, ..] = make_all(dir);
    set_mode(&file, 0o666).unwrap();
    assert_eq!(errno(as_user(OTHER, || set_mode(&file, 0o777))), EPERM);
    as_user(MAKER, || set_mode(&file, 0o4701)).unwrap();
    assert_eq!(mode_of(&file), 0o4701);
    set_mode(&file, 0o640).unwrap();
    assert_eq!(mode_of(&file), 0o640);
}

fn writing_clears_set_id_bits(dir: &Path) {
    let [file, ..] = make_all(dir);
    set_mode(&file, 0o6777).unwrap();
    as_user(OTHER, || {
        File::options()
            .append(true)
            .open(&file)
            .unwrap()
            .write_all(b"x")
            .unwrap()
    });
    assert_eq!(mode_of(&file), 0o777);
    // Set-group-id without group execution is not an identity: kept when a member writes.
    set_mode(&file, 0o2666).unwrap();
    as_user(MAKER, || {
        File::options()
            .append(true)
            .open(&file)
            .unwrap()
            .write_all(b"x")
            .unwrap()
    });
    assert_eq!(mode_of(&file), 0o2666);
    set_mode(&file, 0o4755).unwrap();
    File::options()
        .append(true)
        .open(&file)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert_eq!(mode_of(&file), 0o4755, "root keeps them");
}

fn truncating_clears_set_id_bits(dir: &Path) {
    let [file, ..] = make_all(dir);
    set_mode(&file, 0o6777).unwrap();
    as_user(OTHER, || nix::unistd::truncate(&file, 1).unwrap());
    assert_eq!(mode_of(&file), 0o777);
    set_mode(&file, 0o6777).unwrap();
    as_user(OTHER, || File::create(&file).unwrap());
    assert_eq!(mode_of(&file), 0o777);
}

fn chown_clears_set_id_bits(dir: &Path) {
    let [file, directory, ..] = make_all(dir);
    set_mode(&file, 0o6755).unwrap();
    as_user(MAKER, || chown(&file, None, Some(2002))).unwrap();
    assert_eq!(mode_of(&file), 0o755);
    set_mode(&file, 0o6755).unwrap();
    chown(&file, Some(1003), None).unwrap();
    assert_eq!(mode_of(&file), 0o755, "also when root does it");
    set_mode(&directory, 0o6755).unwrap();
    chown(&directory, Some(1003), None).unwrap();
    assert_eq!(mode_of(&directory), 0o6755, "a directory's mean something else");
}

fn setgid_is_refused_for_a_group_that_one_is_not_in(dir: &Path) {
    let [file, ..] = make_all(dir);
    chown(&file, None, Some(3001)).unwrap();
    as_user(MAKER, || set_mode(&file, 0o2755)).unwrap();
    assert_eq!(mode_of(&file), 0o755);
    chown(&file, None, Some(2002)).unwrap();
    as_user(MAKER, || set_mode(&file, 0o2755)).unwrap();
    assert_eq!(mode_of(&file), 0o2755);
}

fn umask_is_honoured(dir: &Path) {
    let script = "umask 027 && : > file && mkdir directory && mkfifo fifo";
    assert!(
        Command::new("sh")
            .args(["-c", script])
            .current_dir(dir)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(mode_of(&dir.join("file")), 0o640);
    assert_eq!(mode_of(&dir.join("directory")), 0o750);
    assert_eq!(mode_of(&dir.join("fifo")), 0o640);
}
