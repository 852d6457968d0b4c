//! Names in directories.
//!
//! Every file has a number that is given with its creation and that every look shows, so that a name is not only there or not, but of this or
//! that file.

use super::check::Model;

/// Names; a *place* is a name in a directory.
#[derive(Debug)]
pub struct Names {
    /// How many places there are.
    pub places: usize,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameCall {
    /// Creates this file at a place where nothing is.
    Create { place: usize, file: u16 },
    /// Removes what is there.
    Unlink { place: usize },
    /// Moves what is there to another place, over what is there.
    Rename { from: usize, to: usize },
    /// Looks a name up.
    Stat { place: usize },
    /// Looks for a name in the list of its directory.
    List { place: usize },
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameReply {
    /// It is done.
    Done,
    /// There is something already.
    Exists,
    /// There is nothing.
    Missing,
    /// This file.
    File(u16),
    /// It is in the list, or not.
    Listed(bool),
}

impl Model for Names {
    type State = Vec<Option<u16>>;
    type Call = NameCall;
    type Reply = NameReply;

    fn initial(&self) -> Self::State {
        vec![None; self.places]
    }

    fn step(&self, state: &Self::State, call: &NameCall, reply: Option<&NameReply>) -> Vec<Self::State> {
        let mut next = state.clone();
        let so = match *call {
            NameCall::Create { place, file } => match state[place] {
                Some(_) => NameReply::Exists,
                None => {
                    next[place] = Some(file);
                    NameReply::Done
                }
            },
            NameCall::Unlink { place } => match next[place].take() {
                Some(_) => NameReply::Done,
                None => NameReply::Missing,
            },
            NameCall::Rename { from, to } => match next[from].take() {
                Some(file) => {
                    next[to] = Some(file);
                    NameReply::Done
                }
                None => NameReply::Missing,
            },
            NameCall::Stat { place } => state[place].map_or(NameReply::Missing, NameReply::File),
            NameCall::List { place } => NameReply::Listed(state[place].is_some()),
        };
        let agrees = reply.is_none_or(|reply| *reply == so);
        agrees.then_some(next).into_iter().collect()
    }

    fn is_read(&self, call: &NameCall, reply: Option<&NameReply>) -> bool {
        let failed = matches!(reply, Some(NameReply::Exists | NameReply::Missing));
        failed || matches!(call, NameCall::Stat { .. } | NameCall::List { .. })
    }
}
