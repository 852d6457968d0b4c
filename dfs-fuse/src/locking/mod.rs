//! Locks of the kernel's calls: which of the three interfaces a call came through, and waits that a signal can end.

mod caller_state;

use caller_state::{LockCall, Pending, lock_call, pending_signals};
use dfs_client::{Client, FileHandle};
use dfs_common::lock::{LockKind, LockOwner, LockRange, LockSpec, LockStyle};
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::libc;
use std::time::Duration;

/// The kernel's largest offset: "to the end".
const OFFSET_MAX: u64 = i64::MAX as u64;
/// Between two looks whether a thread that waits has a signal: at first, and later on.
const SIGNAL_POLL: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];
/// So many looks are made at the first pace.
const QUICK_POLLS: u32 = 50;
/// A signal to a process with several threads is this one's to take if no other has taken it within so many looks.
const SHARED_POLLS: u32 = 5;
/// Looks at a thread that has not gone to sleep in its call yet, and the pause between two.
const CALL_LOOKS: u32 = 200;
const CALL_PAUSE: Duration = Duration::from_micros(200);

/// A lock call as the kernel sends it.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest {
    /// The open file.
    pub handle: FileHandle,
    /// The kernel's number of the owner: of a process, or of an open file description.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i32,
    /// The process; 0 of an unlock.
    pub pid: u32,
    /// The thread that waits for the answer.
    pub thread: u32,
}

/// What stands in the way of a lock, as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InTheWay {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK`, or `F_UNLCK` if nothing does.
    pub kind: i32,
    /// The process; 0 if it is not on this machine.
    pub pid: u32,
}

impl LockRequest {
    fn range(&self) -> FsResult<LockRange> {
        let end = if self.end >= OFFSET_MAX {
            u64::MAX
        } else {
            self.end
        };
        LockRange::new(self.start, end)
    }

    fn spec(&self, style: LockStyle, range: LockRange) -> FsResult<LockSpec> {
        let kind = match self.kind {
            libc::F_RDLCK => LockKind::Shared,
            libc::F_WRLCK => LockKind::Exclusive,
            other => {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    format!("there is no lock of kind {other}"),
                ));
            }
        };
        let owner = LockOwner {
            style,
            number: self.owner,
        };
        Ok(LockSpec {
            owner,
            kind,
            range,
            pid: self.pid,
        })
    }

    /// The style of the call, if that can be known.
    async fn style(&self) -> Option<LockStyle> {
        for _ in 0..CALL_LOOKS {
            match lock_call(self.thread) {
                LockCall::Flock => return Some(LockStyle::Flock),
                LockCall::Process => return Some(LockStyle::Process),
                LockCall::OpenFile => return Some(LockStyle::OpenFile),
                LockCall::NotYet => tokio::time::sleep(CALL_PAUSE).await,
                LockCall::Unknown => break,
            }
        }
        None
    }
}

/// `F_SETLK`, `F_SETLKW` and `flock`; `wait` until the lock is granted or a signal wants the thread.
///
/// # Errors
/// Those of the calls.
pub async fn setlk(client: &Client, request: LockRequest, wait: bool) -> FsResult<()> {
    let range = request.range()?;
    let number = request.owner;
    let style = request.style().await;
    // Where the style cannot be known and may be either, both locks are taken: who knows what it takes must not be let pass.
    let styles: &[LockStyle] = match (&style, request.kind) {
        (Some(style), _) => std::slice::from_ref(style),
        (None, libc::F_UNLCK) => &[LockStyle::Process, LockStyle::OpenFile, LockStyle::Flock],
        (None, _) if range == LockRange::WHOLE => &[LockStyle::Process, LockStyle::Flock],
        (None, _) => &[LockStyle::Process],
    };
    let unlock = async |styles: &[LockStyle]| {
        for style in styles {
            let owner = LockOwner {
                style: *style,
                number,
            };
            client.unlock(request.handle, owner, range).await?;
        }
        Ok(())
    };
    if request.kind == libc::F_UNLCK {
        return unlock(styles).await;
    }
    for (index, style) in styles.iter().enumerate() {
        let lock = request.spec(*style, range)?;
        let locked = client
            .lock(request.handle, lock, wait, interrupted(request.thread))
            .await;
        if locked.is_err() {
            unlock(&styles[..index]).await?;
            return locked;
        }
    }
    Ok(())
}

/// `F_GETLK`.
///
/// # Errors
/// Those of fcntl(2).
pub async fn getlk(client: &Client, request: LockRequest) -> FsResult<InTheWay> {
    let range = request.range()?;
    let style = match lock_call(request.thread) {
        LockCall::OpenFile => LockStyle::OpenFile,
        _ => LockStyle::Process,
    };
    let Some((found, own)) = client
        .test_lock(request.handle, request.spec(style, range)?)
        .await?
    else {
        return Ok(InTheWay {
            start: request.start,
            end: request.end,
            kind: libc::F_UNLCK,
            pid: 0,
        });
    };
    Ok(InTheWay {
        start: found.lock.range.first().min(OFFSET_MAX),
        end: found.lock.range.last().min(OFFSET_MAX),
        kind: match found.lock.kind {
            LockKind::Shared => libc::F_RDLCK,
            LockKind::Exclusive => libc::F_WRLCK,
        },
        // A process of another machine has no number here.
        pid: if own { found.lock.pid } else { 0 },
    })
}

/// Ready when a signal wants the thread out of its call. Never, if that cannot be seen.
async fn interrupted(thread: u32) {
    let mut shared = 0;
    for looks in 0u32.. {
        tokio::time::sleep(SIGNAL_POLL[usize::from(looks >= QUICK_POLLS)]).await;
        match pending_signals(thread) {
            Ok(Pending::Certain) => return,
            Ok(Pending::Shared) => {
                shared += 1;
                if shared >= SHARED_POLLS {
                    return;
                }
            }
            Ok(Pending::None) => shared = 0,
            Err(_) => break,
        }
    }
    std::future::pending().await
}
