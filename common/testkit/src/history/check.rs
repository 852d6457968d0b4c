//! Whether a history is linearizable.
//!
//! The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) in Lowe's form of just-in-time linearization ("Testing
//! for Linearizability", 2017): it goes through the begins and ends in the order of time and keeps every *configuration* that may be, which is a
//! state of the object and which of the open calls took effect already. Calls take effect only when the end of one demands it. Since
//! configurations are a set, equal ones are looked at once, and since it goes with time, the first end that leaves none is that of the
//! shortest prefix that cannot be explained.

use super::explain::{Violation, explain};
use super::record::Record;
use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// Calls open at one moment, those whose end is unknown included: bits of a configuration.
const OPEN_MAX: usize = 64;
/// Configurations at one moment; a history with more is refused rather than left to fill the memory.
const CONFIGURATIONS_MAX: usize = 50_000;

/// A shared object of one machine.
pub trait Model: Sized {
    /// Its state.
    type State: Clone + Eq + Hash + Debug;
    /// What can be called.
    type Call: Clone + Debug;
    /// What a call can come to.
    type Reply: Clone + Debug + PartialEq;

    /// The state in the beginning.
    fn initial(&self) -> Self::State;

    /// The states that may follow when `call` takes effect in `state` and comes to `reply` (`None`: whatever it comes to); none when it
    /// cannot.
    fn step(&self, state: &Self::State, call: &Self::Call, reply: Option<&Self::Reply>) -> Vec<Self::State>;

    /// Whether this call with this reply leaves every state as it is.
    fn is_read(&self, call: &Self::Call, reply: Option<&Self::Reply>) -> bool;
}

/// Checks the history of one object.
///
/// # Errors
/// When it is not linearizable, with the counterexample; when that cannot be decided within bounds.
pub fn check<M: Model>(model: &M, records: &[Record<M>]) -> Result<(), Violation> {
    let records: Vec<&Record<M>> = records.iter().filter(|record| matters(model, record)).collect();
    match search(model, &[model.initial()], &records) {
        Verdict::Linearizable => Ok(()),
        Verdict::Undecided(why) => Err(Violation::undecided(why)),
        Verdict::Violated(found) => Err(explain(model, &records, found)),
    }
}

/// A read of unknown result says nothing.
fn matters<M: Model>(model: &M, record: &Record<M>) -> bool {
    record.reply.is_some() || !model.is_read(&record.call, None)
}

/// What a search found.
pub(super) enum Verdict<S> {
    Linearizable,
    Undecided(String),
    Violated(Found<S>),
}

/// Where a history goes wrong.
pub(super) struct Found<S> {
    /// The record whose end cannot be.
    pub at: usize,
    /// The states that were possible before it.
    pub before: Vec<S>,
    /// The last moment before with no call open: the first record that begins later, and the states that were possible.
    pub quiet: (usize, Vec<S>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration<S> {
    state: S,
    /// Bit of each open call that took effect.
    done: u64,
}

struct Search<'a, M: Model> {
    model: &'a M,
    records: &'a [&'a Record<M>],
    /// The open call of each bit.
    open: Vec<Option<usize>>,
    possible: HashSet<Configuration<M::State>>,
}

/// Searches from any of the `initial` states; `records` are in the order of their begin.
pub(super) fn search<M: Model>(model: &M, initial: &[M::State], records: &[&Record<M>]) -> Verdict<M::State> {
    let mut events: Vec<_> = Vec::new();
    for (index, record) in records.iter().enumerate() {
        // Begins sort before ends of the same moment: who cannot be told apart was concurrent.
        events.push((record.invoked, false, index));
        if record.reply.is_some() {
            events.push((record.returned, true, index));
        }
    }
    events.sort_unstable();
    let possible = initial.iter().map(|state| Configuration {
        state: state.clone(),
        done: 0,
    });
    let mut search = Search {
        model,
        records,
        open: Vec::new(),
        possible: possible.collect(),
    };
    let mut quiet = (0, initial.to_vec());
    for (_, is_end, index) in events {
        if search.open.iter().all(Option::is_none) {
            quiet = (index, search.states());
        }
        if !is_end {
            if !search.begin(index) {
                return Verdict::Undecided(format!("more than {OPEN_MAX} calls are open at once"));
            }
            continue;
        }
        let before = search.states();
        if !search.end(index) {
            return Verdict::Undecided(format!("more than {CONFIGURATIONS_MAX} configurations"));
        }
        if search.possible.is_empty() {
            return Verdict::Violated(Found {
                at: index,
                before,
                quiet,
            });
        }
    }
    Verdict::Linearizable
}

impl<M: Model> Search<'_, M> {
    fn states(&self) -> Vec<M::State> {
        let states: HashSet<_> = self.possible.iter().map(|one| one.state.clone()).collect();
        states.into_iter().collect()
    }

    fn begin(&mut self, index: usize) -> bool {
        let free = self.open.iter().position(Option::is_none);
        let bit = free.unwrap_or(self.open.len());
        if bit == OPEN_MAX {
            return false;
        }
        if bit == self.open.len() {
            self.open.push(None);
        }
        self.open[bit] = Some(index);
        if self.is_read(index) {
            let possible = std::mem::take(&mut self.possible);
            self.possible = possible.into_iter().map(|one| self.with_reads(one)).collect();
        }
        true
    }

    /// Keeps what explains the end of this call; false when that is too much.
    fn end(&mut self, index: usize) -> bool {
        let bit = self.open.iter().position(|open| *open == Some(index));
        let bit = bit.expect("what ends has begun");
        let mut explained = HashSet::new();
        let mut seen = HashSet::new();
        let mut rest: Vec<_> = self.possible.drain().collect();
        while let Some(one) = rest.pop() {
            if one.done & (1 << bit) != 0 {
                explained.insert(Configuration {
                    done: one.done & !(1 << bit),
                    ..one
                });
                continue;
            }
            if seen.len() > CONFIGURATIONS_MAX {
                return false;
            }
            for (other, open) in self.open.iter().enumerate() {
                let Some(record) = open else { continue };
                if one.done & (1 << other) != 0 || self.is_read(*record) {
                    continue;
                }
                for state in self.step(&one.state, *record) {
                    let next = self.with_reads(Configuration {
                        state,
                        done: one.done | 1 << other,
                    });
                    if seen.insert(next.clone()) {
                        rest.push(next);
                    }
                }
            }
        }
        self.open[bit] = None;
        self.possible = explained;
        true
    }

    /// Lets every open read that can be explained by the state take effect: a read changes nothing, so the sooner the better.
    fn with_reads(&self, mut one: Configuration<M::State>) -> Configuration<M::State> {
        for (bit, open) in self.open.iter().enumerate() {
            let Some(record) = open else { continue };
            if one.done & (1 << bit) == 0
                && self.is_read(*record)
                && !self.step(&one.state, *record).is_empty()
            {
                one.done |= 1 << bit;
            }
        }
        one
    }

    fn is_read(&self, index: usize) -> bool {
        let record = self.records[index];
        self.model.is_read(&record.call, record.reply.as_ref())
    }

    fn step(&self, state: &M::State, index: usize) -> Vec<M::State> {
        let record = self.records[index];
        self.model.step(state, &record.call, record.reply.as_ref())
    }
}

#[cfg(test)]
mod tests;
