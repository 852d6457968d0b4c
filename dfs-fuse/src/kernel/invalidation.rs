//! The thread that tells the kernel which of its cached names, attributes and pages no longer hold.
//!
//! Invariant: notifications are sent from here only, never from the thread of a request: the kernel may wait for requests
//! in flight before it takes one.

use dfs_client::Invalidation;
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

/// Passes invalidations on until the client or the mount ends.
pub fn start(
    runtime: Handle,
    mut changes: Receiver<Invalidation>,
    kernel: Notifier,
    stop: CancellationToken,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("invalidation".to_owned())
        .spawn(move || {
            let next = |changes: &mut Receiver<Invalidation>| {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => None,
                        change = changes.recv() => change,
                    }
                })
            };
            while let Some(change) = next(&mut changes) {
                if let Err(error) = send(&kernel, change) {
                    tracing::debug!(%error, "the kernel did not take an invalidation");
                }
            }
        })
}

fn send(kernel: &Notifier, change: Invalidation) -> std::io::Result<()> {
    match change {
        // From 0 to the end: attributes and all pages.
        Invalidation::Inode { ino } => kernel.inval_inode(INodeNo(ino.0), 0, 0),
        Invalidation::Entry { parent, name } => {
            kernel.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes()))
        }
        // A negative offset: attributes alone. Takes no lock that a waiting request may hold.
        Invalidation::Attributes { ino } => kernel.inval_inode(INodeNo(ino.0), -1, 0),
        // Everything before it was taken; the sender waits for that and may be gone.
        Invalidation::Barrier(done) => {
            let _ = done.send(());
            Ok(())
        }
    }
}
