//! Real journals, damaged at every place: what a crash cuts short is cut off, anything else is refused, and nothing else is lost.

use super::*;
use crate::store::conformance::put;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

const PAGE: usize = 4096;
/// With the zeros behind; fjall makes room for more.
const JOURNAL_BYTES: u64 = 1 << 20;

/// A store as a crash left it, in memory.
struct Image {
    journal: Vec<u8>,
    synced: Vec<u8>,
    /// Where each batch stands in the journal.
    batches: Vec<Range<usize>>,
    /// What each batch put.
    contents: Vec<BTreeMap<Bytes, Bytes>>,
    /// Everything beside the journal.
    dir: tempfile::TempDir,
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        match path.is_dir() {
            true => copy_dir(&path, &to),
            false if path.extension().is_some_and(|extension| extension == "jnl") => {}
            false => std::fs::copy(path, to).map(drop).unwrap(),
        }
    }
}

/// Bytes that do not compress, none of them zero.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 | 4
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Batches of one small value, several values, and one of four pages that does not compress; `sync` says for each whether it is synced.
fn image(sync: &[bool]) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = FjallStore::open(&live, 1 << 20).unwrap();
    let journal = |live: &Path| {
        let bytes = recovery::read_content(&live.join("0.jnl")).unwrap();
        let end = journal::walk(&bytes, None).content_end;
        bytes[..end].to_vec()
    };
    let (mut batches, mut contents) = (Vec::new(), Vec::new());
    // Of the moment before the last batch, if that was synced, as if the crash came before its sync was over.
    let mut synced = Vec::new();
    for (number, sync) in sync.iter().enumerate() {
        let lengths: &[usize] = [&[20][..], &[1, 0, 300], &[4 * PAGE]][number % 3];
        let mut content = BTreeMap::new();
        for (item, length) in lengths.iter().enumerate() {
            content.insert(
                Bytes::from(format!("{number}/{item}")),
                Bytes::from(noise(number as u64, *length)),
            );
        }
        let changes = content
            .iter()
            .map(|(key, value)| (key.clone(), Some(value.clone())));
        let batch = WriteBatch {
            changes: changes.collect(),
        };
        let start = batches.last().map_or(0, |range: &Range<usize>| range.end);
        synced = std::fs::read(live.join("SYNCED")).unwrap();
        match sync {
            true => store.commit(batch).unwrap(),
            false => store.commit_unsynced(batch).unwrap(),
        }
        batches.push(start..journal(&live).len());
        contents.push(content);
    }
    let journal = journal(&live);
    copy_dir(&live, &dir.path().join("image"));
    Image {
        journal,
        synced,
        batches,
        contents,
        dir,
    }
}

impl Image {
    /// The store with these bytes as its journal, in a directory of its own.
    fn with(&self, journal: &[u8]) -> PathBuf {
        let path = self.dir.path().join("damaged");
        let _ = std::fs::remove_dir_all(&path);
        copy_dir(&self.dir.path().join("image"), &path);
        std::fs::write(path.join("SYNCED"), &self.synced).unwrap();
        let file = File::create(path.join("0.jnl")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, journal, 0).unwrap();
        file.set_len(JOURNAL_BYTES.max(journal.len() as u64)).unwrap();
        path
    }

    /// `damaged` opens with the first `kept` batches, takes more, and opens again.
    #[track_caller]
    fn assert_opens(&self, damaged: &[u8], kept: usize, what: &str) {
        let path = self.with(damaged);
        let expected: BTreeMap<Bytes, Bytes> = self.contents[..kept]
            .iter()
            .flat_map(|content| content.clone())
            .collect();
        let all = |store: &FjallStore| -> BTreeMap<Bytes, Bytes> {
            store.scan(b"", b"\xff", 1000).unwrap().into_iter().collect()
        };
        let store = FjallStore::open(&path, 1 << 20).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(all(&store) == expected, "{what}: other contents");
        store.commit(put(&[("new", "1")])).unwrap();
        drop(store);
        let store = FjallStore::open(&path, 1 << 20).unwrap();
        assert_eq!(all(&store).len(), expected.len() + 1, "{what}");
        // What was cut off is kept.
        let end = journal::walk(damaged, None).content_end;
        let from = self.batches[kept.max(1) - 1].end * usize::from(kept > 0);
        let kept_file = path.join(format!("0.jnl.cut-{from}"));
        match end > from {
            true => assert_eq!(std::fs::read(kept_file).unwrap(), damaged[from..end], "{what}"),
            false => assert!(!kept_file.exists(), "{what}"),
        }
    }

    /// `damaged` is refused at byte `at`, and stays as it is.
    #[track_caller]
    fn assert_refused(&self, damaged: &[u8], at: usize, what: &str) -> String {
        let path = self.with(damaged);
        let before = std::fs::read_dir(&path).unwrap().count();
        let error = match FjallStore::open(&path, 1 << 20) {
            Ok(_) => panic!("{what}: opened"),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        let text = error.message().to_owned();
        let names = [format!("0.jnl is damaged at byte {at}:"), "backup".to_owned()];
        assert!(names.iter().all(|name| text.contains(name)), "{what}: {text}");
        let after = std::fs::read(path.join("0.jnl")).unwrap();
        assert_eq!(
            after.len() as u64,
            JOURNAL_BYTES.max(damaged.len() as u64),
            "{what}"
        );
        assert!(after.starts_with(damaged), "{what}: the journal was changed");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), before, "{what}");
        text
    }
}

/// Offsets in a batch where something may go wrong: each byte of its beginning and its end, and some between.
fn interesting(batch: &Range<usize>) -> Vec<usize> {
    let length = batch.len();
    let mut offsets: Vec<usize> = (0..length.min(48))
        .chain(length.saturating_sub(20)..length)
        .collect();
    offsets.extend((0..length).step_by((length / 12).max(7)));
    offsets.sort();
    offsets.dedup();
    offsets.into_iter().map(|offset| batch.start + offset).collect()
}

/// Every damage of one batch: a byte changed, or zeros over a page or over some bytes. Damage that changes nothing is left out, and so is that of the
/// batch's number, which no checksum covers.
fn damages(journal: &[u8], batch: &Range<usize>) -> Vec<(String, Vec<u8>)> {
    let mut damages = Vec::new();
    let mut add = |what: String, range: Range<usize>, change: &dyn Fn(u8) -> u8| {
        let range = range.start.max(batch.start)..range.end.min(batch.end);
        let mut bytes = journal.to_vec();
        bytes[range].iter_mut().for_each(|byte| *byte = change(*byte));
        let number = batch.start + 5..batch.start + 13;
        let changed = bytes
            .iter()
            .zip(journal)
            .enumerate()
            .filter(|(_, (new, old))| new != old);
        if changed.map(|(at, _)| at).any(|at| !number.contains(&at)) {
            damages.push((what, bytes));
        }
    };
    for (number, at) in interesting(batch).into_iter().enumerate() {
        match number % 3 {
            0 => add(format!("bit 0 of byte {at}"), at..at + 1, &|byte| byte ^ 1),
            1 => add(format!("byte {at} inverted"), at..at + 1, &|byte| !byte),
            _ => add(format!("zeros in 16 bytes at {at}"), at..at + 16, &|_| 0),
        }
    }
    for page in batch.start / PAGE..=batch.end / PAGE {
        add(
            format!("zeros in page {page}"),
            page * PAGE..(page + 1) * PAGE,
            &|_| 0,
        );
    }
    damages
}

#[test]
fn damaged_end_of_the_journal_is_cut_off_and_everything_before_is_there() {
    // The last batch is one of each kind.
    for count in [4, 5, 6] {
        let image = image(&vec![true; count]);
        let last = image.batches.last().unwrap().clone();
        image.assert_opens(&image.journal, count, "undamaged");
        let damages = damages(&image.journal, &last);
        assert!(damages.len() > 20);
        for (what, bytes) in damages {
            image.assert_opens(&bytes, count - 1, &format!("{count} batches, {what}"));
        }
        for at in interesting(&last).into_iter().step_by(2) {
            image.assert_opens(
                &image.journal[..at],
                count - 1,
                &format!("{count} batches, truncated at {at}"),
            );
        }
    }
}

#[test]
fn only_batch_of_a_store_may_be_cut_off() {
    let image = image(&[true]);
    for at in [0, 1, 20, 40] {
        let mut bytes = image.journal.clone();
        bytes[at] ^= 0x40;
        image.assert_opens(&bytes, 0, &format!("byte {at}"));
    }
}

#[test]
fn damage_before_a_whole_batch_is_refused_and_changes_nothing() {
    let mut image = image(&[true; 7]);
    // The batches must tell by themselves.
    image.synced.clear();
    for batch in &image.batches[..6] {
        for (what, bytes) in damages(&image.journal, batch) {
            image.assert_refused(&bytes, batch.start, &what);
        }
    }
    // One record is gone, and the journal goes on.
    let mut bytes = image.journal.clone();
    bytes.drain(image.batches[2].start + 3..image.batches[2].end - 3);
    image.assert_refused(&bytes, image.batches[2].start, "a hole");
    // A number is changed: the order tells, unless it is still one.
    let mut bytes = image.journal.clone();
    bytes[image.batches[3].start + 12] ^= 0x80;
    image.assert_refused(&bytes, image.batches[3].start, "a number");
}

#[test]
fn synced_end_is_not_cut_off() {
    let mut image = image(&[true; 6]);
    image.synced = std::fs::read(image.dir.path().join("image/SYNCED")).unwrap();
    let last = image.batches[5].clone();
    for (what, bytes) in damages(&image.journal, &last) {
        let text = image.assert_refused(&bytes, last.start, &what);
        assert!(text.contains("SYNCED"), "{text}");
    }
    // Not even when nothing is left of it, or of two.
    for left in [last.start, image.batches[4].start] {
        image.assert_refused(&image.journal[..left], left, "truncated");
    }
    image.assert_opens(&image.journal, 6, "undamaged");
    // A record that is damaged itself says nothing.
    image.synced[3] ^= 1;
    let mut bytes = image.journal.clone();
    bytes[last.start + 100] ^= 1;
    image.assert_opens(&bytes, 5, "damaged record");
}

#[test]
fn first_record_of_a_store_is_not_cut_off_once_synced() {
    let mut image = image(&[true]);
    image.synced = std::fs::read(image.dir.path().join("image/SYNCED")).unwrap();
    let mut bytes = image.journal.clone();
    bytes[40] ^= 1;
    image.assert_refused(&bytes, 0, "first batch");
}

#[test]
fn batches_that_nobody_synced_are_cut_off_together() {
    let relaxed = image(&[true, true, false, false, false, false]);
    for (number, batch) in relaxed.batches.iter().enumerate().skip(2) {
        for (what, bytes) in damages(&relaxed.journal, batch) {
            relaxed.assert_opens(&bytes, number, &format!("batch {number}: {what}"));
        }
    }
    for (what, bytes) in damages(&relaxed.journal, &relaxed.batches[1]).iter().step_by(5) {
        // Only the record of what is synced tells: those behind say nothing of it.
        relaxed.assert_refused(bytes, relaxed.batches[1].start, what);
    }
    // Something was synced behind them, so they were too.
    let mut fsynced = image(&[true, true, false, false, true, false]);
    fsynced.synced.clear();
    for number in [2, 3, 4] {
        let batch = fsynced.batches[number].clone();
        for (what, bytes) in damages(&fsynced.journal, &batch).iter().step_by(5) {
            match number {
                4 => fsynced.assert_opens(bytes, 4, what),
                _ => drop(fsynced.assert_refused(bytes, batch.start, what)),
            }
        }
    }
}

#[test]
fn journals_before_the_last_have_no_end_to_cut_off() {
    let image = image(&[true; 6]);
    let path = image.with(&image.journal);
    File::create(path.join("1.jnl"))
        .unwrap()
        .set_len(JOURNAL_BYTES)
        .unwrap();
    let mut bytes = image.journal.clone();
    bytes[image.batches[5].start + 200] ^= 1;
    std::fs::write(path.join("0.jnl"), &bytes).unwrap();
    let error = FjallStore::open(&path, 1 << 20).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("0.jnl is damaged at byte"), "{error}");
    assert_eq!(std::fs::read(path.join("0.jnl")).unwrap(), bytes);
    std::fs::write(path.join("0.jnl"), &image.journal).unwrap();
    assert!(FjallStore::open(&path, 1 << 20).is_ok());
}

#[test]
fn record_of_what_is_synced_never_says_more_and_keeps_up() {
    let dir = tempfile::tempdir().unwrap();
    let last = || {
        let bytes = recovery::read_content(&dir.path().join("0.jnl")).unwrap();
        journal::walk(&bytes, None)
            .last
            .map(|batch| (batch.seqno, batch.unsynced))
    };
    let synced = || synced::read(dir.path()).unwrap().unwrap();
    let mut store = FjallStore::open(dir.path(), 1 << 20).unwrap();
    for round in 0..20 {
        store.commit(put(&[("a", "1")])).unwrap();
        let (first, unsynced) = last().unwrap();
        assert!(!unsynced);
        assert_eq!(synced(), first);
        store.commit_unsynced(put(&[("a", "2")])).unwrap();
        let (second, unsynced) = last().unwrap();
        assert!(unsynced && second > first);
        assert_eq!(synced(), first, "not synced yet");
        if round % 2 == 0 {
            store.persist().unwrap();
            assert_eq!(synced(), second);
        }
        if round % 5 == 4 {
            drop(store);
            store = FjallStore::open(dir.path(), 1 << 20).unwrap();
        }
        assert!(synced() <= last().unwrap().0);
    }
    assert_eq!(store.scan(b"", b"\xff", 10).unwrap().len(), 1);
}

#[test]
fn old_cut_off_ends_are_forgotten() {
    let image = image(&[true; 4]);
    let path = image.with(&image.journal[..image.journal.len() - 1]);
    for number in 0..40 {
        std::fs::write(path.join(format!("0.jnl.cut-{number}")), b"old").unwrap();
    }
    drop(FjallStore::open(&path, 1 << 20).unwrap());
    let kept = std::fs::read_dir(&path).unwrap();
    let kept = kept.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("cut")
    });
    assert_eq!(kept.count(), 16);
    assert!(path.join(format!("0.jnl.cut-{}", image.batches[2].end)).exists());
}

#[test]
fn compacting_gives_back_the_room_of_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = FjallStore::open(dir.path(), 8 << 20).unwrap();
    let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
    let value = |number: u32| -> Bytes {
        (0..200u32)
            .flat_map(|n| ((n + number).wrapping_mul(2_654_435_761)).to_le_bytes())
            .collect()
    };
    let changes = (0..2000)
        .map(|number| (key(number), Some(value(number))))
        .collect();
    store.commit(WriteBatch { changes }).unwrap();
    store.compact().unwrap();
    let changes = (1..2000).map(|number| (key(number), None)).collect();
    store.commit(WriteBatch { changes }).unwrap();
    let (before, after) = store.compact().unwrap();
    assert!(before > 100_000 && after < before / 4, "{before} {after}");
    assert_eq!(store.get(&key(0)).unwrap(), Some(value(0)));
    drop(store);
    let store = FjallStore::open(dir.path(), 8 << 20).unwrap();
    assert_eq!(store.scan(&[0], &[255], 10).unwrap(), [(key(0), value(0))]);
}

#[test]
fn journal_has_blocks_ahead_and_they_are_never_in_the_way() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let journal = || dir.path().join("0.jnl");
    let end = || {
        let bytes = recovery::read_content(&journal()).unwrap();
        let contents = journal::walk(&bytes, None);
        assert_eq!(contents.whole_end, contents.content_end);
        contents.whole_end as u64
    };
    let mut expected = BTreeMap::new();
    for life in 0..3u64 {
        let store = FjallStore::open(dir.path(), 8 << 20).unwrap();
        let found: BTreeMap<Bytes, Bytes> = store.scan(b"", b"\xff", 1000).unwrap().into_iter().collect();
        assert!(found == expected, "life {life}: other contents");
        for (number, length) in [100, 5000, 300_000, 1, 900_000, 1_500_000, 2000]
            .into_iter()
            .enumerate()
        {
            let key = Bytes::from(format!("{life}/{number}"));
            let value = Bytes::from(noise(number as u64, length));
            expected.insert(key.clone(), value.clone());
            let batch = WriteBatch {
                changes: vec![(key, Some(value))],
            };
            match number % 3 {
                0 => store.commit_unsynced(batch).unwrap(),
                _ => store.commit(batch).unwrap(),
            }
            let file = std::fs::metadata(journal()).unwrap();
            match life {
                0 => assert!(file.blocks() * 512 >= end(), "{number}"),
                // It is appended to: what is behind its end would be in the way.
                _ => assert_eq!(file.len(), end(), "{life} {number}"),
            }
        }
        if life == 0 {
            let ahead = std::fs::metadata(journal()).unwrap().blocks() * 512 - end();
            assert!((4096..4 << 20).contains(&ahead), "{ahead} bytes ahead");
        }
    }
}

#[test]
fn nothing_is_lost_where_one_journal_ends_and_the_next_begins() {
    const VALUE: usize = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let key = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    let mut written = 0;
    // fjall begins a new one above 64 MB, in a thread of its own.
    for life in 0..3 {
        let store = FjallStore::open(dir.path(), 8 << 20).unwrap();
        for number in 0..written {
            let value = store.get(&key(number)).unwrap().expect("it was committed");
            assert!(value == noise(number, VALUE), "life {life}: value {number}");
        }
        for number in written..written + 900 {
            let batch = WriteBatch {
                changes: vec![(key(number), Some(Bytes::from(noise(number, VALUE))))],
            };
            match number % 50 {
                0 => store.commit(batch).unwrap(),
                _ => store.commit_unsynced(batch).unwrap(),
            }
        }
        written += 900;
    }
    let journals = recovery::journals(dir.path()).unwrap();
    assert!(
        !journals.iter().any(|path| path.ends_with("0.jnl")),
        "{journals:?}"
    );
}

#[test]
fn older_batches_behind_the_end_are_no_sign_of_damage() {
    let mut image = image(&[true; 5]);
    image.synced.clear();
    let mut bytes = image.journal.clone();
    bytes.extend([0; 200]);
    bytes.extend(&image.journal[image.batches[1].clone()]);
    image.assert_opens(&bytes, 5, "blocks of an older journal");
    bytes.truncate(image.journal.len());
    bytes[image.batches[3].start + 30] ^= 1;
    image.assert_refused(&bytes, image.batches[3].start, "a newer one");
}
