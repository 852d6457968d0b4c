//! Attributes: modes, times, kinds.

use crate::case::{Why, equal};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

pub fn mode_bits_survive(dir: &Path) -> Result<(), Why> {
    let path = dir.join("d");
    fs::create_dir(&path)?;
    for mode in [0o0000, 0o7777, 0o1755, 0o0700] {
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        equal("mode", fs::metadata(&path)?.mode() & 0o7777, mode)?;
    }
    Ok(())
}

pub fn times_have_nanoseconds(dir: &Path) -> Result<(), Why> {
    let path = dir.join("a");
    fs::write(&path, "")?;
    for (atime, mtime) in [
        ((1_000_000_000, 1), (1_234_567_890, 999_999_999)),
        ((-5, 7), (-1, 0)),
    ] {
        let spec = |(secs, nanos)| TimeSpec::new(secs, nanos);
        utimensat(
            nix::fcntl::AT_FDCWD,
            &path,
            &spec(atime),
            &spec(mtime),
            UtimensatFlags::NoFollowSymlink,
        )?;
        let found = fs::metadata(&path)?;
        equal("atime", (found.atime(), found.atime_nsec()), atime)?;
        equal("mtime", (found.mtime(), found.mtime_nsec()), mtime)?;
    }
    Ok(())
}

pub fn change_moves_times(dir: &Path) -> Result<(), Why> {
    let path = dir.join("a");
    fs::write(&path, "")?;
    let old = TimeSpec::new(1000, 0);
    utimensat(
        nix::fcntl::AT_FDCWD,
        &path,
        &old,
        &old,
        UtimensatFlags::NoFollowSymlink,
    )?;
    let ctime = |metadata: &fs::Metadata| (metadata.ctime(), metadata.ctime_nsec());
    let before = fs::metadata(&path)?;
    fs::write(&path, "x")?;
    let written = fs::metadata(&path)?;
    equal("a write moves mtime", written.mtime() > 1000, true)?;
    equal("a write moves ctime", ctime(&written) > ctime(&before), true)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    let changed = fs::metadata(&path)?;
    equal(
        "chmod leaves mtime",
        (changed.mtime(), changed.mtime_nsec()),
        (written.mtime(), written.mtime_nsec()),
    )?;
    equal("chmod moves ctime", ctime(&changed) > ctime(&written), true)
}

pub fn fifo_is_a_fifo(dir: &Path) -> Result<(), Why> {
    let path = dir.join("pipe");
    mknod(&path, SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)?;
    equal("kind", fs::metadata(&path)?.file_type().is_fifo(), true)?;
    let writing = path.clone();
    let writer = std::thread::spawn(move || {
        fs::OpenOptions::new()
            .write(true)
            .open(writing)?
            .write_all(b"through")
    });
    let mut text = String::new();
    fs::File::open(&path)?.read_to_string(&mut text)?;
    writer.join().map_err(|_| "the writer panicked")??;
    equal("text", text.as_str(), "through")
}
