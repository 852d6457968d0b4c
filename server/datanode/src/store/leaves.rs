//! The directories that hold chunk files: `chunks/ab/cd/<chunk id>`.
//!
//! 256 consecutive chunks of a session share a leaf, so that a new directory (and its syncs) is rare, and leaves are spread by a
//! hash, so that none grows beyond its share. Invariant: a leaf that [`Leaves::ensure`] answered for is durable in its parents, and
//! so is everything that was in it before this run.

use super::DiskSync;
use dfs_common::ChunkId;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};

/// Sequence bits, and the 32 of the placement group below them, within which chunks share a leaf.
const SHARED_BITS: u32 = 32 + 8;

/// The directories of one store.
pub struct Leaves {
    root: PathBuf,
    /// One bit per leaf that is known to be durable.
    durable: Mutex<Box<[u64; 1024]>>,
}

/// The leaf of a chunk.
pub fn leaf_of(chunk: ChunkId) -> u16 {
    let shared = chunk.0 >> SHARED_BITS;
    // The finaliser of splitmix64 (Steele, Lea, Flood 2014).
    let mut z = ((shared >> 64) as u64).rotate_left(32) ^ shared as u64;
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 48) as u16
}

impl Leaves {
    /// Leaves below `root`, which exists.
    pub fn new(root: PathBuf) -> Self {
        Leaves {
            root,
            durable: Mutex::new(Box::new([0; 1024])),
        }
    }

    /// The directory of all of them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a leaf.
    pub fn directory(&self, leaf: u16) -> PathBuf {
        self.root
            .join(format!("{:02x}", leaf >> 8))
            .join(format!("{:02x}", leaf & 0xff))
    }

    /// Where the file of `chunk` is.
    pub fn file(&self, chunk: ChunkId) -> PathBuf {
        self.directory(leaf_of(chunk)).join(chunk.to_string())
    }

    /// Makes the leaf of `chunk` and makes it durable, once per run.
    ///
    /// # Errors
    /// Those of mkdir(2), and of `sync`: [`Failed::Sync`].
    pub fn ensure(&self, chunk: ChunkId, sync: &dyn DiskSync) -> Result<(), Failed> {
        let leaf = leaf_of(chunk);
        let (word, bit) = (usize::from(leaf / 64), 1 << (leaf % 64));
        let mut durable = self.durable.lock();
        if durable[word] & bit != 0 {
            return Ok(());
        }
        let directory = self.directory(leaf);
        let parent = directory.parent().unwrap_or(&self.root);
        for made in [parent, &directory] {
            match std::fs::create_dir(made) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Failed::Make(error));
                }
                _ => {}
            }
        }
        for entry in [&self.root, parent, &directory] {
            sync.sync_dir(entry).map_err(Failed::Sync)?;
        }
        durable[word] |= bit;
        Ok(())
    }
}

/// Why a leaf is not there.
#[derive(Debug)]
pub enum Failed {
    /// It could not be made.
    Make(io::Error),
    /// It could not be made durable.
    Sync(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::{PgId, SessionId};
    use std::collections::BTreeSet;

    #[test]
    fn neighbours_share_a_leaf_and_sessions_spread() {
        let leaf =
            |session, sequence, group| leaf_of(ChunkId::new(SessionId(session), sequence, PgId(group)));
        assert_eq!(leaf(1, 0, 1), leaf(1, 255, 9));
        assert_ne!(leaf(1, 0, 1), leaf(1, 256, 1));
        let spread: BTreeSet<u16> = (0..1000)
            .flat_map(|session| [leaf(session, 0, 0), leaf(session, 256, 0)])
            .collect();
        assert!(spread.len() > 1900, "{}", spread.len());
        let high: BTreeSet<u16> = spread.iter().map(|leaf| leaf >> 8).collect();
        assert!(high.len() > 200, "{}", high.len());
    }
}
