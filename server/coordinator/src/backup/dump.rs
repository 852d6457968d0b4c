//! A dump: all metadata as lines of JSON, for people and their programs, and the data directory that it is of made again.
//!
//! The first line says whose it is, then comes one line per record in key order ([`super::tables`]), then one with their number. Loading is
//! exact: sessions are there again, numbers go on where they were, so dump, load and dump give the same bytes. For going back to an
//! earlier moment of a cluster that went on since there is the restore, which gets out of the way of what came after.

use super::{Source, everything, tables};
use crate::identity::{self, DataDir, NewDataDir};
use crate::namespace::{self, check};
use crate::store::{MetaRead, StoreKind, WriteBatch};
use crate::stored;
use bytes::Bytes;
use dfs_common::capability::CapabilityKey;
use dfs_common::{ClusterId, ErrorKind, FsError, FsResult, Timestamp};
use dfs_proto::json::bytes::{from_hex, to_hex};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

/// The version that is written, and the only one that is read.
pub const FORMAT_VERSION: u64 = 1;
const TITLE: &str = "DFS metadata";
/// Longest line that is read: a record of 64 KiB with every byte escaped fits.
const LINE_BYTES_MAX: u64 = 2 << 20;
/// Records that are committed at once.
const BATCH_RECORDS: usize = 1024;

/// Writes a dump of what `read`, a snapshot, shows; answers the number of records. Flushed, not synced.
///
/// # Errors
/// Those of the store, `NoSpace`, `Io`.
pub fn write(read: &dyn MetaRead, source: &Source, to: &mut dyn Write) -> FsResult<u64> {
    let writing = |error: std::io::Error| FsError::from(error).context("writing the dump");
    let schema = namespace::schema_version(read)?;
    writeln!(
        to,
        r#"{{"dump":"{TITLE}","version":{FORMAT_VERSION},"schema_version":{schema},"cluster":"{}","capability_key":"{}","epoch":{}}}"#,
        source.cluster,
        to_hex(&source.capability_key.0),
        source.epoch
    )
    .map_err(writing)?;
    let mut records = 0u64;
    stored::for_each(read, everything(), |key, value| {
        records += 1;
        writeln!(to, "{}", tables::line(&key, &value)).map_err(writing)
    })?;
    writeln!(to, r#"{{"end":"{TITLE}","records":{records}}}"#).map_err(writing)?;
    to.flush().map_err(writing)?;
    Ok(records)
}

/// Writes a dump of the stopped coordinator in `data_dir`.
///
/// # Errors
/// `Busy` (it is running), those of [`DataDir::open`] and [`write`].
pub fn write_stopped(data_dir: &Path, to: &mut dyn Write) -> FsResult<u64> {
    let data = DataDir::open_existing(data_dir)?;
    let source = Source {
        cluster: data.cluster,
        capability_key: data.capability_key,
        epoch: data.epoch()?,
        created: Timestamp::default(),
    };
    write(&*data.store, &source, to)
}

/// What a load made.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The cluster.
    pub cluster: ClusterId,
    /// Records.
    pub records: u64,
    /// Problems that a check of it found.
    pub problems: u64,
}

/// Makes the data directory `data_dir`, which must be new or empty, from a dump. Durable on return; after an error the directory
/// is as it was.
///
/// # Errors
/// `Invalid` (not a dump; a line that cannot be read, with its number; the directory is not empty), `UnknownVersion`, `Corrupt` (it
/// ends too early, records out of order), `Busy`, `NoSpace`, `Io`. With an error of the dump nothing was made.
pub fn load(file: &Path, data_dir: &Path, kind: StoreKind) -> FsResult<Loaded> {
    // The whole of it first: a wrong line makes nothing.
    let mut lines = Lines::open(file)?;
    while lines.record()?.is_some() {}
    let new = NewDataDir::make(data_dir, kind)?;
    let filled = fill(file, &new);
    if filled.is_err() {
        new.discard();
    }
    filled
}

fn fill(file: &Path, new: &NewDataDir) -> FsResult<Loaded> {
    let mut lines = Lines::open(file)?;
    let store = new.open_store()?;
    let mut batch = WriteBatch::default();
    while let Some((key, value)) = lines.record()? {
        batch.changes.push((key, Some(value)));
        if batch.changes.len() >= BATCH_RECORDS {
            store.commit_unsynced(std::mem::take(&mut batch))?;
        }
    }
    store.commit(batch)?;
    store.persist()?;
    namespace::check_schema(&*store)?;
    let problems = check::check_in(&*store, &new.scratch())?.problem_count;
    drop(store);
    let owner = lines.owner;
    new.finish(owner)?;
    Ok(Loaded {
        cluster: owner.cluster,
        records: lines.records,
        problems,
    })
}

/// The lines of a dump.
struct Lines {
    from: BufReader<File>,
    name: String,
    number: u64,
    owner: identity::Owner,
    records: u64,
    last: Bytes,
    ended: bool,
}

impl Lines {
    fn open(file: &Path) -> FsResult<Self> {
        let name = file.display().to_string();
        let opened = File::open(file)
            .map_err(|error| FsError::from(error).context(format_args!("opening the dump {name}")))?;
        let mut lines = Lines {
            from: BufReader::with_capacity(1 << 20, opened),
            name,
            number: 0,
            owner: identity::Owner {
                cluster: ClusterId(uuid::Uuid::nil()),
                capability_key: CapabilityKey([0; 32]),
                epoch: 0,
            },
            records: 0,
            last: Bytes::new(),
            ended: false,
        };
        let foreign = |lines: &Lines| {
            FsError::new(
                ErrorKind::Invalid,
                format!("{} is not a dump of DFS metadata", lines.name),
            )
        };
        let Ok(Some(first)) = lines.line() else {
            return Err(foreign(&lines));
        };
        if first.get("dump").and_then(Value::as_str) != Some(TITLE) {
            return Err(foreign(&lines));
        }
        lines.owner = lines.header(&first)?;
        Ok(lines)
    }

    fn header(&self, first: &Map<String, Value>) -> FsResult<identity::Owner> {
        let number = |name: &str| first.get(name).and_then(Value::as_u64);
        let text = |name: &str| first.get(name).and_then(Value::as_str);
        let known = [
            ("dump format", number("version"), FORMAT_VERSION),
            (
                "schema",
                number("schema_version"),
                namespace::SCHEMA_VERSION.into(),
            ),
        ];
        for (what, version, known) in known {
            if version != Some(known) {
                let version = version.map_or("no".to_owned(), |version| version.to_string());
                return Err(FsError::new(
                    ErrorKind::UnknownVersion,
                    format!(
                        "{} has {version} {what} version, this program knows {known}: use the release that wrote it",
                        self.name
                    ),
                ));
            }
        }
        let cluster = text("cluster").and_then(|text| uuid::Uuid::parse_str(text).ok());
        let key = text("capability_key").and_then(from_hex);
        let key: Option<[u8; 32]> = key.and_then(|key| key.try_into().ok());
        let (Some(cluster), Some(key), Some(epoch)) = (cluster, key, number("epoch")) else {
            return Err(self.wrong("it does not say whose metadata it is (cluster, capability_key, epoch)"));
        };
        Ok(identity::Owner {
            cluster: ClusterId(cluster),
            capability_key: CapabilityKey(key),
            epoch,
        })
    }

    fn wrong(&self, why: &str) -> FsError {
        FsError::new(
            ErrorKind::Invalid,
            format!("line {} of the dump {}: {why}", self.number, self.name),
        )
    }

    /// The next line; `None` at the end of the file.
    fn line(&mut self) -> FsResult<Option<Map<String, Value>>> {
        self.number += 1;
        let mut line = Vec::new();
        let read = (&mut self.from).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let read = read
            .map_err(|error| FsError::from(error).context(format_args!("reading the dump {}", self.name)))?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(self.wrong("it is too long, or has no end"));
        }
        match serde_json::from_slice(&line) {
            Ok(object) => Ok(Some(object)),
            Err(error) => Err(self.wrong(&format!("it is not an object of JSON ({error})"))),
        }
    }

    /// The next record, in key order; `None` after the last one of a whole dump.
    fn record(&mut self) -> FsResult<Option<super::file::Record>> {
        if self.ended {
            return Ok(None);
        }
        let Some(object) = self.line()? else {
            return Err(FsError::new(
                ErrorKind::Corrupt,
                format!(
                    "the dump {} ends too early, after line {}",
                    self.name,
                    self.number - 1
                ),
            ));
        };
        if object.contains_key("end") {
            if object.get("records").and_then(Value::as_u64) != Some(self.records) {
                return Err(self.wrong(&format!(
                    "it does not say that there are {} records",
                    self.records
                )));
            }
            if self.line()?.is_some() {
                return Err(self.wrong("something follows the end"));
            }
            self.ended = true;
            return Ok(None);
        }
        let (key, value) = tables::record(object).map_err(|why| self.wrong(&why))?;
        if key <= self.last {
            return Err(self.wrong("records must ascend by their keys, and this one does not"));
        }
        self.last = key.clone();
        self.records += 1;
        Ok(Some((key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::tests::owner;
    use crate::namespace::check::tests::populated;
    use crate::namespace::keys;
    use crate::store::MetaStore;
    use dfs_common::{Ino, Name};
    use std::path::PathBuf;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Place(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn load(&self, dump: &[u8], data: &str, kind: StoreKind) -> FsResult<Loaded> {
            std::fs::write(self.path("dump"), dump).unwrap();
            load(&self.path("dump"), &self.path(data), kind)
        }
    }

    /// With names and values that are no text, and records of every table.
    fn dumped() -> Vec<u8> {
        let mut fixture = populated();
        let odd = Name::new(&b"odd \xff\n\"name\\"[..]).unwrap();
        let create = dfs_common::op::Operation::Mkdir {
            parent: Ino::ROOT,
            name: odd,
            mode: 0o750,
        };
        fixture.root(create).unwrap();
        fixture.symlink(Ino::ROOT, "l", b"\xfe/target").unwrap();
        let record = |key: Bytes, value: &'static [u8]| (key, Some(Bytes::from_static(value)));
        let changes = vec![
            record(
                keys::reply(dfs_common::SessionId(7), dfs_common::OpNumber(3)),
                b"\x08\x01\xff",
            ),
            record(keys::unsynced(3), &[0, 0, 0, 0, 0, 0, 0, 9]),
            record(keys::spent_chunk(dfs_common::ChunkId(99)), b""),
            record(keys::xattr(Ino(1), b"user.\xff"), b"\0\x01\xfe"),
            record(Bytes::from_static(b"zunknown"), b"\xffx"),
            // With a field that only a later release knows.
            record(keys::orphan(Ino(77)), b"\x0a\x01\x07\xa0\x06\x01"),
            record(keys::next_session(), &[0, 0, 0, 0, 0, 0, 0, 12]),
        ];
        fixture.store.commit(WriteBatch { changes }).unwrap();
        let mut dump = Vec::new();
        write(&fixture.store, &owner(), &mut dump).unwrap();
        dump
    }

    #[test]
    fn dump_load_and_dump_give_the_same_bytes_with_any_store() {
        let dump = dumped();
        let text = String::from_utf8(dump.clone()).unwrap();
        for part in [
            r#""table":"entries","key":{"name":"f","parent":1}"#,
            r#""name":{"hex":"6f646420ff0a226e616d655c"}"#,
            r#""symlink_target":{"hex":"fe2f746172676574"}"#,
            r#""table":"entries","key":{"name":{"hex":"6f646420ff0a226e616d655c"},"parent":1}"#,
            r#""table":"orphans","key":{"ino":77},"value_hex":"0a0107a00601""#,
            r#""table":"replies","key":{"number":3,"session":7},"value_hex":"0801ff""#,
            r#"{"key_hex":"7a756e6b6e6f776e","value_hex":"ff78"}"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let place = Place::new();
        for (data, kind) in [("fjall", StoreKind::Fjall), ("sled", StoreKind::Sled)] {
            let loaded = place.load(&dump, data, kind).unwrap();
            assert_eq!(loaded.cluster, owner().cluster);
            let mut again = Vec::new();
            write_stopped(&place.path(data), &mut again).unwrap();
            assert!(again == dump, "{}", String::from_utf8_lossy(&again));
            assert_eq!(
                DataDir::open_existing(&place.path(data)).unwrap().store_kind(),
                kind
            );
        }
    }

    #[test]
    fn edited_line_is_what_is_loaded() {
        let dump = String::from_utf8(dumped()).unwrap();
        let edited = dump.replace(r#""name":"f","parent":1"#, r#""name":"e","parent":1"#);
        let edited = edited.replace(r#""name":"f"}"#, r#""name":"e"}"#);
        assert_ne!(edited, dump);
        let place = Place::new();
        let loaded = place.load(edited.as_bytes(), "data", StoreKind::Fjall).unwrap();
        assert_eq!(loaded.records, dump.lines().count() as u64 - 2);
        let data = DataDir::open_existing(&place.path("data")).unwrap();
        let name = Name::new(&b"e"[..]).unwrap();
        assert!(data.store.get(&keys::dentry(Ino::ROOT, &name)).unwrap().is_some());
    }

    #[test]
    fn wrong_dumps_are_refused_with_their_line_and_make_nothing() {
        let dump = String::from_utf8(dumped()).unwrap();
        let lines: Vec<&str> = dump.lines().collect();
        let joined = |lines: &[&str]| lines.join("\n") + "\n";
        let mut swapped = lines.clone();
        swapped.swap(3, 4);
        let doubled = [&lines[..5], &lines[4..]].concat();
        let missing = [&lines[..5], &lines[6..]].concat();
        let place = Place::new();
        let half = dump[..dump.len() / 2].rfind('\n').unwrap();
        let in_a_line = half - 2;
        for (text, kind, words) in [
            (String::new(), ErrorKind::Invalid, "not a dump"),
            ("{}\n".to_owned(), ErrorKind::Invalid, "not a dump"),
            ("\u{0}\u{1}".to_owned(), ErrorKind::Invalid, "not a dump"),
            (
                dump.replace(r#""version":1"#, r#""version":2"#),
                ErrorKind::UnknownVersion,
                "2 dump format",
            ),
            (
                dump.replace(r#""schema_version":1"#, r#""schema_version":9"#),
                ErrorKind::UnknownVersion,
                "9 schema",
            ),
            (
                dump.replace(r#""epoch":4"#, r#""epoch":"x""#),
                ErrorKind::Invalid,
                "line 1",
            ),
            (
                joined(&lines[..lines.len() - 1]),
                ErrorKind::Corrupt,
                "ends too early",
            ),
            (dump[..in_a_line].to_owned(), ErrorKind::Invalid, "no end"),
            (joined(&swapped), ErrorKind::Invalid, "line 5"),
            (joined(&doubled), ErrorKind::Invalid, "line 6"),
            (
                joined(&missing),
                ErrorKind::Invalid,
                "does not say that there are",
            ),
            (dump.clone() + "{}\n", ErrorKind::Invalid, "follows the end"),
            (
                dump.replacen(r#""table":"chunks""#, r#""table":"chunk""#, 1),
                ErrorKind::Invalid,
                "no table",
            ),
            (
                joined(&lines).replacen(lines[2], "garbage", 1),
                ErrorKind::Invalid,
                "line 3",
            ),
        ] {
            let error = place.load(text.as_bytes(), "data", StoreKind::Fjall).unwrap_err();
            assert!(
                error.kind() == kind && error.message().contains(words),
                "{words}: {error}"
            );
            assert!(!place.path("data").exists(), "{error} left a directory");
        }
        // Whole as lines, but no metadata: what was made goes again.
        let without_schema: Vec<&str> = lines
            .iter()
            .copied()
            .filter(|line| !line.contains(r#""name":"schema""#))
            .collect();
        let count = format!(r#""records":{}"#, lines.len() - 2);
        let fewer = format!(r#""records":{}"#, lines.len() - 3);
        let text = joined(&without_schema).replace(&count, &fewer);
        let error = place.load(text.as_bytes(), "data", StoreKind::Fjall).unwrap_err();
        assert!(error.message().contains("no schema version"), "{error}");
        assert!(!place.path("data").exists());
        // Lines are bounded.
        let long = format!("{}\n{}", lines[0], "x".repeat(3 << 20));
        let error = place.load(long.as_bytes(), "data", StoreKind::Fjall).unwrap_err();
        assert!(error.message().contains("too long"), "{error}");
    }
}
