//! The full check of a stopped coordinator's metadata.

use dfs_coordinator::namespace::check;
use dfs_coordinator::store::{StoreKind, open};
use std::path::Path;

/// Cache of the store while it is checked, in bytes.
const CACHE: u64 = 32 << 20;

/// Everything that is wrong with the metadata in the data directory of a coordinator that does not run, one sentence each.
pub fn check_store(data: &Path) -> Vec<String> {
    let checked = open(StoreKind::Fjall, &data.join("meta"), CACHE)
        .and_then(|store| store.snapshot())
        .and_then(|snapshot| check::check(&*snapshot));
    match checked {
        Ok(report) => {
            let more = report.problem_count - report.problems.len() as u64;
            let more = (more > 0).then(|| format!("and {more} more problems"));
            report.problems.into_iter().chain(more).collect()
        }
        Err(error) => vec![format!("the metadata could not be checked: {error}")],
    }
}
