//! Totals, and numbers that were given.

use super::Check;
use crate::namespace::counters::{Counters, NUMBERS_MAX};
use crate::namespace::repair::Repair;
use crate::stored;
use dfs_common::FsResult;

/// Numbers that are passed over when it is not known any more which were given: those of the highest inodes may have been removed.
const NUMBERS_PASSED_OVER: u64 = 1 << 24;

/// The totals say what was counted, and no number is in use that was not given.
pub(super) fn check(check: &mut Check<'_>) -> FsResult<()> {
    let reserved = stored::durability(check.read)?.numbers_reserved;
    let below = check.numbers_below;
    let Some(said) = check.said else {
        let passed_over = below.max(reserved).saturating_add(NUMBERS_PASSED_OVER);
        let counted = Counters {
            numbers_below: passed_over.min(NUMBERS_MAX),
            ..check.seen
        };
        check.report.expect_or_repair(
            false,
            || format!("there are no totals that can be read; what was counted: {counted:?}"),
            || Repair::Totals { said: None, counted },
        );
        return Ok(());
    };
    let seen = Counters {
        numbers_below: said.numbers_below,
        ..check.seen
    };
    check
        .report
        .expect(reserved == 0 || said.numbers_below <= reserved, || {
            format!(
                "numbers below {} were given, those below {reserved} are reserved",
                said.numbers_below
            )
        });
    check.report.expect_or_repair(
        said == seen,
        || format!("the totals say {said:?}, there are {seen:?}"),
        || Repair::Totals {
            said: Some(said),
            counted: seen,
        },
    );
    check.report.expect_or_repair(
        below <= said.numbers_below,
        || {
            format!(
                "numbers below {below} are in use, only those below {} were given",
                said.numbers_below
            )
        },
        || Repair::Numbers { below },
    );
    Ok(())
}
