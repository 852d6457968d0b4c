//! The numbers of lock requests: which are unanswered, which wait, and which answers the coordinator may forget.

use dfs_common::limits::SESSION_LOCK_REQUESTS_MAX;
use dfs_common::lock::LockTicket;
use std::collections::BTreeSet;

/// Numbers of the session; 0 is none.
#[derive(Default)]
pub(super) struct LockNumbers {
    last: u64,
    /// Sent, and neither outcome nor "it waits" was answered.
    unanswered: BTreeSet<u64>,
    /// Requests that may have waited, whose outcomes the coordinator need not keep any more; it does not know that yet.
    answered: BTreeSet<u64>,
}

impl LockNumbers {
    /// The number of a new request.
    pub(super) fn take(&mut self) -> u64 {
        self.last += 1;
        self.unanswered.insert(self.last);
        self.last
    }

    /// Of every request below, the client knows the outcome, or that it waits.
    pub(super) fn settled(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.last + 1)
    }

    /// What is sent with request `number`.
    pub(super) fn ticket(&self, number: u64) -> LockTicket {
        let settled = self.settled();
        LockTicket {
            number,
            settled,
            answered: self
                .answered
                .range(..settled)
                .take(SESSION_LOCK_REQUESTS_MAX)
                .copied()
                .collect(),
        }
    }

    /// A call with this ticket was answered: what it said is known.
    pub(super) fn told(&mut self, ticket: &LockTicket) {
        for number in &ticket.answered {
            self.answered.remove(number);
        }
    }

    /// The request is known to wait.
    pub(super) fn waits(&mut self, number: u64) {
        self.unanswered.remove(&number);
    }

    /// The outcome is known, or will never be asked for. `patient`: it may have waited.
    pub(super) fn end(&mut self, number: u64, patient: bool) {
        self.unanswered.remove(&number);
        if patient {
            self.answered.insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_requests_hold_nothing_back_and_their_answers_are_named_until_that_is_known() {
        let mut numbers = LockNumbers::default();
        let (first, second) = (numbers.take(), numbers.take());
        assert_eq!(numbers.ticket(second).settled, first);
        numbers.waits(first);
        numbers.end(second, false);
        assert_eq!(numbers.settled(), second + 1);
        numbers.end(first, true);
        let ticket = numbers.ticket(numbers.last);
        assert_eq!(ticket.answered, [first]);
        assert_eq!(numbers.ticket(numbers.last).answered, [first]);
        numbers.told(&ticket);
        assert!(numbers.ticket(numbers.last).answered.is_empty());
    }

    #[test]
    fn answers_above_an_unanswered_request_are_not_named() {
        let mut numbers = LockNumbers::default();
        let (first, second) = (numbers.take(), numbers.take());
        numbers.waits(second);
        numbers.end(second, true);
        assert!(numbers.ticket(first).answered.is_empty(), "not settled beyond it");
    }
}
