//! Advisory locks: one list of what is held, one of what waits, both in order, and every question asked of all of it.

use dfs_common::limits::{SESSION_LOCK_OUTCOMES_MAX, SESSION_LOCK_REQUESTS_MAX, SESSION_LOCKS_MAX};
use dfs_common::lock::{
    HeldLock, LockKind, LockOutcome, LockOwner, LockRange, LockSpec, LockStyle, LockTicket,
};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use std::collections::{BTreeMap, BTreeSet};

type Owner = (SessionId, LockOwner);

/// A lock that is held, or a request for one.
#[derive(Clone, Copy)]
struct Entry {
    ino: Ino,
    session: SessionId,
    lock: LockSpec,
    /// Of a request.
    number: u64,
}

impl Entry {
    fn owner(&self) -> Owner {
        (self.session, self.lock.owner)
    }

    fn excludes(&self, other: &Entry) -> bool {
        let flock = |entry: &Entry| entry.lock.owner.style == LockStyle::Flock;
        self.ino == other.ino
            && self.owner() != other.owner()
            && flock(self) == flock(other)
            && self.lock.range.overlaps(other.lock.range)
            && (self.lock.kind == LockKind::Exclusive || other.lock.kind == LockKind::Exclusive)
    }
}

/// What a session's requests came to.
#[derive(Default)]
struct Numbers {
    settled: u64,
    /// Outcome by number, and whether the client was ever told to wait for it.
    outcomes: BTreeMap<u64, (LockOutcome, bool)>,
}

#[derive(Default)]
pub(super) struct Locks {
    held: Vec<Entry>,
    waiting: Vec<Entry>,
    numbers: BTreeMap<SessionId, Numbers>,
}

impl Locks {
    /// Takes note of a ticket; answers the outcome of its number, if it has one.
    fn admit(&mut self, session: SessionId, ticket: &LockTicket) -> FsResult<Option<LockOutcome>> {
        let waiting = |number: u64| {
            let same = |entry: &&Entry| entry.session == session && entry.number == number;
            self.waiting.iter().find(same).is_some()
        };
        let waits = waiting(ticket.number);
        let numbers = self.numbers.entry(session).or_default();
        numbers.settled = numbers.settled.max(ticket.settled);
        let settled = numbers.settled;
        numbers
            .outcomes
            .retain(|number, (_, waited)| match number < &settled {
                true => *waited && !ticket.answered.contains(number),
                false => true,
            });
        if let Some((outcome, _)) = numbers.outcomes.get(&ticket.number) {
            return Ok(Some(*outcome));
        }
        if waits {
            return Ok(Some(LockOutcome::Waiting));
        }
        if ticket.number < settled {
            return Err(FsError::new(
                ErrorKind::StaleOperation,
                "the lock request was settled before",
            ));
        }
        if self.kept(session, false) >= SESSION_LOCK_OUTCOMES_MAX {
            return Err(FsError::new(
                ErrorKind::Busy,
                "too many lock requests are not settled",
            ));
        }
        Ok(None)
    }

    /// How many outcomes are remembered of a session's requests that have (or have not) waited.
    fn kept(&self, session: SessionId, waited: bool) -> usize {
        let numbers = self.numbers.get(&session);
        let outcomes = numbers.into_iter().flat_map(|numbers| numbers.outcomes.values());
        outcomes.filter(|(_, has)| *has == waited).count()
    }

    fn end_of(&mut self, session: SessionId, number: u64, outcome: LockOutcome, waited: bool) -> LockOutcome {
        let numbers = self.numbers.entry(session).or_default();
        numbers.outcomes.insert(number, (outcome, waited));
        outcome
    }

    /// Asks for a lock.
    pub(super) fn lock(
        &mut self,
        session: SessionId,
        ticket: &LockTicket,
        ino: Ino,
        lock: LockSpec,
        wait: bool,
    ) -> FsResult<LockOutcome> {
        if lock.owner.style == LockStyle::Flock && lock.range != LockRange::WHOLE {
            return Err(FsError::new(ErrorKind::Invalid, "a flock is of the whole file"));
        }
        if let Some(outcome) = self.admit(session, ticket)? {
            return Ok(outcome);
        }
        let number = ticket.number;
        let entry = Entry {
            ino,
            session,
            lock,
            number,
        };
        let converted =
            |held: &Entry| held.ino == ino && held.owner() == entry.owner() && held.lock.kind != lock.kind;
        if lock.owner.style == LockStyle::Flock && self.held.iter().any(converted) {
            self.cut(ino, entry.owner(), lock.range);
            self.serve();
        }
        let blocked = self.is_blocked(&entry, self.waiting.len());
        let waits = self.waiting.iter().filter(|entry| entry.session == session);
        if self.kept(session, false) >= SESSION_LOCK_OUTCOMES_MAX / 2
            || self.is_beyond(session, |locks| locks.put(entry))
            || (blocked && wait && waits.count() + self.kept(session, true) >= SESSION_LOCK_REQUESTS_MAX)
        {
            return Ok(self.end_of(session, number, LockOutcome::TooMany, false));
        }
        if !blocked {
            self.put(entry);
            self.serve();
            return Ok(self.end_of(session, number, LockOutcome::Granted, false));
        }
        if !wait {
            return Ok(self.end_of(session, number, LockOutcome::Conflict, false));
        }
        if lock.owner.style == LockStyle::Process {
            let holders = self.held.iter().filter(|held| held.excludes(&entry));
            let holders: Vec<Owner> = holders.map(Entry::owner).collect();
            if self.needed_by(holders, false).contains(&entry.owner()) {
                return Ok(self.end_of(session, number, LockOutcome::Deadlock, false));
            }
        }
        self.waiting.push(entry);
        self.serve();
        Ok(self.admit(session, ticket)?.unwrap_or(LockOutcome::Waiting))
    }

    /// Gives up what an owner holds of a range.
    pub(super) fn unlock(
        &mut self,
        session: SessionId,
        ticket: &LockTicket,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
    ) -> FsResult<LockOutcome> {
        if let Some(outcome) = self.admit(session, ticket)? {
            return match outcome {
                LockOutcome::Waiting => Err(FsError::new(ErrorKind::Invalid, "that request is a lock")),
                outcome => Ok(outcome),
            };
        }
        if self.is_beyond(session, |locks| locks.cut(ino, (session, owner), range)) {
            return Ok(self.end_of(session, ticket.number, LockOutcome::TooMany, false));
        }
        self.cut(ino, (session, owner), range);
        self.serve();
        Ok(self.end_of(session, ticket.number, LockOutcome::Granted, false))
    }

    /// Ends a wait, or forbids one that is still to come.
    pub(super) fn cancel(&mut self, session: SessionId, ticket: &LockTicket) -> FsResult<LockOutcome> {
        let waited = match self.admit(session, ticket)? {
            None => false,
            Some(LockOutcome::Waiting) => true,
            Some(outcome) => return Ok(outcome),
        };
        self.waiting
            .retain(|entry| entry.session != session || entry.number != ticket.number);
        self.end_of(session, ticket.number, LockOutcome::Cancelled, waited);
        self.serve();
        Ok(LockOutcome::Cancelled)
    }

    /// The first lock in the way.
    pub(super) fn test(&self, session: SessionId, ino: Ino, lock: LockSpec) -> Option<HeldLock> {
        let asked = Entry {
            ino,
            session,
            lock,
            number: 0,
        };
        let found = self.held.iter().filter(|held| held.excludes(&asked));
        let first = found.min_by_key(|held| held.lock.range.first());
        first.map(|held| HeldLock {
            session: held.session,
            lock: held.lock,
        })
    }

    /// True if the session holds all of that lock.
    pub(super) fn holds(&self, session: SessionId, ino: Ino, lock: &LockSpec) -> bool {
        let mut next = lock.range.first();
        loop {
            let part = self.held.iter().find(|held| {
                held.ino == ino
                    && held.owner() == (session, lock.owner)
                    && held.lock.kind >= lock.kind
                    && (held.lock.range.first()..=held.lock.range.last()).contains(&next)
            });
            match part.map(|part| part.lock.range.last()) {
                None => return false,
                Some(last) if last >= lock.range.last() => return true,
                Some(last) => next = last + 1,
            }
        }
    }

    pub(super) fn settle(&mut self, session: SessionId, settled: u64) {
        let numbers = self.numbers.entry(session).or_default();
        numbers.settled = numbers.settled.max(settled);
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.held.retain(|entry| entry.session != session);
        self.waiting.retain(|entry| entry.session != session);
        self.numbers.remove(&session);
        self.serve();
    }

    /// True if the session would have more locks than it may, and than now, after `change`.
    fn is_beyond(&self, session: SessionId, change: impl FnOnce(&mut Locks)) -> bool {
        let count = |held: &[Entry]| held.iter().filter(|entry| entry.session == session).count();
        let mut after = Locks {
            held: self.held.clone(),
            ..Locks::default()
        };
        change(&mut after);
        count(&after.held) > SESSION_LOCKS_MAX.max(count(&self.held))
    }

    /// True if a request with the first `ahead` of those that wait in front of it cannot be served.
    fn is_blocked(&self, entry: &Entry, ahead: usize) -> bool {
        if self.holds(entry.session, entry.ino, &entry.lock) {
            return false;
        }
        let overtaken = |first: &&Entry| {
            first.excludes(entry) && !self.needed_by(vec![first.owner()], true).contains(&entry.owner())
        };
        self.held.iter().any(|held| held.excludes(entry))
            || self.waiting[..ahead].iter().find(overtaken).is_some()
    }

    /// Owners that must give way before all of `owners` have what they wait for, and `owners`.
    fn needed_by(&self, mut owners: Vec<Owner>, queues: bool) -> BTreeSet<Owner> {
        let mut needed = BTreeSet::new();
        while let Some(owner) = owners.pop() {
            if !needed.insert(owner) {
                continue;
            }
            for (place, wait) in self.waiting.iter().enumerate() {
                if wait.owner() == owner {
                    let ahead = if queues { place } else { 0 };
                    let blockers = self.held.iter().chain(&self.waiting[..ahead]);
                    owners.extend(blockers.filter(|entry| entry.excludes(wait)).map(Entry::owner));
                }
            }
        }
        needed
    }

    /// Serves whoever can be served, the earliest first, until nobody can.
    fn serve(&mut self) {
        while let Some(place) =
            (0..self.waiting.len()).find(|place| !self.is_blocked(&self.waiting[*place], *place))
        {
            let entry = self.waiting.remove(place);
            let outcome = match self.is_beyond(entry.session, |locks| locks.put(entry)) {
                true => LockOutcome::TooMany,
                false => {
                    self.put(entry);
                    LockOutcome::Granted
                }
            };
            self.end_of(entry.session, entry.number, outcome, true);
        }
    }

    fn cut(&mut self, ino: Ino, owner: Owner, range: LockRange) {
        let (of_owner, mut kept): (Vec<Entry>, Vec<Entry>) = self
            .held
            .iter()
            .partition(|held| held.ino == ino && held.owner() == owner);
        for held in of_owner {
            let (first, last) = (held.lock.range.first(), held.lock.range.last());
            let before = range.first().checked_sub(1).map(|end| (first, last.min(end)));
            let after = range.last().checked_add(1).map(|start| (first.max(start), last));
            for (first, last) in [before, after].into_iter().flatten() {
                if let Ok(range) = LockRange::new(first, last) {
                    let lock = LockSpec { range, ..held.lock };
                    kept.push(Entry { lock, ..held });
                }
            }
        }
        self.held = kept;
    }

    fn put(&mut self, mut entry: Entry) {
        self.cut(entry.ino, entry.owner(), entry.lock.range);
        let (mut first, mut last) = (entry.lock.range.first(), entry.lock.range.last());
        self.held.retain(|held| {
            let range = held.lock.range;
            let neighbour = held.ino == entry.ino
                && held.owner() == entry.owner()
                && held.lock.kind == entry.lock.kind
                && (range.last().checked_add(1) == Some(first) || last.checked_add(1) == Some(range.first()));
            if neighbour {
                (first, last) = (first.min(range.first()), last.max(range.last()));
            }
            !neighbour
        });
        if let Ok(range) = LockRange::new(first, last) {
            entry.lock.range = range;
        }
        self.held.push(entry);
    }
}
