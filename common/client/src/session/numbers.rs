//! Operation numbers of the session: strictly increasing, and which of them are unanswered.
//!
//! A number is acknowledged only when every lower one is answered, so that the coordinator never forgets a reply that this
//! client may still ask for (invariant I6). One that stays unanswered for long therefore holds the others' replies back there:
//! before their number is exhausted, new operations wait here.

use dfs_common::OpNumber;
use dfs_common::limits::SESSION_REPLIES_MAX;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// Numbers given out above the lowest unanswered one: half of what the coordinator remembers.
const WINDOW: u64 = SESSION_REPLIES_MAX as u64 / 2;

struct Inner {
    generation: u64,
    next: u64,
    unanswered: BTreeSet<u64>,
}

/// Gives out the numbers of the current session.
pub(crate) struct Numbers {
    inner: Mutex<Inner>,
    /// Room in the window was made.
    moved: Notify,
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
            moved: Notify::new(),
        }
    }

    /// Starts again for a new session.
    pub(crate) fn restart(&self, generation: u64) {
        *self.inner.lock() = Inner {
            generation,
            next: 1,
            unanswered: BTreeSet::new(),
        };
        self.moved.notify_waiters();
    }

    /// The next number; waits while too many above the lowest unanswered one are in use.
    pub(crate) async fn take(self: &Arc<Self>) -> Ticket {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if let Some(ticket) = self.try_take() {
                return ticket;
            }
            moved.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Ticket> {
        let mut inner = self.inner.lock();
        let number = inner.next;
        if inner
            .unanswered
            .first()
            .is_some_and(|lowest| number - lowest >= WINDOW)
        {
            return None;
        }
        inner.next += 1;
        inner.unanswered.insert(number);
        Some(Ticket {
            numbers: self.clone(),
            generation: inner.generation,
            number: OpNumber(number),
        })
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
            let full = inner
                .unanswered
                .first()
                .is_some_and(|lowest| inner.next - lowest >= WINDOW);
            inner.unanswered.remove(&self.number.0);
            if full {
                self.numbers.moved.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_above_an_unanswered_number_is_acknowledged() {
        let numbers = Arc::new(Numbers::new());
        let take = || numbers.try_take().unwrap();
        let (first, second, third) = (take(), take(), take());
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
        let old = numbers.try_take().unwrap();
        numbers.restart(1);
        let new = numbers.try_take().unwrap();
        assert_eq!((old.number, new.number), (OpNumber(1), OpNumber(1)));
        drop(old);
        assert_eq!(numbers.acknowledged_below(), OpNumber(1));
        drop(new);
        assert_eq!(numbers.acknowledged_below(), OpNumber(2));
    }

    #[tokio::test]
    async fn unanswered_number_holds_new_ones_back_before_the_coordinator_runs_out_of_room() {
        let numbers = Arc::new(Numbers::new());
        let oldest = numbers.take().await;
        for _ in 1..WINDOW {
            drop(numbers.take().await);
        }
        assert!(numbers.try_take().is_none());
        let waiting = tokio::spawn({
            let numbers = numbers.clone();
            async move { numbers.take().await.number }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(oldest);
        assert_eq!(waiting.await.unwrap(), OpNumber(WINDOW + 1));
    }
}
