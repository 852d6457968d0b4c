//! What the table knows, and the rules by which a request is granted, waits, or ends. Called with the table's mutex held.

use super::declared::Sorted;
use super::graph::{Edges, reachable};
use super::ranges::{covers, cut, put};
use super::types::{Ask, Held, Owner, Waiting};
use dfs_common::limits::{SESSION_LOCK_OUTCOMES_MAX, SESSION_LOCK_REQUESTS_MAX, SESSION_LOCKS_MAX};
use dfs_common::lock::{LockOutcome, LockRange, LockStyle};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// Locks of one inode. It is in the table only while one of the two is not empty.
#[derive(Default)]
pub(super) struct InodeLocks {
    pub(super) held: Vec<Held>,
    /// In the order in which they came.
    pub(super) waiting: VecDeque<Waiting>,
}

/// A request that waits, from its session's side.
pub(super) struct Wait {
    pub(super) ino: Ino,
    ask: Ask,
    pub(super) over: Arc<Notify>,
}

/// Of one session, from when it begins until it ends.
#[derive(Default)]
pub(super) struct SessionLocks {
    pub(super) held: usize,
    /// How many of them each owner has; none is not listed.
    owners: HashMap<Owner, usize>,
    pub(super) inodes: BTreeSet<Ino>,
    /// Requests with lower numbers are over and done with, but for those that wait or have waited: one that still arrives is
    /// refused.
    pub(super) settled: u64,
    /// Outcomes of requests from `settled` on.
    outcomes: BTreeMap<u64, LockOutcome>,
    pub(super) waits: BTreeMap<u64, Wait>,
    /// Outcomes of requests that have waited. They stay until the client says of each that it has the answer, so that
    /// one long wait does not keep the outcomes of everything after it.
    pub(super) waited: BTreeMap<u64, LockOutcome>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) by_inode: BTreeMap<Ino, InodeLocks>,
    pub(super) by_session: HashMap<SessionId, SessionLocks>,
    /// Sessions from before the restart that have not declared their locks.
    pub(super) grace: HashSet<SessionId>,
    /// The coordinator stops: nobody is to wait for anything.
    pub(super) closed: bool,
}

/// What a request is told.
pub(super) enum Answer {
    Done(LockOutcome),
    Waits(Arc<Notify>),
}

impl Inner {
    /// What is held of an inode.
    pub(super) fn held(&self, ino: Ino) -> &[Held] {
        self.by_inode.get(&ino).map_or(&[], |inode| &inode.held)
    }

    /// What is held that conflicts with `ask`.
    pub(super) fn in_the_way(&self, ino: Ino, ask: &Ask) -> impl Iterator<Item = &Held> {
        self.held(ino).iter().filter(|lock| lock.ask.conflicts(ask))
    }

    /// Requests of an owner that wait: number, inode, what is asked.
    pub(super) fn waits_of(&self, owner: Owner) -> impl Iterator<Item = (u64, Ino, Ask)> {
        let waits = self
            .by_session
            .get(&owner.session)
            .into_iter()
            .flat_map(|session| &session.waits);
        waits
            .filter(move |(_, wait)| wait.ask.owner == owner)
            .map(|(number, wait)| (*number, wait.ino, wait.ask))
    }

    /// The session has the answers of all requests below `settled`: outcomes of those that did not wait are forgotten.
    pub(super) fn settle(&mut self, id: SessionId, settled: u64) -> FsResult<&mut SessionLocks> {
        let session = self.by_session.get_mut(&id).ok_or_else(|| ended(id))?;
        if settled > session.settled {
            session.settled = settled;
            session.outcomes = session.outcomes.split_off(&settled);
        }
        Ok(session)
    }

    /// Takes note of what the session has settled. `Some`: the request of that number was here before.
    pub(super) fn admit(&mut self, id: SessionId, number: u64, settled: u64) -> FsResult<Option<Answer>> {
        let session = self.settle(id, settled)?;
        let outcome = session
            .outcomes
            .get(&number)
            .or_else(|| session.waited.get(&number));
        if let Some(outcome) = outcome {
            return Ok(Some(Answer::Done(*outcome)));
        }
        if let Some(wait) = session.waits.get(&number) {
            return Ok(Some(Answer::Waits(wait.over.clone())));
        }
        if number < session.settled {
            return Err(FsError::new(
                ErrorKind::StaleOperation,
                format!("lock request {number} of session {id} was settled before it arrived"),
            ));
        }
        // New locks are refused from half of it on, so this is met only by a client that settles nothing.
        if session.outcomes.len() >= SESSION_LOCK_OUTCOMES_MAX {
            return Err(FsError::new(
                ErrorKind::Busy,
                format!(
                    "session {id} has settled none of its last {SESSION_LOCK_OUTCOMES_MAX} lock requests"
                ),
            ));
        }
        Ok(None)
    }

    /// True if no new lock is granted to the session until it settles requests. Unlocks and cancellations still have room.
    fn is_behind(&self, id: SessionId) -> bool {
        let session = self.by_session.get(&id);
        session.is_some_and(|session| session.outcomes.len() >= SESSION_LOCK_OUTCOMES_MAX / 2)
    }

    /// True if the session may not have one more request wait.
    fn waits_enough(&self, id: SessionId) -> bool {
        let session = self.by_session.get(&id);
        session.is_some_and(|session| session.waits.len() + session.waited.len() >= SESSION_LOCK_REQUESTS_MAX)
    }

    /// The request has ended: that is its answer from now on, and whoever waits for it is told.
    pub(super) fn conclude(&mut self, id: SessionId, number: u64, outcome: LockOutcome) -> Answer {
        if let Some(session) = self.by_session.get_mut(&id) {
            match session.waits.remove(&number) {
                Some(wait) => {
                    session.waited.insert(number, outcome);
                    wait.over.notify_one();
                }
                None => {
                    session.outcomes.insert(number, outcome);
                }
            }
        }
        Answer::Done(outcome)
    }

    /// Takes note that the session has so many locks `more` on this inode.
    fn count(&mut self, ino: Ino, owner: Owner, more: isize) {
        let id = owner.session;
        let holds = self.held(ino).iter().any(|lock| lock.ask.owner.session == id);
        if let Some(session) = self.by_session.get_mut(&id) {
            session.held = session.held.saturating_add_signed(more);
            let own = session.owners.entry(owner).or_default();
            *own = own.saturating_add_signed(more);
            if *own == 0 {
                session.owners.remove(&owner);
            }
            if holds {
                session.inodes.insert(ino);
            } else {
                session.inodes.remove(&ino);
            }
        }
    }

    /// The locks of an inode are `sorted` from now on.
    pub(super) fn replace(&mut self, ino: Ino, sorted: Sorted) {
        let more: Vec<(Owner, isize)> = sorted.more().collect();
        if more.is_empty() {
            return;
        }
        self.by_inode.entry(ino).or_default().held = sorted.into_held();
        more.into_iter()
            .for_each(|(owner, more)| self.count(ino, owner, more));
    }

    pub(super) fn grant(&mut self, ino: Ino, ask: Ask) {
        debug_assert!(self.in_the_way(ino, &ask).next().is_none(), "conflicting locks");
        let inode = self.by_inode.entry(ino).or_default();
        let more = put(
            &mut inode.held,
            Held {
                ask,
                since: Instant::now(),
            },
        );
        self.count(ino, ask.owner, more);
    }

    pub(super) fn take(&mut self, ino: Ino, owner: Owner, range: LockRange) {
        if let Some(inode) = self.by_inode.get_mut(&ino) {
            let more = cut(&mut inode.held, owner, range);
            self.count(ino, owner, more);
        }
    }

    /// False if certainly nobody waits for `owner`: it holds nothing, and has at most `waits` requests in queues. Spares
    /// most requests the search for circles.
    fn may_be_waited_for(&self, owner: Owner, waits: usize) -> bool {
        let session = self.by_session.get(&owner.session);
        session.is_some_and(|session| session.owners.contains_key(&owner))
            || self.waits_of(owner).nth(waits).is_some()
    }

    /// True if the session may have as many locks as there are after `change` to those of an inode, which answers how many it adds.
    fn has_room(&self, ino: Ino, id: SessionId, change: impl FnOnce(&mut Vec<Held>) -> isize) -> bool {
        let held = self.by_session.get(&id).map_or(0, |session| session.held);
        // Two more are the most that one request costs; only near the bound it matters how many they are.
        if held + 2 <= SESSION_LOCKS_MAX {
            return true;
        }
        let more = change(&mut self.held(ino).to_vec());
        more <= 0 || held.saturating_add_signed(more) <= SESSION_LOCKS_MAX
    }

    /// True if the session may have what [`Self::grant`] would give it.
    fn may_grant(&self, ino: Ino, ask: Ask) -> bool {
        let since = Instant::now();
        self.has_room(ino, ask.owner.session, |held| put(held, Held { ask, since }))
    }

    /// True if the session may have what [`Self::take`] would leave to it: taking from the middle of a lock makes two.
    pub(super) fn may_take(&self, ino: Ino, owner: Owner, range: LockRange) -> bool {
        self.has_room(ino, owner.session, |held| cut(held, owner, range))
    }

    /// True if `ask` has to wait, with the first `ahead` of the queue in front of it.
    fn is_blocked(&self, ino: Ino, ask: &Ask, ahead: usize) -> bool {
        let Some(inode) = self.by_inode.get(&ino) else {
            return !self.grace.is_empty();
        };
        if covers(&inode.held, ask.owner, ask.kind, ask.range) {
            return false;
        }
        if !self.grace.is_empty() || self.in_the_way(ino, ask).next().is_some() {
            return true;
        }
        // Whoever waits for this owner is let wait: the order of the queue must not make a deadlock.
        let mut earlier = inode
            .waiting
            .iter()
            .take(ahead)
            .filter(|wait| wait.ask.conflicts(ask));
        let itself = usize::from(inode.waiting.len() > ahead);
        let alone = !self.may_be_waited_for(ask.owner, itself);
        earlier.any(|wait| {
            alone || !reachable(self, [wait.ask.owner], Edges::HoldersAndQueues).contains(&ask.owner)
        })
    }

    /// Grants what can be granted of an inode's queue, and forgets the inode if nothing is left.
    pub(super) fn pump(&mut self, ino: Ino) {
        let mut again = true;
        while again {
            again = false;
            let mut place = 0;
            while let Some(wait) = self
                .by_inode
                .get(&ino)
                .and_then(|inode| inode.waiting.get(place).copied())
            {
                if self.is_blocked(ino, &wait.ask, place) {
                    place += 1;
                    continue;
                }
                if let Some(inode) = self.by_inode.get_mut(&ino) {
                    inode.waiting.remove(place);
                }
                let id = wait.ask.owner.session;
                if self.may_grant(ino, wait.ask) {
                    self.grant(ino, wait.ask);
                    self.conclude(id, wait.number, LockOutcome::Granted);
                } else {
                    self.conclude(id, wait.number, LockOutcome::TooMany);
                }
                again = true;
            }
        }
        if self
            .by_inode
            .get(&ino)
            .is_some_and(|inode| inode.held.is_empty() && inode.waiting.is_empty())
        {
            self.by_inode.remove(&ino);
        }
    }

    pub(super) fn pump_all(&mut self) {
        let waited: Vec<Ino> = self
            .by_inode
            .iter()
            .filter(|(_, inode)| !inode.waiting.is_empty())
            .map(|(ino, _)| *ino)
            .collect();
        waited.into_iter().for_each(|ino| self.pump(ino));
    }

    /// As on Linux, a flock of another kind gives up first what its owner has, so two who upgrade do not wait for each other.
    /// Whatever comes of the request: clients forget the old one before they ask.
    fn give_up_for(&mut self, ino: Ino, ask: &Ask) {
        let other = |lock: &Held| lock.ask.owner == ask.owner && lock.ask.kind != ask.kind;
        if ask.owner.style != LockStyle::Flock || !self.held(ino).iter().any(other) {
            return;
        }
        // During the grace nobody comes in between: a weaker one takes the place of the stronger at once.
        let weaker = covers(self.held(ino), ask.owner, ask.kind, ask.range);
        if self.grace.is_empty() || !weaker || self.is_behind(ask.owner.session) {
            self.take(ino, ask.owner, ask.range);
            self.pump(ino);
        }
    }

    /// One request for a lock, see [`super::LockTable::lock`].
    pub(super) fn lock(
        &mut self,
        ino: Ino,
        number: u64,
        settled: u64,
        ask: Ask,
        wait: bool,
    ) -> FsResult<Answer> {
        let id = ask.owner.session;
        ask.check()?;
        if let Some(answer) = self.admit(id, number, settled)? {
            return Ok(answer);
        }
        self.give_up_for(ino, &ask);
        if self.is_behind(id) {
            return Ok(self.conclude(id, number, LockOutcome::TooMany));
        }
        let ahead = self.by_inode.get(&ino).map_or(0, |inode| inode.waiting.len());
        let blocked = self.is_blocked(ino, &ask, ahead);
        // A request that waits is looked at again when its turn comes; one that there is no room for now does not begin to wait.
        if !self.may_grant(ino, ask) || (blocked && wait && self.waits_enough(id)) {
            return Ok(self.conclude(id, number, LockOutcome::TooMany));
        }
        if !blocked {
            self.grant(ino, ask);
            self.pump(ino);
            return Ok(self.conclude(id, number, LockOutcome::Granted));
        }
        if !wait && !self.grace.is_empty() {
            return Err(in_grace());
        }
        if !wait {
            return Ok(self.conclude(id, number, LockOutcome::Conflict));
        }
        let blockers = || self.in_the_way(ino, &ask).map(|lock| lock.ask.owner);
        if ask.owner.style == LockStyle::Process
            && self.may_be_waited_for(ask.owner, 0)
            && reachable(self, blockers(), Edges::Holders).contains(&ask.owner)
        {
            return Ok(self.conclude(id, number, LockOutcome::Deadlock));
        }
        let over = Arc::new(Notify::new());
        if let Some(session) = self.by_session.get_mut(&id) {
            session.waits.insert(
                number,
                Wait {
                    ino,
                    ask,
                    over: over.clone(),
                },
            );
        }
        let waiting = Waiting {
            ask,
            number,
            since: Instant::now(),
        };
        self.by_inode.entry(ino).or_default().waiting.push_back(waiting);
        if self.may_be_waited_for(ask.owner, 1) {
            // This wait may have closed a circle through a queue: those in it are looked at again, and one is let pass.
            let circle = reachable(self, [ask.owner], Edges::HoldersAndQueues);
            let inodes: BTreeSet<Ino> = circle
                .iter()
                .flat_map(|owner| self.waits_of(*owner))
                .map(|(_, ino, _)| ino)
                .collect();
            inodes.into_iter().for_each(|ino| self.pump(ino));
        }
        Ok(self.admit(id, number, settled)?.unwrap_or(Answer::Waits(over)))
    }
}

pub(super) fn in_grace() -> FsError {
    FsError::new(
        ErrorKind::Unavailable,
        "clients are still declaring the locks that they held before the coordinator was restarted",
    )
}

pub(super) fn ended(id: SessionId) -> FsError {
    FsError::new(
        ErrorKind::SessionFenced,
        format!("session {id} has ended, and its locks with it"),
    )
}
