use super::restore::restore;
use super::*;
use crate::config::CoordinatorConfig;
use crate::core::Core;
use crate::namespace::check::check;
use crate::namespace::check::tests::populated;
use crate::namespace::fixture::{Fixture, ME};
use crate::namespace::txn::Txn;
use crate::namespace::{counters, keys, orphans, usage};
use crate::store::{MetaStore, StoreKind, WriteBatch};
use dfs_common::clock::ManualClock;
use dfs_common::session::{Identity, SessionSecret};
use dfs_common::{Ino, SessionEpoch};
use prost::Message;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const NOW: Timestamp = Timestamp { secs: 9000, nanos: 7 };

pub(super) fn owner() -> Source {
    Source {
        cluster: ClusterId(uuid::Uuid::from_u128(5)),
        capability_key: CapabilityKey([3; 32]),
        epoch: 4,
        created: Timestamp { secs: 8000, nanos: 0 },
    }
}

fn bytes_of(read: &dyn MetaRead) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(read, &owner(), &mut bytes).unwrap();
    bytes
}

fn all(read: &dyn MetaRead) -> BTreeMap<Bytes, Bytes> {
    let mut all = BTreeMap::new();
    stored::for_each(read, everything(), |key, value| {
        all.insert(key, value);
        Ok(())
    })
    .unwrap();
    all
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(content: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("backup"), content).unwrap();
        Place { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("backup")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    #[track_caller]
    fn refused(&self) -> FsError {
        let error = restore(&self.file(), &self.data(), StoreKind::Fjall, NOW).unwrap_err();
        assert!(!self.data().exists(), "{error} left a directory");
        error
    }
}

/// With a block or two of small files, and everything else.
fn large() -> Fixture {
    let mut fixture = populated();
    let above = fixture.mkdir(Ino::ROOT, "many files");
    let mut changes = Vec::new();
    for number in 0..4000 {
        changes.push((
            Bytes::from(format!("zz{number:06}")),
            Some(Bytes::from(vec![7; 100])),
        ));
    }
    fixture.store.commit(WriteBatch { changes }).unwrap();
    fixture.file(above, "f");
    fixture
}

#[test]
fn restored_metadata_is_that_of_the_moment_out_of_the_way_of_what_came_after() {
    let fixture = populated();
    let orphan = fixture
        .store
        .scan(&keys::orphans().0, &keys::orphans().1, 99)
        .unwrap();
    assert_eq!(orphan.len(), 2);
    let place = Place::new(&bytes_of(&fixture.store));
    let restored = restore(&place.file(), &place.data(), StoreKind::Fjall, NOW).unwrap();
    assert_eq!((restored.incarnation, restored.problems), (1, 0));
    assert_eq!(restored.backup.records, all(&fixture.store).len() as u64);

    let data = DataDir::open_existing(&place.data()).unwrap();
    assert_eq!(
        (data.cluster, data.capability_key),
        (owner().cluster, owner().capability_key)
    );
    assert!(data.epoch().unwrap() > 4 + 1000 && !data.fresh);
    assert!(check(&*data.store).unwrap().is_clean());
    let (before, after) = (all(&fixture.store), all(&*data.store));
    for (key, value) in &before {
        match key[0] {
            b's' | b'r' | b'k' | b'u' => assert_eq!(after.get(key), None),
            b'm' | b'o' => {}
            b'v' => {
                // Other sessions hold what has no name.
                let of_names = |value: &Bytes| usage::Usage {
                    held_bytes: 0,
                    held_inodes: 0,
                    ..usage::decode(value.clone()).unwrap()
                };
                assert_eq!(of_names(&after[key]), of_names(value), "{key:?}");
            }
            _ => assert_eq!(after.get(key), Some(value), "{key:?}"),
        }
    }
    let new: Vec<_> = after
        .keys()
        .filter(|key| !before.contains_key(*key))
        .map(|key| key[0])
        .collect();
    assert!(new.iter().all(|table| b"ms".contains(table)), "{new:?}");
    let numbers = |read: &dyn MetaRead| counters::get(read).unwrap().numbers_below;
    assert!(numbers(&*data.store) >= numbers(&fixture.store) + (1 << 40));
    let sessions = stored::sessions(&*data.store).unwrap();
    let (lost, record) = &sessions[0];
    assert_eq!(sessions.len(), 1);
    assert!(lost.0 >= 1 << 32 && record.secret.len() == 16);
    for (key, value) in orphan {
        let (ino, holders) = crate::namespace::parse_orphan(&key, value).unwrap();
        let now = orphans::holders(&*data.store, ino).unwrap();
        assert!(now.contains(lost) && !now.contains(&ME));
        assert_eq!(
            now.contains(&orphans::NAMESPACE),
            holders.contains(&orphans::NAMESPACE)
        );
    }
    assert!(stored::restore(&*data.store).unwrap().unwrap().holding);
    drop(data);

    // A backup of it may be restored again.
    let mut again = Vec::new();
    write_stopped(&place.data(), NOW, &mut again).unwrap();
    let second = Place::new(&again);
    let restored = restore(&second.file(), &second.data(), StoreKind::Sled, NOW).unwrap();
    assert_eq!((restored.incarnation, restored.problems), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_of_a_restored_directory_fences_old_sessions_and_gives_new_numbers() {
    let mut fixture = populated();
    let mut txn = Txn::new(&fixture.store);
    let record = v1::StoredSession {
        epoch: 1,
        secret: Bytes::from_static(&[9; 16]),
        ..v1::StoredSession::default()
    };
    for (session, _) in stored::sessions(&fixture.store).unwrap() {
        stored::put_session(&mut txn, session, &record);
    }
    txn.put(keys::unsynced(4), Bytes::copy_from_slice(&77u64.to_be_bytes()));
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
    fixture.file(Ino::ROOT, "kept");
    let place = Place::new(&bytes_of(&fixture.store));
    restore(&place.file(), &place.data(), StoreKind::Fjall, NOW).unwrap();
    let config = CoordinatorConfig::new(place.data(), SocketAddr::from(([127, 0, 0, 1], 0)));
    let core = Core::open(&config, Arc::new(ManualClock::default())).unwrap();
    let old = Identity {
        session: ME,
        epoch: SessionEpoch(1),
        secret: SessionSecret([9; 16]),
        trace: 0,
    };
    assert_eq!(
        core.sessions.check_resume(&old).unwrap_err().kind(),
        ErrorKind::SessionFenced
    );
    // Changes wait for the lease of whoever was there.
    assert!(core.opens.anybody_in_grace());
    let epoch = core.progress.point().last.epoch;
    assert_eq!(core.progress.rollback_epoch(), epoch);
    assert!(core.cluster.version() >> 32 > 4);
    let request = dfs_common::session::OpenSession {
        client_name: "new".to_string(),
        resume: None,
        opened: vec![],
        unsynced: Some(dfs_common::CommitId { epoch: 4, number: 70 }),
        locks: Default::default(),
        leases: false,
    };
    let grant = core
        .applier
        .open_session(request, SessionSecret([1; 16]))
        .await
        .unwrap();
    assert!(grant.identity.session.0 > 1 << 32);
    // What was not synced before the loss counts as lost.
    assert_eq!(grant.kept_commits, 0);
    assert!(core.hold.is_holding());
    core.applier.stop().await;
}

#[test]
fn damaged_shortened_and_lengthened_backups_are_refused_and_make_nothing() {
    let whole = bytes_of(&large().store);
    assert!(whole.len() > 400_000);
    let place = Place::new(&whole);
    verify(&place.file()).unwrap();
    let step = whole.len() / 60;
    for at in (0..whole.len())
        .step_by(step)
        .chain([0, 8, 12, 16, 20, 21, whole.len() - 1, whole.len() - 40])
    {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        let error = Place::new(&damaged).refused();
        let kind = error.kind();
        let expected = match at {
            0..8 => kind == ErrorKind::Invalid,
            8..12 => kind == ErrorKind::UnknownVersion,
            _ => kind == ErrorKind::Corrupt,
        };
        assert!(expected, "byte {at}: {error}");
        let shorter = Place::new(&whole[..at]).refused();
        assert!(
            matches!(shorter.kind(), ErrorKind::Corrupt | ErrorKind::Invalid),
            "{at}: {shorter}"
        );
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert_eq!(Place::new(&longer).refused().kind(), ErrorKind::Corrupt);
    // Blocks that are whole, but another one than was written there.
    assert!(
        Place::new(&[&whole[..], &whole[..]].concat())
            .refused()
            .message()
            .contains("follows")
    );
    let foreign = Place::new(b"#!/bin/sh\necho a file of something else\n").refused();
    assert!(foreign.message().contains("not a backup"), "{foreign}");
    assert!(Place::new(b"").refused().message().contains("not a backup"));
}

#[test]
fn metadata_of_another_schema_is_refused_by_name() {
    let header = v1::BackupHeader {
        cluster: owner().cluster.to_string(),
        capability_key: Bytes::from_static(&[3; 32]),
        schema_version: 2,
        created: Some(v1::Timestamp::default()),
        ..v1::BackupHeader::default()
    };
    let mut bytes = Vec::new();
    BackupWriter::new(&mut bytes, &header).unwrap().finish().unwrap();
    let error = Place::new(&bytes).refused();
    assert_eq!(error.kind(), ErrorKind::UnknownVersion);
    assert!(error.message().contains("schema version 2"), "{error}");
}

#[test]
fn used_directories_are_refused_unchanged_and_a_failure_in_the_middle_leaves_nothing() {
    let fixture = populated();
    let place = Place::new(&bytes_of(&fixture.store));
    std::fs::create_dir(place.data()).unwrap();
    std::fs::write(place.data().join("thesis.txt"), b"text").unwrap();
    let error = restore(&place.file(), &place.data(), StoreKind::Fjall, NOW).unwrap_err();
    assert!(error.message().contains("thesis.txt"), "{error}");
    assert_eq!(std::fs::read_dir(place.data()).unwrap().count(), 1);
    std::fs::remove_file(place.data().join("thesis.txt")).unwrap();
    restore(&place.file(), &place.data(), StoreKind::Fjall, NOW).unwrap();
    let error = restore(&place.file(), &place.data(), StoreKind::Fjall, NOW).unwrap_err();
    assert!(error.message().contains("already"), "{error}");
    DataDir::open_existing(&place.data()).unwrap();

    // Whole as a file, but with a record that the restore must read and cannot.
    let changes = vec![(keys::orphan(Ino(999)), Some(Bytes::from_static(b"\xff\xff")))];
    fixture.store.commit(WriteBatch { changes }).unwrap();
    let place = Place::new(&bytes_of(&fixture.store));
    assert_eq!(place.refused().kind(), ErrorKind::Corrupt);
    // An empty directory that was there stays, empty.
    std::fs::create_dir(place.data()).unwrap();
    restore(&place.file(), &place.data(), StoreKind::Fjall, NOW).unwrap_err();
    assert_eq!(std::fs::read_dir(place.data()).unwrap().count(), 0);
}

#[test]
fn half_made_directory_is_no_coordinator_s() {
    let place = Place::new(b"");
    let new = crate::identity::NewDataDir::make(&place.data(), StoreKind::Fjall).unwrap();
    drop(new.open_store().unwrap());
    // The process ends here.
    drop(new);
    for opened in [
        DataDir::open(&place.data(), StoreKind::Fjall, 1 << 20).map(drop),
        DataDir::open_existing(&place.data()).map(drop),
    ] {
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn backup_during_changes_is_of_one_moment() {
    let mut fixture = Fixture::default();
    for number in 0..2000 {
        fixture.file(Ino::ROOT, &format!("f{number}"));
    }
    let snapshots: Vec<_> = (0..3)
        .map(|round| {
            fixture.mkdir(Ino::ROOT, &format!("d{round}"));
            (fixture.store.snapshot().unwrap(), all(&fixture.store))
        })
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                fixture.file(Ino::ROOT, &format!("g{number}"));
                let _ = fixture.unlink_as(
                    &dfs_common::session::Caller::root(),
                    Ino::ROOT,
                    &format!("f{number}"),
                );
            }
        });
        for (snapshot, moment) in &snapshots {
            let place = Place::new(&bytes_of(&**snapshot));
            let mut reader = open(&place.file()).unwrap();
            let mut read = BTreeMap::new();
            while let Some(records) = reader.block().unwrap() {
                read.extend(records);
            }
            assert_eq!(&read, moment);
        }
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

#[test]
fn frames_are_bounded_before_they_are_allocated_for() {
    let mut bytes = Vec::new();
    bytes.extend(b"DFSMETA\0");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0; 100]);
    assert!(Place::new(&bytes).refused().message().contains("too long"));
    let block = v1::BackupBlock {
        records: vec![v1::BackupRecord::default()],
    };
    assert!(!block.encode_to_vec().is_empty());
}
