//! What a worker did, and when.
//!
//! Invariant: a call took effect, if it did, between `invoked` and `returned` of its record, both of one monotonic clock.

use super::check::Model;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One call of a worker.
pub struct Record<M: Model> {
    /// Who made it.
    pub worker: String,
    /// What it was made on; calls on different objects do not affect each other.
    pub object: usize,
    /// The call.
    pub call: M::Call,
    /// What it came to; `None` when that is not known: it may take effect at any time from its begin on, or never.
    pub reply: Option<M::Reply>,
    /// Its begin, from the begin of the history.
    pub invoked: Duration,
    /// Its end; not looked at when the reply is not known.
    pub returned: Duration,
}

impl<M: Model> Clone for Record<M> {
    fn clone(&self) -> Self {
        Record {
            worker: self.worker.clone(),
            object: self.object,
            call: self.call.clone(),
            reply: self.reply.clone(),
            invoked: self.invoked,
            returned: self.returned,
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<R> {
    /// With this.
    Is(R),
    /// It failed such that it may have taken effect, or still may.
    Unknown,
    /// It says nothing and had no effect: leave it out.
    Void,
}

/// The calls of one worker.
pub struct Log<M: Model> {
    worker: String,
    begin: Instant,
    records: Vec<Record<M>>,
}

impl<M: Model> Log<M> {
    /// The log of `worker`; `begin` is that of the whole history, the same for all.
    pub fn new(worker: impl Into<String>, begin: Instant) -> Self {
        Log {
            worker: worker.into(),
            begin,
            records: Vec::new(),
        }
    }

    /// Makes a call and notes it.
    pub fn call(
        &mut self,
        object: usize,
        call: M::Call,
        make: impl FnOnce() -> Reply<M::Reply>,
    ) -> Reply<M::Reply> {
        let invoked = self.begin.elapsed();
        let reply = make();
        self.note(object, call, reply.clone(), invoked);
        reply
    }

    /// Notes what began at `invoked` ([`Log::now`]) and ends now, for calls that are several in the model.
    pub fn note(&mut self, object: usize, call: M::Call, reply: Reply<M::Reply>, invoked: Duration) {
        let reply = match reply {
            Reply::Is(reply) => Some(reply),
            Reply::Unknown => None,
            Reply::Void => return,
        };
        self.records.push(Record {
            worker: self.worker.clone(),
            object,
            call,
            reply,
            invoked,
            returned: self.begin.elapsed(),
        });
    }

    /// Time of the history.
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// What it noted.
    pub fn records(self) -> Vec<Record<M>> {
        self.records
    }
}

/// The records of all logs, in the order of their begin.
pub fn gather<M: Model>(logs: impl IntoIterator<Item = Log<M>>) -> Vec<Record<M>> {
    let mut records: Vec<_> = logs.into_iter().flat_map(Log::records).collect();
    records.sort_by_key(|record| record.invoked);
    records
}

/// The records of each object: a history is linearizable if that of each object is (Herlihy and Wing, "Linearizability", 1990).
pub fn by_object<M: Model>(records: Vec<Record<M>>) -> BTreeMap<usize, Vec<Record<M>>> {
    let mut objects: BTreeMap<usize, Vec<Record<M>>> = BTreeMap::new();
    for record in records {
        objects.entry(record.object).or_default().push(record);
    }
    objects
}
