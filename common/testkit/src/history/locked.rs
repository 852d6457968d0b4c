//! A counter that is read and written under a lock of its file.
//!
//! Invariant of the model: who does not have the lock can neither read nor write. A mount whose session ends takes its locks with it, and maybe
//! what was written and not yet saved; giving up the lock saves.

use super::check::Model;

/// A lock and a counter, 0 in the beginning.
#[derive(Debug)]
pub struct LockedCounter;

/// A call of an owner of locks, who is on a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockedCall {
    /// Asks for the lock, without waiting.
    TryLock {
        owner: usize,
        mount: usize,
        shared: bool,
    },
    /// Asks for the lock and waits for it.
    Lock {
        owner: usize,
        mount: usize,
        shared: bool,
    },
    /// Gives it up.
    Unlock { owner: usize },
    /// Reads the counter.
    Read { owner: usize },
    /// Writes it.
    Write { owner: usize, value: u64 },
    /// The mount's session ends.
    SessionEnd { mount: usize },
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockedReply {
    /// It is done.
    Done,
    /// Somebody else has it.
    Busy,
    /// The counter.
    Value(u64),
}

/// Who has the lock, and the counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Locked {
    /// Sorted.
    holders: Vec<Holder>,
    now: u64,
    /// What is there when the writer's session ends before it saves.
    saved: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Holder {
    owner: usize,
    mount: usize,
    shared: bool,
}

impl Locked {
    fn holder(&self, owner: usize) -> Option<Holder> {
        self.holders.iter().copied().find(|holder| holder.owner == owner)
    }

    fn with(&self, new: Holder) -> Option<Self> {
        let conflict = |holder: &Holder| !(holder.shared && new.shared);
        if self.holders.iter().any(conflict) {
            return None;
        }
        let mut next = self.clone();
        next.holders.push(new);
        next.holders.sort_unstable();
        Some(next)
    }
}

impl Model for LockedCounter {
    type State = Locked;
    type Call = LockedCall;
    type Reply = LockedReply;

    fn initial(&self) -> Locked {
        Locked {
            holders: Vec::new(),
            now: 0,
            saved: 0,
        }
    }

    fn step(&self, state: &Locked, call: &LockedCall, reply: Option<&LockedReply>) -> Vec<Locked> {
        let mut next = state.clone();
        let so = match *call {
            LockedCall::TryLock { owner, mount, shared } | LockedCall::Lock { owner, mount, shared } => {
                match state.with(Holder { owner, mount, shared }) {
                    Some(locked) => {
                        next = locked;
                        LockedReply::Done
                    }
                    None => LockedReply::Busy,
                }
            }
            LockedCall::Unlock { owner } => {
                next.holders.retain(|holder| holder.owner != owner);
                next.saved = next.now;
                LockedReply::Done
            }
            LockedCall::Read { owner } if state.holder(owner).is_some() => LockedReply::Value(state.now),
            LockedCall::Write { owner, value }
                if state.holder(owner).is_some_and(|holder| !holder.shared) =>
            {
                next.now = value;
                LockedReply::Done
            }
            // Without the lock: it cannot take effect.
            LockedCall::Read { .. } | LockedCall::Write { .. } => return Vec::new(),
            LockedCall::SessionEnd { mount } => {
                let held = next
                    .holders
                    .iter()
                    .any(|holder| holder.mount == mount && !holder.shared);
                next.holders.retain(|holder| holder.mount != mount);
                if !held {
                    return vec![next];
                }
                let lost = Locked {
                    now: state.saved,
                    ..next.clone()
                };
                next.saved = next.now;
                return vec![next, lost];
            }
        };
        let agrees = reply.is_none_or(|reply| *reply == so);
        agrees.then_some(next).into_iter().collect()
    }

    fn is_read(&self, call: &LockedCall, reply: Option<&LockedReply>) -> bool {
        matches!(call, LockedCall::Read { .. }) || reply == Some(&LockedReply::Busy)
    }
}
