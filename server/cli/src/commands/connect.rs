//! `dfs connect`: checks that a cluster answers and remembers it.
//!
//! Invariant: only a coordinator that answered is remembered.

use crate::context::Context;
use dfs_client::profile::{self, Profile};
use dfs_common::FsResult;
use serde_json::json;

/// Runs the command.
///
/// # Errors
/// `Unavailable`, `TimedOut` if it does not answer; those of writing the profile.
pub async fn run(context: &Context) -> FsResult<()> {
    let status = context
        .admin()?
        .status()
        .await
        .map_err(|error| context.unreachable(error))?;
    let path = profile::save(&Profile {
        coordinator: context.coordinator.clone(),
        cluster: Some(status.cluster.clone()),
    })?;
    context.output.result(
        || {
            let health = if status.healthy {
                "healthy"
            } else {
                "not healthy, see `dfs status`"
            };
            format!(
                "connected to cluster {} at {} ({health}); remembered in {}",
                status.cluster,
                context.coordinator,
                path.display()
            )
        },
        || {
            json!({
                "coordinator": context.coordinator, "cluster": status.cluster, "healthy": status.healthy,
                "profile": path.to_string_lossy(),
            })
        },
    )
}
