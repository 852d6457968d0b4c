//! Which files are known to have no `security.capability`.
//!
//! The kernel asks for it before every write, so that a write can take it away. Asked of the coordinator it would cost a
//! call for each. Known is: files that this mount has just made, and those that had none when they were asked since their
//! last open. Invariant: nothing is known of a file after it was opened here, or given a capability here; one that another
//! mount gives is therefore seen from the next open on, like content. Bounded.

use dfs_common::Ino;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;

/// The extended attribute.
pub const CAPABILITY: &[u8] = b"security.capability";
/// Files remembered.
const FILES_MAX: usize = 64 << 10;

/// What is known.
#[derive(Debug)]
pub struct Capabilities(Mutex<Known>);

#[derive(Debug)]
struct Known {
    without: LruCache<Ino, ()>,
    /// Questions under way: how many, and whether their answer may be old.
    asked: HashMap<Ino, (usize, bool)>,
}

impl Known {
    fn learn(&mut self, ino: Ino) {
        self.without.put(ino, ());
        if self.without.len() > FILES_MAX {
            self.without.pop_lru();
        }
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities(Mutex::new(Known {
            without: LruCache::unbounded(),
            asked: HashMap::new(),
        }))
    }
}

impl Capabilities {
    /// True if the file is known to have none.
    pub fn are_absent(&self, ino: Ino) -> bool {
        self.0.lock().without.get(&ino).is_some()
    }

    /// The file was made here.
    pub fn created(&self, ino: Ino) {
        self.0.lock().learn(ino);
    }

    /// It was opened, or its capability may have changed.
    pub fn forget(&self, ino: Ino) {
        let mut known = self.0.lock();
        known.without.pop(&ino);
        if let Some((_, old)) = known.asked.get_mut(&ino) {
            *old = true;
        }
    }

    /// The coordinator is asked now; tell the question its answer.
    pub fn ask(&self, ino: Ino) -> Question<'_> {
        self.0.lock().asked.entry(ino).or_default().0 += 1;
        Question {
            capabilities: self,
            ino,
            absent: false,
        }
    }
}

/// A question under way.
pub struct Question<'a> {
    capabilities: &'a Capabilities,
    ino: Ino,
    absent: bool,
}

impl Question<'_> {
    /// The answer: the file has none.
    pub fn absent(mut self) {
        self.absent = true;
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut known = self.capabilities.0.lock();
        let Some((questions, old)) = known.asked.get_mut(&self.ino) else {
            return;
        };
        *questions -= 1;
        let (last, old) = (*questions == 0, *old);
        if last {
            known.asked.remove(&self.ino);
        }
        if self.absent && !old {
            known.learn(self.ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(9);

    #[test]
    fn absence_is_learned_from_making_and_from_asking() {
        let known = Capabilities::default();
        assert!(!known.are_absent(FILE));
        known.ask(FILE).absent();
        assert!(known.are_absent(FILE));
        known.forget(FILE);
        assert!(!known.are_absent(FILE));
        known.created(FILE);
        assert!(known.are_absent(FILE));
    }

    #[test]
    fn question_without_answer_teaches_nothing() {
        let known = Capabilities::default();
        drop(known.ask(FILE));
        assert!(!known.are_absent(FILE));
        assert!(known.0.lock().asked.is_empty());
    }

    #[test]
    fn answer_from_before_a_change_is_not_believed() {
        let known = Capabilities::default();
        let (first, second) = (known.ask(FILE), known.ask(FILE));
        known.forget(FILE);
        first.absent();
        second.absent();
        assert!(!known.are_absent(FILE));
        known.ask(FILE).absent();
        assert!(known.are_absent(FILE));
    }

    #[test]
    fn memory_is_bounded() {
        let known = Capabilities::default();
        for number in 0..=FILES_MAX as u64 {
            known.created(Ino(number));
        }
        assert!(!known.are_absent(Ino(0)));
        assert!(known.are_absent(Ino(1)));
    }
}
