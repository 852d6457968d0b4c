//! A transaction: an overlay of changes over a store, which reads through it as if they were there already.
//!
//! Savepoints cost a number: what a change replaced in the overlay goes to an undo log, and rolling back plays the log
//! backwards, at most to the beginning of the operation. Usage records are kept decoded: the operations of a group change those of the same few directories again and
//! again. Invariant: [`Txn::into_batch`] holds one change per key, exactly what the reads showed.

use super::keys;
use super::usage::record::{self, Usage};
use crate::store::{MetaRead, WriteBatch};
use bytes::Bytes;
use dfs_common::{FsResult, Ino};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::iter::Peekable;
use std::ops::Bound;

/// What the overlay held of a key: nothing, a deletion, or a value.
type Overlaid = Option<Option<Bytes>>;

/// Changes over a store, not yet committed.
pub struct Txn<'a> {
    read: &'a dyn MetaRead,
    overlay: BTreeMap<Bytes, Option<Bytes>>,
    /// Changed usage records, none of which is in the overlay; `None` is deleted.
    usage: HashMap<Ino, Option<Usage>>,
    undo: Vec<Undo>,
}

/// How to take back one change: what was there of the key, or of the usage record, in this transaction.
enum Undo {
    Key(Bytes, Overlaid),
    Usage(Ino, Option<Option<Usage>>),
}

/// A moment of a transaction to which it can go back; they nest.
#[derive(Clone, Copy, Debug)]
pub struct Savepoint(usize);

impl<'a> Txn<'a> {
    /// No changes over `read`, which must not change meanwhile.
    pub fn new(read: &'a dyn MetaRead) -> Self {
        Txn {
            read,
            overlay: BTreeMap::new(),
            usage: HashMap::new(),
            undo: Vec::new(),
        }
    }

    /// The value of `key`, with the changes so far.
    pub fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        if let Some(value) = self.overlay.get(key) {
            return Ok(value.clone());
        }
        match keys::parse_usage(key).and_then(|directory| self.usage.get(&directory)) {
            Some(usage) => Ok(usage.as_ref().map(record::encode)),
            None => self.read.get(key),
        }
    }

    /// At most `limit` pairs with `start <= key < end`, ascending, with the changes so far.
    pub fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let (first, behind) = keys::usages();
        let with_usage;
        let overlay = match self.usage.is_empty() || end <= &first[..] || start >= &behind[..] {
            true => &self.overlay,
            false => {
                // Only checks look through usage records.
                with_usage = self.all_changes();
                &with_usage
            }
        };
        let mut changes = overlay.range::<[u8], _>(range).peekable();
        if changes.peek().is_none() {
            return self.read.scan(start, end, limit);
        }
        let mut found = Vec::new();
        let mut stored = Stored::new(self.read, start, end);
        while found.len() < limit {
            match merge(&mut changes, stored.peek(limit - found.len())?) {
                Next::Stored => found.extend(stored.pop()),
                Next::Change { hides_stored } => {
                    if hides_stored {
                        stored.pop();
                    }
                    if let Some((key, Some(value))) = changes.next() {
                        found.push((key.clone(), value.clone()));
                    }
                }
                Next::End => break,
            }
        }
        Ok(found)
    }

    /// Sets `key`.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.change(key, Some(value));
    }

    /// Deletes `key`, whether it exists or not.
    pub fn delete(&mut self, key: Bytes) {
        self.change(key, None);
    }

    fn change(&mut self, key: Bytes, value: Option<Bytes>) {
        debug_assert!(
            keys::parse_usage(&key).is_none(),
            "usage records have their own way"
        );
        let before = self.overlay.insert(key.clone(), value);
        self.undo.push(Undo::Key(key, before));
    }

    /// The usage record of `directory`, with the changes so far.
    pub fn usage(&self, directory: Ino) -> FsResult<Option<Usage>> {
        match self.usage.get(&directory) {
            Some(usage) => Ok(*usage),
            None => self
                .read
                .get(&keys::usage(directory))?
                .map(record::decode)
                .transpose(),
        }
    }

    /// Sets the usage record of `directory`, or deletes it.
    pub fn put_usage(&mut self, directory: Ino, usage: Option<Usage>) {
        let before = self.usage.insert(directory, usage);
        self.undo.push(Undo::Usage(directory, before));
    }

    fn all_changes(&self) -> BTreeMap<Bytes, Option<Bytes>> {
        let mut changes = self.overlay.clone();
        changes.extend(encoded(&self.usage));
        changes
    }

    /// True without a change.
    pub fn is_empty(&self) -> bool {
        self.overlay.is_empty() && self.usage.is_empty()
    }

    /// Begins an operation: what was changed before stays, and savepoints from before are over. Answers this moment.
    pub fn begin(&mut self) -> Savepoint {
        self.undo.clear();
        self.savepoint()
    }

    /// Remembers this moment.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint(self.undo.len())
    }

    /// Changes since `savepoint`, those of one key counted each time.
    pub fn changes_since(&self, savepoint: Savepoint) -> usize {
        self.undo.len().saturating_sub(savepoint.0)
    }

    /// Takes back every change since `savepoint`.
    pub fn rollback_to(&mut self, savepoint: Savepoint) {
        debug_assert!(
            savepoint.0 <= self.undo.len(),
            "a savepoint from before the operation"
        );
        while self.undo.len() > savepoint.0 {
            match self.undo.pop() {
                Some(Undo::Key(key, Some(value))) => drop(self.overlay.insert(key, value)),
                Some(Undo::Key(key, None)) => drop(self.overlay.remove(&key)),
                Some(Undo::Usage(directory, Some(usage))) => drop(self.usage.insert(directory, usage)),
                Some(Undo::Usage(directory, None)) => drop(self.usage.remove(&directory)),
                None => return,
            }
        }
    }

    /// The changes, one per key.
    pub fn into_batch(self) -> WriteBatch {
        let mut changes: Vec<_> = self.overlay.into_iter().collect();
        changes.extend(encoded(&self.usage));
        WriteBatch { changes }
    }
}

fn encoded(usage: &HashMap<Ino, Option<Usage>>) -> impl Iterator<Item = (Bytes, Option<Bytes>)> {
    let change = |(directory, usage): (&Ino, &Option<Usage>)| {
        (keys::usage(*directory), usage.as_ref().map(record::encode))
    };
    usage.iter().map(change)
}

impl MetaRead for Txn<'_> {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        Txn::get(self, key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        Txn::scan(self, start, end, limit)
    }
}

/// The store's pairs of a range, read in pages as they are needed.
struct Stored<'a> {
    read: &'a dyn MetaRead,
    from: Bytes,
    end: Bytes,
    page: VecDeque<(Bytes, Bytes)>,
    exhausted: bool,
}

impl<'a> Stored<'a> {
    fn new(read: &'a dyn MetaRead, start: &[u8], end: &[u8]) -> Self {
        Stored {
            read,
            from: Bytes::copy_from_slice(start),
            end: Bytes::copy_from_slice(end),
            page: VecDeque::new(),
            exhausted: false,
        }
    }

    /// The next key; reads at most `wanted` pairs for it.
    fn peek(&mut self, wanted: usize) -> FsResult<Option<&Bytes>> {
        if self.page.is_empty() && !self.exhausted {
            let page = self.read.scan(&self.from, &self.end, wanted)?;
            self.exhausted = page.len() < wanted;
            if let Some((last, _)) = page.last() {
                self.from = Bytes::from([&last[..], b"\0"].concat());
            }
            self.page = page.into();
        }
        Ok(self.page.front().map(|(key, _)| key))
    }

    fn pop(&mut self) -> Option<(Bytes, Bytes)> {
        self.page.pop_front()
    }
}

enum Next {
    Stored,
    Change { hides_stored: bool },
    End,
}

fn merge<'k>(
    changes: &mut Peekable<impl Iterator<Item = (&'k Bytes, &'k Option<Bytes>)>>,
    stored: Option<&Bytes>,
) -> Next {
    match (changes.peek(), stored) {
        (None, None) => Next::End,
        (None, Some(_)) => Next::Stored,
        (Some((change, _)), Some(stored)) if stored < *change => Next::Stored,
        (Some((change, _)), stored) => Next::Change {
            hides_stored: stored == Some(*change),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MetaStore;
    use crate::store::memory::MemoryStore;
    use proptest::prelude::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn rollback_restores_what_was_overlaid_and_what_was_stored() {
        let store = MemoryStore::default();
        store
            .commit(WriteBatch {
                changes: vec![(bytes("a"), Some(bytes("stored")))],
            })
            .unwrap();
        let mut txn = Txn::new(&store);
        txn.put(bytes("b"), bytes("1"));
        let outer = txn.savepoint();
        txn.delete(bytes("a"));
        let inner = txn.savepoint();
        txn.put(bytes("a"), bytes("2"));
        txn.delete(bytes("b"));
        assert_eq!((txn.changes_since(inner), txn.changes_since(outer)), (2, 3));
        txn.rollback_to(inner);
        assert_eq!(txn.get(b"a").unwrap(), None);
        assert_eq!(txn.get(b"b").unwrap(), Some(bytes("1")));
        txn.rollback_to(outer);
        assert_eq!(txn.get(b"a").unwrap(), Some(bytes("stored")));
        let operation = txn.begin();
        txn.delete(bytes("a"));
        txn.rollback_to(operation);
        assert_eq!(txn.get(b"a").unwrap(), Some(bytes("stored")));
        assert_eq!(txn.into_batch().changes, [(bytes("b"), Some(bytes("1")))]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Delete(u8),
        Scan(u8, u8, usize),
        Save,
        Rollback,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..24, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            3 => (0u8..24).prop_map(Step::Delete),
            3 => (0u8..25, 0u8..25, 0usize..12).prop_map(|(start, end, limit)| Step::Scan(start, end, limit)),
            1 => Just(Step::Save),
            1 => Just(Step::Rollback),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn reads_as_a_map_would(stored in proptest::collection::btree_map(0u8..24, any::<u8>(), 0..24),
                                steps in proptest::collection::vec(step(), 1..60)) {
            let one = |byte: u8| Bytes::copy_from_slice(&[byte]);
            let store = MemoryStore::default();
            let changes = stored.iter().map(|(key, value)| (one(*key), Some(one(*value)))).collect();
            store.commit(WriteBatch { changes }).unwrap();
            let mut model = stored.clone();
            let mut txn = Txn::new(&store);
            let mut saved = Vec::new();
            for step in steps {
                match step {
                    Step::Put(key, value) => { txn.put(one(key), one(value)); model.insert(key, value); }
                    Step::Delete(key) => { txn.delete(one(key)); model.remove(&key); }
                    Step::Save => saved.push((txn.savepoint(), model.clone())),
                    Step::Rollback => if let Some((savepoint, before)) = saved.pop() {
                        txn.rollback_to(savepoint);
                        model = before;
                    },
                    Step::Scan(start, end, limit) => {
                        let expected: Vec<_> = if start < end {
                            model.range(start..end).take(limit).map(|(k, v)| (one(*k), one(*v))).collect()
                        } else { Vec::new() };
                        prop_assert_eq!(txn.scan(&[start], &[end], limit).unwrap(), expected);
                    }
                }
                for key in 0..24 {
                    prop_assert_eq!(txn.get(&[key]).unwrap(), model.get(&key).map(|value| one(*value)));
                }
            }
            store.commit(txn.into_batch()).unwrap();
            let all: Vec<_> = store.scan(&[0], &[255], 100).unwrap();
            let expected: Vec<_> = model.iter().map(|(k, v)| (one(*k), one(*v))).collect();
            prop_assert_eq!(all, expected);
        }
    }
}
