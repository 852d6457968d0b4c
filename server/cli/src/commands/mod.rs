//! The commands of `dfs`, one file each.

mod connect;
mod download;
mod du;
mod durability;
mod fsck;
mod locks;
mod ls;
mod metadata;
mod mkdir;
mod nodes;
mod quota;
mod rm;
mod stat;
mod status;
mod upload;

use crate::args::{AdminCommand, Command};
use crate::context::Context;
use dfs_common::FsResult;

/// Runs one command. Failures of single paths are shown as they happen and set the exit code.
///
/// # Errors
/// What ended the command early.
pub async fn run(command: Command, context: &Context) -> FsResult<()> {
    match command {
        Command::Connect(_) => context.stoppable(connect::run(context)).await,
        Command::Upload(args) => upload::run(context, args).await,
        Command::Download(args) => download::run(context, args).await,
        Command::Ls(args) => ls::run(context, args).await,
        Command::Rm(args) => rm::run(context, args).await,
        Command::Mkdir(args) => mkdir::run(context, args).await,
        Command::Stat(args) => stat::run(context, args).await,
        Command::Du(args) => du::run(context, args).await,
        Command::Status => context.stoppable(status::run(context)).await,
        Command::Admin(AdminCommand::Durability(args)) => {
            context.stoppable(durability::run(context, args)).await
        }
        Command::Admin(AdminCommand::Fsck(args)) => context.stoppable(fsck::run(context, args)).await,
        Command::Admin(AdminCommand::Metadata(command)) => {
            context.stoppable(metadata::run(context, command)).await
        }
        Command::Admin(AdminCommand::Quota(command)) => quota::run(context, command).await,
        Command::Admin(AdminCommand::Locks(args)) => locks::run(context, args).await,
        Command::Admin(AdminCommand::Nodes) => context.stoppable(nodes::run(context)).await,
    }
}
