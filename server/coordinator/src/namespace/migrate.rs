//! From an older schema to this program's: one step per version, each whole or not at all.
//!
//! A step changes records in batches and may be stopped and begun again: it must find what it did before. The version is raised behind it,
//! durably, so a store is never of a version whose records it does not have. Version 1 is the first, so there is no step yet.

use super::{SCHEMA_VERSION, check_schema, keys, schema_version};
use crate::store::{MetaStore, WriteBatch};
use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};

/// What brings a store from one version to the next.
pub struct Step {
    /// The version that it starts from; it ends at the next one.
    pub from: u32,
    /// What it changes, for administrators.
    pub what: &'static str,
    /// Does it. Called again from the start after a crash.
    pub run: fn(&dyn MetaStore) -> FsResult<()>,
}

/// All steps, in order.
pub const STEPS: &[Step] = &[];

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Version before.
    pub from: u32,
    /// Version now.
    pub to: u32,
    /// What was changed.
    pub steps: Vec<&'static str>,
}

/// Brings `store` to [`SCHEMA_VERSION`]; durable on return. Nothing to do is no error.
///
/// # Errors
/// `UnknownVersion` (newer than this program, or older than every step; the store is unchanged), `Corrupt`, those of the steps.
pub fn migrate(store: &dyn MetaStore) -> FsResult<Migrated> {
    let migrated = migrate_by(store, STEPS, SCHEMA_VERSION)?;
    check_schema(store)?;
    Ok(migrated)
}

fn migrate_by(store: &dyn MetaStore, steps: &[Step], target: u32) -> FsResult<Migrated> {
    let from = schema_version(store)?;
    if from > target {
        return Err(FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "the metadata store has schema version {from}, this program knows {target}: run the release that wrote it"
            ),
        ));
    }
    let way: Vec<&Step> = steps
        .iter()
        .filter(|step| (from..target).contains(&step.from))
        .collect();
    let whole = way
        .iter()
        .zip(from..target)
        .all(|(step, version)| step.from == version);
    if !whole || way.len() as u32 != target - from {
        return Err(FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "this program knows no way from schema version {from} to {target}: run a release between them first"
            ),
        ));
    }
    for step in &way {
        tracing::info!(from = step.from, what = step.what, "migrating the metadata");
        (step.run)(store)?;
        let version = Bytes::copy_from_slice(&(step.from + 1).to_be_bytes());
        store.commit(WriteBatch {
            changes: vec![(keys::schema(), Some(version))],
        })?;
    }
    Ok(Migrated {
        from,
        to: target,
        steps: way.iter().map(|step| step.what).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::check::check;
    use crate::namespace::check::tests::populated;
    use crate::store::MetaRead;
    use crate::store::memory::MemoryStore;

    fn put(store: &dyn MetaStore, key: &'static str, value: &'static str) -> FsResult<()> {
        store.commit(WriteBatch {
            changes: vec![(
                Bytes::from_static(key.as_bytes()),
                Some(Bytes::from_static(value.as_bytes())),
            )],
        })
    }

    fn version(store: &MemoryStore) -> u32 {
        schema_version(store).unwrap()
    }

    /// 1 to 2 to 3; the second fails until `ready` is in the store.
    const TEST_STEPS: &[Step] = &[
        Step {
            from: 1,
            what: "first",
            run: |store| put(store, "zfirst", "done"),
        },
        Step {
            from: 2,
            what: "second",
            run: |store| {
                put(store, "zsecond", "begun")?;
                match store.get(b"zready")? {
                    Some(_) => put(store, "zsecond", "done"),
                    None => Err(FsError::new(ErrorKind::Io, "stopped in the middle")),
                }
            },
        },
    ];

    #[test]
    fn current_store_is_left_as_it_is() {
        let fixture = populated();
        let migrated = migrate(&fixture.store).unwrap();
        assert_eq!((migrated.from, migrated.to, migrated.steps.len()), (1, 1, 0));
        assert!(check(&fixture.store).unwrap().is_clean());
    }

    #[test]
    fn steps_run_in_order_and_a_stopped_one_is_begun_again() {
        let fixture = populated();
        let store = &fixture.store;
        let stopped = migrate_by(store, TEST_STEPS, 3).unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Io);
        // The version says what is whole.
        assert_eq!(version(store), 2);
        assert_eq!(store.get(b"zfirst").unwrap().unwrap(), "done");
        put(store, "zready", "yes").unwrap();
        let migrated = migrate_by(store, TEST_STEPS, 3).unwrap();
        assert_eq!(migrated.steps, ["second"]);
        assert_eq!(
            (version(store), store.get(b"zsecond").unwrap().unwrap()),
            (3, Bytes::from_static(b"done"))
        );
    }

    #[test]
    fn newer_stores_and_ways_with_a_gap_are_refused_unchanged() {
        let fixture = populated();
        for (steps, target) in [(&TEST_STEPS[1..], 3), (&TEST_STEPS[..1], 3), (TEST_STEPS, 4)] {
            let error = migrate_by(&fixture.store, steps, target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnknownVersion);
            assert_eq!(version(&fixture.store), 1);
        }
        let newer = Bytes::copy_from_slice(&2u32.to_be_bytes());
        let changes = vec![(keys::schema(), Some(newer))];
        fixture.store.commit(WriteBatch { changes }).unwrap();
        let error = migrate(&fixture.store).unwrap_err();
        assert!(
            error.kind() == ErrorKind::UnknownVersion && error.message().contains("version 2"),
            "{error}"
        );
    }
}
