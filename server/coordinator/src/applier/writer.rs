//! Who writes: the writer thread with everything that waits, or a caller with its own command when there is no need to sync.

use super::failstop::FailStop;
use super::group::Group;
use super::{ApplierParts, Command};
use dfs_common::limits::{GROUP_COMMIT_BATCHES_MAX, GROUP_COMMIT_OPS_MAX};
use dfs_common::op::{NumberedOp, Operation};
use dfs_common::{ErrorKind, FsError};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Operations and extents that a caller applies itself at most: it may be a thread that others wait for.
const WORK_NOW_MAX: usize = 64;

/// Whether the commit of `command` must be durable before it is answered, whatever is set. Beside what was asked for that is everything
/// that others act upon where a power cut of this machine does not reach: ids of chunks, sessions, datanodes and their groups. What
/// the collector deletes waits for a barrier before.
fn is_urgent(command: &Command) -> bool {
    match command {
        Command::Mutate { batch, .. } => {
            let grants = |op: &NumberedOp| matches!(op.op, Operation::GrantChunks { .. });
            batch.durable || batch.ops.iter().any(grants)
        }
        Command::ReleaseOrphan { .. } | Command::Reap { .. } | Command::ForgetFreed { .. } => false,
        Command::OpenSession { .. }
        | Command::EndSession { .. }
        | Command::RegisterNode { .. }
        | Command::CreateGroups { .. }
        | Command::Repair { .. }
        | Command::EndHold { .. }
        | Command::SetQuota { .. }
        | Command::SetDurability { .. }
        | Command::Barrier { .. }
        | Command::Stop => true,
    }
}

fn ops(command: &Command) -> usize {
    match command {
        Command::Mutate { batch, .. } => batch.ops.len(),
        _ => 1,
    }
}

/// True for what a client waits for, unless it is much.
fn is_short(command: &Command) -> bool {
    let work = |op: &NumberedOp| match &op.op {
        Operation::CommitWrite(write) => 1 + write.extents.len() + write.chunks.len(),
        _ => 4,
    };
    match command {
        Command::Mutate { batch, .. } => batch.ops.iter().map(work).sum::<usize>() <= WORK_NOW_MAX,
        Command::ReleaseOrphan { .. } => true,
        _ => false,
    }
}

/// The state that is written, and the right to write it.
pub(super) struct Writer {
    /// `None` after the end.
    group: Mutex<Option<Group>>,
    pub(super) fail_stop: FailStop,
}

/// A panic must not leave a coordinator that looks alive: whatever ends a commit by accident stops all writing.
struct Accident<'a>(&'a FailStop);

impl Drop for Accident<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = FsError::new(ErrorKind::Io, "a commit ended by accident");
            self.0.set(&error);
        }
    }
}

impl Writer {
    pub(super) fn new(parts: ApplierParts) -> Self {
        Writer {
            group: Mutex::new(Some(Group::new(parts))),
            fail_stop: FailStop::default(),
        }
    }

    /// Applies `command` at once, on this thread, if nobody writes just now and its commit need not be synced. Gives it back otherwise.
    pub(super) fn try_now(&self, command: Command) -> Option<Command> {
        if is_urgent(&command) || !is_short(&command) {
            return Some(command);
        }
        let Some(mut group) = self.group.try_lock() else {
            return Some(command);
        };
        let relaxed = |group: &&mut Group| group.parts.persistence.is_relaxed();
        let Some(group) = group.as_mut().filter(relaxed) else {
            return Some(command);
        };
        self.commit(group, vec![command], false);
        None
    }

    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        self.group.is_locked()
    }

    /// After a failure nothing is written any more: what was applied is answered with the error by the group, the rest here.
    fn commit(&self, group: &mut Group, commands: Vec<Command>, urgent: bool) {
        let _accident = Accident(&self.fail_stop);
        // Dropping a command tells its caller that the applier stopped.
        if self.fail_stop.check().is_ok()
            && let Err(error) = group.commit(commands, urgent)
        {
            self.fail_stop.set(&error);
        }
    }

    /// The writer thread.
    pub(super) fn run(&self, mut receiver: mpsc::Receiver<Command>) {
        let _accident = Accident(&self.fail_stop);
        let mut stopping = false;
        while !stopping && self.fail_stop.check().is_ok() {
            let Some(first) = receiver.blocking_recv() else {
                break;
            };
            let mut next = Some(first);
            let mut commands = Vec::new();
            let mut waiting = 0;
            while let Some(command) = next {
                if matches!(command, Command::Stop) {
                    stopping = true;
                    break;
                }
                waiting += ops(&command);
                commands.push(command);
                if commands.len() >= GROUP_COMMIT_BATCHES_MAX || waiting >= GROUP_COMMIT_OPS_MAX {
                    break;
                }
                next = receiver.try_recv().ok();
            }
            let urgent = commands.iter().any(is_urgent);
            if let Some(group) = self.group.lock().as_mut() {
                self.commit(group, commands, urgent);
            }
        }
        let group = self.group.lock().take();
        if let Some(mut group) = group
            && self.fail_stop.check().is_ok()
            && let Err(error) = group.parts.persistence.close(&*group.parts.store)
        {
            self.fail_stop.set(&error);
        }
        // Callers that still wait find their reply channel closed.
        receiver.close();
        while receiver.try_recv().is_ok() {}
    }
}
