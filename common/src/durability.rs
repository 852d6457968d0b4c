//! When an acknowledged change of metadata is durable: survives a power cut of the coordinator's machine.
//!
//! Every acknowledged change survives the end of the coordinator's process. In [`Durability::Relaxed`] the sync of its store comes
//! a little later than the reply; fsync waits for it. Commits become durable in their order, so a power cut takes back
//! the last ones only, and a client can tell by the number of a commit whether it was kept.

use crate::error::{ErrorKind, FsError, FsResult};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// When the coordinator answers a change of metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is durable.
    #[default]
    Sync,
    /// When it is written; it is durable within `delay`. fsync and fsyncdir wait until it is.
    Relaxed {
        /// [`Durability::DELAY_MIN`] to [`Durability::DELAY_MAX`].
        delay: Duration,
    },
}

impl Durability {
    /// Shortest delay: 1 ms.
    pub const DELAY_MIN: Duration = Duration::from_millis(1);
    /// Longest delay: 10 s.
    pub const DELAY_MAX: Duration = Duration::from_secs(10);
    /// The delay unless one is given: 100 ms.
    pub const DELAY_DEFAULT: Duration = Duration::from_millis(100);

    /// Relaxed with this delay.
    ///
    /// # Errors
    /// `Invalid` outside of [`Durability::DELAY_MIN`] to [`Durability::DELAY_MAX`].
    pub fn relaxed(delay: Duration) -> FsResult<Self> {
        if !(Self::DELAY_MIN..=Self::DELAY_MAX).contains(&delay) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "the delay of relaxed durability is {} to {} ms, not {}",
                    Self::DELAY_MIN.as_millis(),
                    Self::DELAY_MAX.as_millis(),
                    delay.as_millis()
                ),
            ));
        }
        Ok(Durability::Relaxed { delay })
    }

    /// The delay in milliseconds; 0 is [`Durability::Sync`].
    pub fn delay_ms(self) -> u64 {
        match self {
            Durability::Sync => 0,
            Durability::Relaxed { delay } => delay.as_millis() as u64,
        }
    }

    /// The inverse of [`Durability::delay_ms`].
    ///
    /// # Errors
    /// Those of [`Durability::relaxed`].
    pub fn from_delay_ms(delay_ms: u64) -> FsResult<Self> {
        match delay_ms {
            0 => Ok(Durability::Sync),
            delay_ms => Self::relaxed(Duration::from_millis(delay_ms)),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Sync => f.write_str("sync"),
            Durability::Relaxed { delay } => write!(f, "relaxed ({} ms)", delay.as_millis()),
        }
    }
}

/// A commit of the coordinator that was acknowledged before it was durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommitId {
    /// Counts the coordinator's starts.
    pub epoch: u64,
    /// Counts such commits since that start; 0 is none.
    pub number: u64,
}

/// How far the coordinator's store was when it answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitPoint {
    /// The last commit that was not durable at once; what was answered is part of it or of an earlier one.
    pub last: CommitId,
    /// Commits of the same epoch up to this number are durable.
    pub durable: u64,
}

impl CommitPoint {
    /// True if everything acknowledged so far is durable.
    pub fn is_durable(&self) -> bool {
        self.last.number <= self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_is_bounded_and_survives_its_number() {
        for delay in [Duration::ZERO, Duration::from_millis(10_001)] {
            assert_eq!(Durability::relaxed(delay).unwrap_err().kind(), ErrorKind::Invalid);
        }
        for durability in [
            Durability::Sync,
            Durability::relaxed(Durability::DELAY_DEFAULT).unwrap(),
        ] {
            assert_eq!(
                Durability::from_delay_ms(durability.delay_ms()).unwrap(),
                durability
            );
        }
        assert!(Durability::from_delay_ms(u64::MAX).is_err());
    }

    #[test]
    fn point_is_durable_when_its_last_commit_is() {
        let point = |number, durable| CommitPoint {
            last: CommitId { epoch: 3, number },
            durable,
        };
        assert!(CommitPoint::default().is_durable());
        assert!(point(5, 5).is_durable());
        assert!(!point(6, 5).is_durable());
    }
}
