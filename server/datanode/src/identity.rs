//! Who a datanode is: `datanode.json` in its data directory.
//!
//! Made with the directory: the node's uuid, its secret, the incarnation of its disk. Learnt at registration: cluster, node
//! number, capability key; they are kept, so that a datanode that restarts while its coordinator is away serves reads. `LOCK`
//! keeps other processes out. Invariant: the directory belongs to one cluster for ever; whatever is in memory is durable first,
//! except a failed disk, which is failed even if that cannot be written down.

use crate::store::Durable;
use dfs_common::capability::CapabilityKey;
use dfs_common::data_dir::{DataDirectory, Kind, hex_bytes};
use dfs_common::extent::Receipt;
use dfs_common::{ClusterId, DiskIncarnation, ErrorKind, FsError, FsResult, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::path::Path;
use uuid::Uuid;

/// Format of the data directory that this program writes and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const KIND: Kind = Kind {
    owner: "a datanode",
    identity_file: "datanode.json",
    format_version: FORMAT_VERSION,
};

/// What the coordinator told this node at its registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The cluster that the data directory belongs to.
    pub cluster: ClusterId,
    /// Number of this node.
    pub node: NodeId,
    /// Key that chunk capabilities are signed with.
    pub capability_key: CapabilityKey,
}

impl Membership {
    /// This node's receipt for a chunk of `length` bytes.
    pub fn receipt(&self, durable: &Durable, length: u64) -> Receipt {
        Receipt {
            node: self.node,
            disk: durable.disk,
            sha256: durable.sha256,
            length,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct MembershipFile {
    cluster: ClusterId,
    node: NodeId,
    #[serde(with = "hex_bytes")]
    capability_key: [u8; 32],
}

#[derive(Clone, Serialize, Deserialize)]
struct IdentityFile {
    format_version: u32,
    node_uuid: Uuid,
    #[serde(with = "hex_bytes")]
    secret: [u8; 16],
    disk: DiskIncarnation,
    /// Why the disk failed, if it did.
    disk_failure: Option<String>,
    membership: Option<MembershipFile>,
}

/// An open, locked data directory.
pub struct Identity {
    directory: DataDirectory,
    file: Mutex<IdentityFile>,
}

impl Identity {
    /// Opens the data directory at `path`, or makes it.
    ///
    /// # Errors
    /// `Busy` (another process has it), `Invalid` (not a datanode's), `UnknownVersion` (of a newer program), `Corrupt`
    /// (damaged), `Io`. Nothing in the directory is changed then.
    pub fn open(path: &Path) -> FsResult<Self> {
        let directory = DataDirectory::open(path, KIND)?;
        let file = match directory.read_identity()? {
            Some(file) => file,
            None => {
                let file = IdentityFile {
                    format_version: FORMAT_VERSION,
                    node_uuid: Uuid::new_v4(),
                    secret: rand::random(),
                    // Drawn, not counted: a wiped directory must not repeat one.
                    disk: DiskIncarnation(rand::random::<u64>() | 1),
                    disk_failure: None,
                    membership: None,
                };
                directory.write_identity(&file)?;
                file
            }
        };
        Ok(Identity {
            directory,
            file: Mutex::new(file),
        })
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The node's uuid: made with the directory, never changes.
    pub fn node_uuid(&self) -> Uuid {
        self.file.lock().node_uuid
    }

    /// The node's secret, which proves its heartbeats.
    pub fn secret(&self) -> [u8; 16] {
        self.file.lock().secret
    }

    /// The disk's incarnation, and why it failed if it did.
    pub fn disk(&self) -> (DiskIncarnation, Option<String>) {
        let file = self.file.lock();
        (file.disk, file.disk_failure.clone())
    }

    /// What the coordinator told at the last registration, of whichever run.
    pub fn membership(&self) -> Option<Membership> {
        self.file.lock().membership.as_ref().map(|file| Membership {
            cluster: file.cluster,
            node: file.node,
            capability_key: CapabilityKey(file.capability_key),
        })
    }

    /// Keeps what the coordinator told; durable on return. Blocks on the disk if it is news.
    ///
    /// # Errors
    /// `Unauthenticated` if the directory belongs to another cluster, `Io`.
    pub fn join(&self, membership: &Membership) -> FsResult<()> {
        let mut file = self.file.lock();
        if let Some(known) = &file.membership {
            if known.cluster != membership.cluster {
                return Err(FsError::new(
                    ErrorKind::Unauthenticated,
                    format!(
                        "the data directory {} belongs to cluster {}, the coordinator serves {}: point the datanode at its own \
                         coordinator, or give it an empty data directory",
                        self.path().display(),
                        known.cluster,
                        membership.cluster
                    ),
                ));
            }
            if known.node == membership.node && known.capability_key == membership.capability_key.0 {
                return Ok(());
            }
        }
        let mut joined = file.clone();
        joined.membership = Some(MembershipFile {
            cluster: membership.cluster,
            node: membership.node,
            capability_key: membership.capability_key.0,
        });
        self.directory.write_identity(&joined)?;
        *file = joined;
        Ok(())
    }

    /// The disk failed, for good, and is of incarnation `disk` now: writes that down if the disk still lets us. Blocks on it.
    pub fn fail_disk(&self, why: &str, disk: DiskIncarnation) {
        let mut file = self.file.lock();
        if file.disk_failure.is_some() {
            return;
        }
        file.disk = disk;
        file.disk_failure = Some(why.to_owned());
        if let Err(error) = self.directory.write_identity(&*file) {
            tracing::error!(%error, "the disk's failure could not be written down");
        }
    }

    /// Checks that the data directory is still there.
    ///
    /// # Errors
    /// `Io` if it was removed, replaced or unmounted.
    pub fn check_present(&self) -> FsResult<()> {
        self.directory.check_present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(cluster: u128, node: u32) -> Membership {
        Membership {
            cluster: ClusterId(Uuid::from_u128(cluster)),
            node: NodeId(node),
            capability_key: CapabilityKey([9; 32]),
        }
    }

    #[test]
    fn identity_and_membership_are_kept_and_another_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = Identity::open(&path).unwrap();
        let (uuid, secret, disk) = (first.node_uuid(), first.secret(), first.disk());
        assert_eq!(first.membership(), None);
        first.join(&membership(7, 3)).unwrap();
        drop(first);
        let again = Identity::open(&path).unwrap();
        assert_eq!(
            (again.node_uuid(), again.secret(), again.disk()),
            (uuid, secret, disk)
        );
        assert_eq!(again.membership(), Some(membership(7, 3)));
        let error = again.join(&membership(8, 3)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert_eq!(again.membership(), Some(membership(7, 3)));
        again.join(&membership(7, 4)).unwrap();
        assert_eq!(again.membership(), Some(membership(7, 4)));
    }

    #[test]
    fn failed_disk_has_another_incarnation_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::open(dir.path()).unwrap();
        let (before, failure) = identity.disk();
        assert_eq!(failure, None);
        let after = DiskIncarnation(before.0 ^ 1);
        identity.fail_disk("sync failed", after);
        identity.fail_disk("again", DiskIncarnation(7));
        drop(identity);
        let (kept, failure) = Identity::open(dir.path()).unwrap().disk();
        assert_eq!((kept, failure.as_deref()), (after, Some("sync failed")));
    }
}
