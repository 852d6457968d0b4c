//! Content: reading and writing.

use crate::case::{Why, equal};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn open(path: &Path) -> std::io::Result<fs::File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

pub fn unlinked_file_stays_readable(dir: &Path) -> Result<(), Why> {
    let file = open(&dir.join("a"))?;
    file.write_all_at(b"before", 0)?;
    fs::remove_file(dir.join("a"))?;
    file.write_all_at(b" and after", 6)?;
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, 0)?;
    equal("content", &bytes, b"before and after")?;
    equal("size", file.metadata()?.len(), 16)
}

pub fn append_goes_to_the_end(dir: &Path) -> Result<(), Why> {
    let path = dir.join("a");
    fs::write(&path, "one")?;
    let mut appender = OpenOptions::new().append(true).open(&path)?;
    appender.write_all(b"two")?;
    open(&path)?.write_all_at(b"three", 6)?;
    appender.write_all(b"four")?;
    equal(
        "content",
        fs::read_to_string(&path)?,
        "onetwothreefour".to_string(),
    )
}

pub fn holes_read_as_zeros(dir: &Path) -> Result<(), Why> {
    let path = dir.join("a");
    let file = open(&path)?;
    file.write_all_at(&[7; 100_000], 0)?;
    file.set_len(10)?;
    file.set_len(200_000)?;
    file.write_all_at(b"end", 300_000)?;
    file.sync_all()?;
    let mut expected = vec![0; 300_003];
    expected[..10].fill(7);
    expected[300_000..].copy_from_slice(b"end");
    equal("whole content is right", fs::read(&path)? == expected, true)
}

pub fn two_descriptors_agree(dir: &Path) -> Result<(), Why> {
    let (writer, reader) = (open(&dir.join("a"))?, open(&dir.join("a"))?);
    for round in 0..50_u64 {
        writer.write_all_at(&round.to_le_bytes(), round * 5000)?;
        let mut bytes = [0; 8];
        reader.read_exact_at(&mut bytes, round * 5000)?;
        equal("the other descriptor", u64::from_le_bytes(bytes), round)?;
        equal("its size", reader.metadata()?.len(), round * 5000 + 8)?;
    }
    Ok(())
}

pub fn truncate_on_open(dir: &Path) -> Result<(), Why> {
    let path = dir.join("a");
    fs::write(&path, vec![1; 70_000])?;
    let other = open(&path)?;
    drop(fs::File::create(&path)?);
    equal("size elsewhere", other.metadata()?.len(), 0)?;
    equal("bytes elsewhere", other.read_at(&mut [0; 10], 0)?, 0)
}
