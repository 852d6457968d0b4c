//! Which content a cache above (the kernel) may hold of a closed file: the map version of its pages.
//!
//! An open of the same version may keep them; everything else drops them. Bounded; what is forgotten is dropped pages.

use dfs_common::Ino;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;

/// Files remembered.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(64 << 10).expect("it is above 0");

/// Map versions of closed files.
pub(crate) struct KernelPages {
    versions: Mutex<LruCache<Ino, u64>>,
}

impl KernelPages {
    pub(crate) fn new() -> Self {
        KernelPages {
            versions: Mutex::new(LruCache::unbounded()),
        }
    }

    /// The last handle was closed; pages are those of `map_version`, or nobody knows.
    pub(crate) fn closed(&self, ino: Ino, map_version: Option<u64>) {
        let mut versions = self.versions.lock();
        match map_version {
            Some(version) => {
                versions.put(ino, version);
                if versions.len() > FILES_MAX.get() {
                    versions.pop_lru();
                }
            }
            None => drop(versions.pop(&ino)),
        }
    }

    /// Nothing is known any more.
    pub(crate) fn clear(&self) {
        self.versions.lock().clear();
    }

    /// True if pages from before are still those of `map_version`.
    pub(crate) fn are(&self, ino: Ino, map_version: u64) -> bool {
        self.versions.lock().get(&ino) == Some(&map_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_for_the_same_version_only() {
        let pages = KernelPages::new();
        assert!(!pages.are(Ino(5), 0));
        pages.closed(Ino(5), Some(3));
        assert!(pages.are(Ino(5), 3));
        assert!(!pages.are(Ino(5), 4));
        pages.closed(Ino(5), None);
        assert!(!pages.are(Ino(5), 3));
    }
}
