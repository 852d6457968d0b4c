//! A value in a file, and what a mount that is cut off may take with it.
//!
//! Writes through a mount are acknowledged before they are saved if nobody else has to do with the file. What is not saved is in the state as
//! the values since the last saved one; who else reads or writes, or the mount itself with an fsync, makes the last of them saved. When
//! the session of the mount ends, any of these values may be what remains, for some of them may have been saved in the background.

use super::check::Model;

/// A value of a file, 0 in the beginning.
#[derive(Debug, Default)]
pub struct Register {
    /// The mounts whose sessions may end; what is written through others is not lost.
    pub may_end: Vec<usize>,
}

/// A call through a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    /// Writes.
    Write { mount: usize, value: u64 },
    /// Reads: `how` is a note for the reader.
    Read { mount: usize, how: &'static str },
    /// Saves what was written through this mount.
    Sync { mount: usize },
    /// The mount's session ends: it may lose what it did not save.
    SessionEnd { mount: usize },
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterReply {
    /// It is done.
    Done,
    /// This value.
    Value(u64),
}

/// Its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    saved: u64,
    /// Written since, the last is what everybody sees; all through one mount.
    unsaved: Vec<u64>,
    mount: usize,
}

impl Value {
    fn saved(value: u64) -> Self {
        Value {
            saved: value,
            unsaved: Vec::new(),
            mount: 0,
        }
    }

    fn now(&self) -> u64 {
        self.unsaved.last().copied().unwrap_or(self.saved)
    }
}

impl Model for Register {
    type State = Value;
    type Call = RegisterCall;
    type Reply = RegisterReply;

    fn initial(&self) -> Value {
        Value::saved(0)
    }

    fn step(&self, state: &Value, call: &RegisterCall, reply: Option<&RegisterReply>) -> Vec<Value> {
        let foreign = |mount: usize| !state.unsaved.is_empty() && state.mount != mount;
        match *call {
            RegisterCall::Write { mount, value } => {
                if !self.may_end.contains(&mount) {
                    return vec![Value::saved(value)];
                }
                let mut next = if foreign(mount) {
                    Value::saved(state.now())
                } else {
                    state.clone()
                };
                next.mount = mount;
                next.unsaved.push(value);
                vec![next]
            }
            RegisterCall::Read { mount, .. } => {
                if reply.is_some_and(|reply| *reply != RegisterReply::Value(state.now())) {
                    return Vec::new();
                }
                vec![if foreign(mount) {
                    Value::saved(state.now())
                } else {
                    state.clone()
                }]
            }
            RegisterCall::Sync { mount } if foreign(mount) => vec![state.clone()],
            RegisterCall::Sync { .. } => vec![Value::saved(state.now())],
            RegisterCall::SessionEnd { mount } if foreign(mount) => vec![state.clone()],
            RegisterCall::SessionEnd { .. } => {
                let values = std::iter::once(&state.saved).chain(&state.unsaved);
                values.map(|value| Value::saved(*value)).collect()
            }
        }
    }

    fn is_read(&self, call: &RegisterCall, _: Option<&RegisterReply>) -> bool {
        match call {
            // What somebody else saw was saved: that makes a difference.
            RegisterCall::Read { mount, .. } => self.may_end.iter().all(|other| other == mount),
            _ => false,
        }
    }
}
