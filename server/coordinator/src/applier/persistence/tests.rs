use super::*;
use crate::namespace;
use crate::store::memory::MemoryStore;
use crate::store::{WriteBatch, conformance::put};
use dfs_common::clock::ManualClock;

/// A store whose power can be cut: what was not synced is lost then, but for the first `keep` batches.
#[derive(Default)]
struct Cuttable {
    now: MemoryStore,
    durable: Mutex<Vec<WriteBatch>>,
    pending: Mutex<Vec<WriteBatch>>,
}

fn copy(batch: &WriteBatch) -> WriteBatch {
    WriteBatch {
        changes: batch.changes.clone(),
    }
}

impl MetaRead for Cuttable {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        self.now.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        self.now.scan(start, end, limit)
    }
}

impl MetaStore for Cuttable {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        self.commit_unsynced(batch)?;
        self.persist()
    }
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.pending.lock().push(copy(&batch));
        self.now.commit(batch)
    }
    fn persist(&self) -> FsResult<()> {
        self.durable.lock().append(&mut self.pending.lock());
        Ok(())
    }
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>> {
        self.now.snapshot()
    }
    fn kind(&self) -> &'static str {
        "cuttable"
    }
}

impl Cuttable {
    fn formatted() -> Self {
        let store = Cuttable::default();
        let mut txn = Txn::new(&store);
        namespace::initialize(&mut txn, Default::default()).unwrap();
        store.commit(txn.into_batch()).unwrap();
        store
    }

    fn cut(self, keep: usize) -> Self {
        let after = Cuttable::default();
        let pending = self.pending.into_inner();
        for batch in self
            .durable
            .into_inner()
            .into_iter()
            .chain(pending.into_iter().take(keep))
        {
            after.commit(batch).unwrap();
        }
        after
    }
}

fn open(store: &dyn MetaStore, epoch: u64) -> Persistence {
    Persistence::open(store, epoch, Arc::new(ManualClock::default())).unwrap()
}

fn relax(persistence: &mut Persistence, store: &dyn MetaStore) {
    let mut txn = Txn::new(store);
    let delay = Durability::DELAY_DEFAULT;
    persistence.set(&mut txn, Durability::relaxed(delay).unwrap());
    let point = persistence.commit(store, txn, true).unwrap();
    assert!(point.is_durable());
}

/// Commits something that takes a number; answers it.
fn take_number(persistence: &mut Persistence, store: &dyn MetaStore, urgent: bool) -> (u64, CommitPoint) {
    let mut txn = Txn::new(store);
    let mut totals = counters::get(&txn).unwrap();
    let number = counters::take_number(&mut totals).unwrap();
    counters::put(&mut txn, &totals);
    (number, persistence.commit(store, txn, urgent).unwrap())
}

#[test]
fn commits_are_durable_at_once_unless_it_was_chosen_otherwise() {
    let store = Cuttable::formatted();
    let mut persistence = open(&store, 1);
    let (_, point) = take_number(&mut persistence, &store, false);
    assert!(point.is_durable() && store.pending.lock().is_empty());

    relax(&mut persistence, &store);
    let (_, first) = take_number(&mut persistence, &store, false);
    let (_, second) = take_number(&mut persistence, &store, false);
    assert_eq!(store.pending.lock().len(), 2);
    assert_eq!((first.last.number, second.last.number, second.durable), (1, 2, 0));
    assert!(!second.is_durable() && persistence.progress().now.lock().oldest.is_some());

    let (_, urgent) = take_number(&mut persistence, &store, true);
    assert!(urgent.is_durable() && store.pending.lock().is_empty());
    assert_eq!((urgent.last.number, urgent.durable), (2, 2));
    assert!(persistence.progress().now.lock().oldest.is_none());

    // A barrier: nothing to commit, something to sync.
    take_number(&mut persistence, &store, false);
    let point = persistence.commit(&store, Txn::new(&store), true).unwrap();
    assert!(point.is_durable() && store.pending.lock().is_empty());
}

#[test]
fn numbers_that_a_lost_commit_gave_are_not_given_again() {
    let mut store = Cuttable::formatted();
    let mut persistence = open(&store, 1);
    relax(&mut persistence, &store);
    let mut given = 0;
    for epoch in 2..6 {
        for _ in 0..5 {
            let (number, _) = take_number(&mut persistence, &store, false);
            assert!(number > given, "{number} was given before");
            given = number;
        }
        store = store.cut(1);
        persistence = open(&store, epoch);
        assert_eq!(persistence.progress().rollback_epoch(), epoch);
        assert!(namespace::check::check(&store).unwrap().is_clean());
    }
    // Also if as many are made as were reserved.
    let mut txn = Txn::new(&store);
    let mut totals = counters::get(&txn).unwrap();
    totals.numbers_below = persistence.record.numbers_reserved;
    counters::put(&mut txn, &totals);
    persistence.commit(&store, txn, false).unwrap();
    let (last, point) = take_number(&mut persistence, &store, false);
    assert!(point.is_durable(), "numbers are reserved durably");
    let (last_lost, _) = take_number(&mut persistence, &store, false);
    assert_eq!(last_lost, last + 1);
    let store = store.cut(0);
    let mut persistence = open(&store, 9);
    assert!(take_number(&mut persistence, &store, false).0 > last_lost);
}

#[test]
fn clients_learn_which_commits_were_kept() {
    for keep in 0..=3 {
        let store = Cuttable::formatted();
        let mut persistence = open(&store, 7);
        relax(&mut persistence, &store);
        take_number(&mut persistence, &store, true);
        for _ in 0..3 {
            take_number(&mut persistence, &store, false);
        }
        let store = store.cut(keep);
        let progress = open(&store, 8).progress();
        let kept = |commit| progress.kept(&store, commit).unwrap();
        let commit = |epoch, number| Some(CommitId { epoch, number });
        assert_eq!(kept(commit(7, 3)), keep as u64);
        assert_eq!(kept(commit(6, 1)), 0, "nothing is known of that epoch");
        assert_eq!(kept(commit(9, 1)), 0, "an epoch that is still to come");
        assert_eq!(kept(commit(8, 5)), u64::MAX, "this one");
        assert_eq!(kept(None), u64::MAX);
        // What was kept is durable now.
        let store = store.cut(0);
        assert_eq!(
            open(&store, 9).progress().kept(&store, commit(7, 3)).unwrap(),
            keep as u64
        );
    }
}

#[test]
fn good_end_leaves_nothing_to_look_back_at() {
    let store = Cuttable::formatted();
    let mut persistence = open(&store, 1);
    relax(&mut persistence, &store);
    let (last, _) = take_number(&mut persistence, &store, false);
    persistence.close(&store).unwrap();
    let store = store.cut(0);
    let mut persistence = open(&store, 2);
    assert_eq!(persistence.progress().rollback_epoch(), 0);
    assert_eq!(persistence.progress().durability().delay_ms(), 100);
    assert_eq!(take_number(&mut persistence, &store, false).0, last + 1);
    // Back to sync: a start after that has nothing to look back at either.
    let mut txn = Txn::new(&store);
    persistence.set(&mut txn, Durability::Sync);
    persistence.commit(&store, txn, true).unwrap();
    take_number(&mut persistence, &store, false);
    let store = store.cut(0);
    assert_eq!(open(&store, 3).progress().rollback_epoch(), 0);
}

#[test]
fn commits_of_old_epochs_are_forgotten() {
    let store = Cuttable::formatted();
    let mut persistence = open(&store, 1);
    relax(&mut persistence, &store);
    for epoch in 2..EPOCHS_KEPT + 20 {
        take_number(&mut persistence, &store, false);
        take_number(&mut persistence, &store, false);
        persistence = open(&store, epoch);
    }
    let (start, end) = keys::unsynced_commits();
    let kept = store.scan(&start, &end, 1000).unwrap().len() as u64;
    assert!((EPOCHS_KEPT - 1..=EPOCHS_KEPT).contains(&kept), "{kept}");
}

#[test]
fn damaged_setting_is_an_error() {
    let store = Cuttable::formatted();
    let mut txn = Txn::new(&store);
    let record = StoredDurability {
        delay_ms: u64::MAX,
        ..StoredDurability::default()
    };
    stored::put_durability(&mut txn, &record);
    store.commit(txn.into_batch()).unwrap();
    store.commit(put(&[("z", "1")])).unwrap();
    let opened = Persistence::open(&store, 1, Arc::new(ManualClock::default()));
    assert_eq!(opened.err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
}
