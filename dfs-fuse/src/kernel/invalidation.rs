//! Tells the kernel which of its cached names, attributes and pages no longer hold.
//!
//! Invariant: notifications are never sent from the thread of a request: the kernel may wait for requests in flight before it takes one (for READs
//! of the pages, for whoever holds a directory's lock). For the same reason one that waits must not hold up another: each inode's are taken
//! one after the other, by a task of its own, and inodes do not wait for each other.

use super::view::KernelView;
use dfs_client::{Change, Invalidation};
use dfs_common::Ino;
use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

/// Invalidations that wait for one of the same inode before them. An inode that has some has a task.
type Queues = Mutex<HashMap<Option<Ino>, VecDeque<Invalidation>>>;

/// Passes invalidations on until the client or the mount ends.
pub async fn pass_on(
    mut changes: Receiver<Invalidation>,
    kernel: Notifier,
    view: Arc<KernelView>,
    stop: CancellationToken,
) {
    let queues: Arc<Queues> = Arc::default();
    loop {
        let invalidation = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = changes.recv() => match next {
                Some(invalidation) => invalidation,
                None => return,
            },
        };
        let ino = invalidation.change.ino();
        let first = {
            let mut queues = queues.lock();
            let queue = queues.entry(ino);
            let first = matches!(queue, std::collections::hash_map::Entry::Vacant(_));
            queue.or_default().push_back(invalidation);
            first
        };
        if first {
            let (queues, kernel, view) = (queues.clone(), kernel.clone(), view.clone());
            tokio::task::spawn_blocking(move || pass_on_inode(&queues, &kernel, &view, ino));
        }
    }
}

/// What is queued for one inode, until nothing is.
fn pass_on_inode(queues: &Queues, kernel: &Notifier, view: &KernelView, ino: Option<Ino>) {
    loop {
        let next = {
            let mut queues = queues.lock();
            let next = queues.get_mut(&ino).and_then(VecDeque::pop_front);
            if next.is_none() {
                queues.remove(&ino);
            }
            next
        };
        let Some(Invalidation { change, again, done }) = next else {
            return;
        };
        send(kernel, view, &change);
        if let Some(mut again) = again {
            loop {
                let changes = again();
                if changes.is_empty() {
                    break;
                }
                changes.iter().for_each(|change| send(kernel, view, change));
            }
        }
        // Who waits for it may be gone.
        let _ = done.map(|done| done.send(()));
    }
}

fn send(kernel: &Notifier, view: &KernelView, change: &Change) {
    let taken = match change {
        // From 0 to the end: attributes and all pages.
        Change::Inode { ino } => kernel.inval_inode(INodeNo(ino.0), 0, 0),
        Change::Pages { ino, offset, length } => {
            let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
            // Above what the kernel counts in: to the end.
            let length = i64::try_from(*length).unwrap_or(0);
            kernel.inval_inode(INodeNo(ino.0), offset, length)
        }
        Change::Attributes { ino } => return view.take_back_attributes(*ino),
        Change::Lease { ino } => return view.take_back(*ino),
        Change::Leases => return view.take_back_everything(),
    };
    if let Err(error) = taken {
        tracing::debug!(?change, %error, "the kernel did not take an invalidation");
    }
}
