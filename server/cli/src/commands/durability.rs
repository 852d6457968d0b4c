//! `dfs admin durability`: when changes of metadata are durable.

use crate::args::{DurabilityArgs, DurabilityMode};
use crate::context::Context;
use dfs_common::{Durability, FsResult};
use std::time::Duration;

/// Runs the command: sets it if a mode is given, and shows what is set then.
///
/// # Errors
/// `Unavailable`, `TimedOut` if the cluster does not answer; those of standard output.
pub async fn run(context: &Context, args: DurabilityArgs) -> FsResult<()> {
    let admin = context.admin()?;
    if let Some(mode) = args.mode {
        let durability = match mode {
            DurabilityMode::Sync => Durability::Sync,
            DurabilityMode::Relaxed => Durability::relaxed(Duration::from_millis(args.delay))?,
        };
        let set = admin.set_durability(durability).await;
        set.map_err(|error| context.unreachable(error))?;
    }
    let status = admin.status().await.map_err(|error| context.unreachable(error))?;
    let now = Durability::from_delay_ms(status.durability_delay_ms)?;
    context.output.result(
        || now.to_string(),
        || serde_json::json!({ "durability": name(now), "delay_ms": now.delay_ms() }),
    )
}

fn name(durability: Durability) -> &'static str {
    match durability {
        Durability::Sync => "sync",
        Durability::Relaxed { .. } => "relaxed",
    }
}
