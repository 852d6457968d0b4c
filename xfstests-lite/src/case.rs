//! What a case is, and the checks that cases are made of.

use nix::errno::Errno;
use std::fmt::Debug;
use std::path::Path;

/// Why a case failed.
pub type Why = Box<dyn std::error::Error>;

/// One behaviour.
pub struct Case {
    /// Its name, unique.
    pub name: &'static str,
    /// `names`, `content` or `attr`.
    pub group: &'static str,
    /// What it pins, in one sentence.
    pub behaviour: &'static str,
    /// Where that is written.
    pub source: &'static str,
    /// Checks it in an empty directory.
    pub run: fn(&Path) -> Result<(), Why>,
}

/// How a case ended.
pub enum Outcome {
    /// As it should.
    Passed,
    /// With a sentence.
    Failed(String),
}

/// Fails unless both are equal.
pub fn equal<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), Why> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?}, not {expected:?}").into())
}

/// Fails unless `result` failed with `expected`.
pub fn fails<T: Debug>(what: &str, result: std::io::Result<T>, expected: Errno) -> Result<(), Why> {
    match result {
        Err(error) if error.raw_os_error() == Some(expected as i32) => Ok(()),
        other => Err(format!("{what}: {other:?}, not {expected}").into()),
    }
}
