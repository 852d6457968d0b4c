//! Names: create, rename, link, rmdir, listing.

use crate::case::{Why, equal, fails};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

pub fn create_exclusive(dir: &Path) -> Result<(), Why> {
    let exclusive = |name: &str| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(dir.join(name))
    };
    exclusive("a")?;
    fails("again", exclusive("a"), Errno::EEXIST)?;
    symlink("nowhere", dir.join("link"))?;
    fails("dangling link", exclusive("link"), Errno::EEXIST)
}

pub fn name_of_255_bytes(dir: &Path) -> Result<(), Why> {
    let name: Vec<u8> = (0..255)
        .map(|i| if i == 0 { b'x' } else { 128 + (i % 100) as u8 })
        .collect();
    File::create(dir.join(OsStr::from_bytes(&name)))?;
    let listed: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    equal("entries", listed.len(), 1)?;
    equal("the name", listed[0].file_name().as_bytes(), &name[..])?;
    let long = [&name[..], b"y"].concat();
    fails(
        "256 bytes",
        File::create(dir.join(OsStr::from_bytes(&long))),
        Errno::ENAMETOOLONG,
    )
}

pub fn rename_replaces(dir: &Path) -> Result<(), Why> {
    let at = |name: &str| dir.join(name);
    fs::write(at("a"), "new")?;
    fs::write(at("b"), "old")?;
    fs::rename(at("a"), at("b"))?;
    equal("content", fs::read_to_string(at("b"))?, "new".to_string())?;
    fails("the old name", fs::metadata(at("a")), Errno::ENOENT)?;
    fs::create_dir(at("d"))?;
    fs::create_dir(at("e"))?;
    fs::rename(at("d"), at("e"))?;
    fails("file over directory", fs::rename(at("b"), at("e")), Errno::EISDIR)?;
    fails(
        "directory over file",
        fs::rename(at("e"), at("b")),
        Errno::ENOTDIR,
    )?;
    fs::create_dir(at("f"))?;
    fs::write(at("f/x"), "")?;
    fails(
        "over a full directory",
        fs::rename(at("e"), at("f")),
        Errno::ENOTEMPTY,
    )
}

pub fn rename_below_itself(dir: &Path) -> Result<(), Why> {
    fs::create_dir_all(dir.join("a/b/c"))?;
    fails(
        "a to a/b/c/d",
        fs::rename(dir.join("a"), dir.join("a/b/c/d")),
        Errno::EINVAL,
    )?;
    equal("still there", dir.join("a/b/c").is_dir(), true)
}

pub fn rmdir_not_empty(dir: &Path) -> Result<(), Why> {
    fs::create_dir_all(dir.join("a/b"))?;
    fails("rmdir a", fs::remove_dir(dir.join("a")), Errno::ENOTEMPTY)?;
    fs::remove_dir(dir.join("a/b"))?;
    Ok(fs::remove_dir(dir.join("a"))?)
}

pub fn link_counts(dir: &Path) -> Result<(), Why> {
    let links = |name: &str| fs::metadata(dir.join(name)).map(|metadata| metadata.nlink());
    fs::write(dir.join("a"), "")?;
    fs::hard_link(dir.join("a"), dir.join("b"))?;
    equal("links of a", links("a")?, 2)?;
    fs::remove_file(dir.join("a"))?;
    equal("links of b", links("b")?, 1)?;
    fs::create_dir_all(dir.join("d/e"))?;
    equal("links of d", links("d")?, 3)?;
    fs::remove_dir(dir.join("d/e"))?;
    equal("links of d without e", links("d")?, 2)
}

pub fn listing_is_complete(dir: &Path) -> Result<(), Why> {
    const ENTRIES: usize = 2000;
    for number in 0..ENTRIES {
        File::create(dir.join(format!("entry-{number:05}")))?;
    }
    let listed: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_, Why>>()?;
    equal("entries", listed.len(), ENTRIES)?;
    equal(
        "different names",
        listed.into_iter().collect::<BTreeSet<_>>().len(),
        ENTRIES,
    )
}
