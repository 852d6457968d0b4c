//! Operation numbers of the session: strictly increasing, and which of them are unanswered.
//!
//! A number is acknowledged only when every lower one is answered, so that the coordinator never forgets a reply that this
//! client may still ask for (invariant I6).

use dfs_common::OpNumber;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

struct Inner {
    generation: u64,
    next: u64,
    unanswered: BTreeSet<u64>,
}

/// Gives out the numbers of the current session.
pub(crate) struct Numbers {
    inner: Mutex<Inner>,
}

/// A number in use: unanswered until it is dropped.
pub(crate) struct Ticket {
    numbers: Arc<Numbers>,
    /// The session that it belongs to.
    pub(crate) generation: u64,
    /// The number.
    pub(crate) number: OpNumber,
}

impl Numbers {
    pub(crate) fn new() -> Self {
        Numbers {
            inner: Mutex::new(Inner {
                generation: 0,
                next: 1,
                unanswered: BTreeSet::new(),
            }),
        }
    }

    /// Starts again for a new session.
    pub(crate) fn restart(&self, generation: u64) {
        *self.inner.lock() = Inner {
            generation,
            next: 1,
            unanswered: BTreeSet::new(),
        };
    }

    /// The next number.
    pub(crate) fn take(self: &Arc<Self>) -> Ticket {
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.unanswered.insert(number);
        Ticket {
            numbers: self.clone(),
            generation: inner.generation,
            number: OpNumber(number),
        }
    }

    /// Every number below is answered.
    pub(crate) fn acknowledged_below(&self) -> OpNumber {
        let inner = self.inner.lock();
        OpNumber(inner.unanswered.first().copied().unwrap_or(inner.next))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.numbers.inner.lock();
        if inner.generation == self.generation {
            inner.unanswered.remove(&self.number.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_above_an_unanswered_number_is_acknowledged() {
        let numbers = Arc::new(Numbers::new());
        let (first, second, third) = (numbers.take(), numbers.take(), numbers.take());
        assert_eq!(numbers.acknowledged_below(), OpNumber(1));
        drop(second);
        assert_eq!(numbers.acknowledged_below(), OpNumber(1));
        drop(first);
        assert_eq!(numbers.acknowledged_below(), OpNumber(3));
        drop(third);
        assert_eq!(numbers.acknowledged_below(), OpNumber(4));
    }

    #[test]
    fn number_of_an_ended_session_does_not_touch_the_next_one() {
        let numbers = Arc::new(Numbers::new());
        let old = numbers.take();
        numbers.restart(1);
        let new = numbers.take();
        assert_eq!((old.number, new.number), (OpNumber(1), OpNumber(1)));
        drop(old);
        assert_eq!(numbers.acknowledged_below(), OpNumber(1));
        drop(new);
        assert_eq!(numbers.acknowledged_below(), OpNumber(2));
    }
}
