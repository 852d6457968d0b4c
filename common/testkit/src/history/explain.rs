//! A history that goes wrong, for a person to read.

use super::check::{Found, Model, Verdict, search};
use super::record::Record;
use std::fmt::{self, Debug, Write};

/// Calls shown; of a longer counterexample the last ones.
const SHOWN_MAX: usize = 60;
/// States shown of those that were possible.
const STATES_MAX: usize = 4;
/// Reads that are tried to be left out.
const TRIED_MAX: usize = 400;

/// Why a history is not linearizable.
#[derive(Debug)]
pub struct Violation(String);

impl Violation {
    pub(super) fn undecided(why: String) -> Self {
        Violation(format!("not decided: {why}; the history has to be shorter"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shortest prefix that cannot be, from the last moment that no call was open, without the reads that do not matter.
pub(super) fn explain<M: Model>(model: &M, records: &[&Record<M>], found: Found<M::State>) -> Violation {
    let (first, states) = found.quiet;
    let bad = records[found.at];
    // What began after the end of the bad one had no part in it.
    let prefix = records[first..]
        .iter()
        .filter(|record| record.invoked <= bad.returned);
    let mut prefix: Vec<&Record<M>> = prefix.copied().collect();
    let is_bad = |record: &Record<M>| std::ptr::eq(record, bad);
    let mut at = prefix.len();
    for _ in 0..TRIED_MAX {
        // From the last to the first.
        let read = prefix[..at]
            .iter()
            .rposition(|record| !is_bad(record) && model.is_read(&record.call, record.reply.as_ref()));
        let Some(read) = read else { break };
        at = read;
        let mut without = prefix.clone();
        without.remove(read);
        // A history stays linearizable without a read: what is wrong without it is wrong.
        if let Verdict::Violated(still) = search(model, &states, &without)
            && is_bad(without[still.at])
        {
            prefix = without;
        }
    }
    let mut text = String::new();
    let _ = writeln!(
        text,
        "not linearizable, {} calls, the last of them is wrong",
        prefix.len()
    );
    let _ = writeln!(text, "before them: {}", some(&states));
    prefix.sort_by_key(|record| (is_bad(record), record.invoked));
    if prefix.len() > SHOWN_MAX {
        let _ = writeln!(text, "  ... {} earlier ones", prefix.len() - SHOWN_MAX);
    }
    for record in &prefix[prefix.len().saturating_sub(SHOWN_MAX)..] {
        let _ = writeln!(
            text,
            "{} {}",
            if is_bad(record) { "!" } else { " " },
            line(record)
        );
    }
    let _ = write!(
        text,
        "possible before the end of the last: {}",
        some(&found.before)
    );
    Violation(text)
}

fn line<M: Model>(record: &Record<M>) -> String {
    let ms = |time: std::time::Duration| format!("{:10.3}", time.as_secs_f64() * 1e3);
    let (end, reply) = match &record.reply {
        Some(reply) => (ms(record.returned), format!("{reply:?}")),
        None => ("         ?".to_owned(), "unknown".to_owned()),
    };
    let call = format!("{:?}", record.call);
    format!(
        "{} .. {end} ms  {:<16} {call} -> {reply}",
        ms(record.invoked),
        record.worker
    )
}

fn some<S: Debug>(states: &[S]) -> String {
    let shown: Vec<_> = states
        .iter()
        .take(STATES_MAX)
        .map(|state| format!("{state:?}"))
        .collect();
    let more = match states.len().saturating_sub(STATES_MAX) {
        0 => String::new(),
        more => format!(" or {more} more"),
    };
    shown.join(" or ") + &more
}
