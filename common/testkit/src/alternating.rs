//! Several views of the same files as one target.

use crate::call::{Call, Outcome, Slot, Target};
use dfs_common::session::Caller;
use std::collections::BTreeMap;

/// Several targets that show the same files: each call goes to another one, calls on an open file to the one that opened
/// it. With sequences that keep no files open it tells whether each sees at once what another acknowledged.
pub struct Alternating<T> {
    targets: Vec<T>,
    calls: usize,
    opened: BTreeMap<Slot, usize>,
}

impl<T: Target> Alternating<T> {
    /// At least one target.
    pub fn new(targets: Vec<T>) -> Self {
        assert!(!targets.is_empty());
        Alternating {
            targets,
            calls: 0,
            opened: BTreeMap::new(),
        }
    }
}

impl<T: Target> Target for Alternating<T> {
    fn name(&self) -> String {
        self.targets
            .iter()
            .map(Target::name)
            .collect::<Vec<_>>()
            .join(", ")
    }
    fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
        self.calls += 1;
        let next = self.calls % self.targets.len();
        let index = match call {
            Call::Open { slot, .. } => {
                self.opened.insert(*slot, next);
                next
            }
            Call::Close { slot }
            | Call::Read { slot, .. }
            | Call::Write { slot, .. }
            | Call::Fsync { slot }
            | Call::Ftruncate { slot, .. }
            | Call::Fstat { slot } => self.opened.get(slot).copied().unwrap_or(next),
            _ => next,
        };
        self.targets[index].call(who, call)
    }
    fn renew(&mut self) {
        self.targets.iter_mut().for_each(Target::renew);
    }
}
