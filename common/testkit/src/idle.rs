//! Clients that do nothing and remember much, and what they cost the coordinator: each has a connection for calls, a lifeline, a recall
//! stream that is asked for, and leases.

use crate::process::ProcessCluster;
use bytes::Bytes;
use dfs_common::lease::Obeyed;
use dfs_common::limits::{READDIR_ENTRIES_MAX, SESSION_KEEPALIVE};
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, Operation};
use dfs_common::service::{Lifeline, MetadataService};
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{FileKind, Ino, Name, OpNumber};
use dfs_proto::{Transport, connect_metadata};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
/// Sessions that are begun at once.
const BEGUN_AT_ONCE: usize = 16;
/// Creates of one batch.
const CREATES: usize = 512;

/// What the sessions have leases on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// All on the same inodes.
    Shared,
    /// Each on inodes of its own.
    Own,
}

/// Resident memory of the coordinator, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// With all that the sessions will ask for in its caches.
    pub before: u64,
    /// With all sessions.
    pub after: u64,
    /// How many these are.
    pub sessions: usize,
}

impl Growth {
    /// What one session costs.
    pub fn per_session(&self) -> u64 {
        self.after.saturating_sub(self.before) / self.sessions as u64
    }
}

struct Idle {
    service: Arc<dyn MetadataService>,
    identity: Identity,
    next: AtomicU64,
    _line: Option<Box<dyn Lifeline>>,
}

impl Idle {
    /// With a lifeline, a recall stream and keep-alives if it is to stay.
    async fn begin(address: &str, stays: bool) -> Arc<Idle> {
        let service = connect_metadata(Transport::Framed, address, DEADLINE).expect("an address");
        let request = OpenSession {
            client_name: "idle".into(),
            resume: None,
            opened: Vec::new(),
            unsynced: None,
            locks: Default::default(),
            leases: false,
        };
        let grant = service.open_session(request).await.expect("a session");
        let identity = grant.identity;
        let mut line = None;
        if stays {
            let mut new = service.lifeline(identity, 1).await.expect("a lifeline");
            new.hold().await.expect("it is held");
            line = Some(new);
        }
        let idle = Arc::new(Idle {
            service,
            identity,
            next: AtomicU64::new(1),
            _line: line,
        });
        if stays {
            idle.follow_recalls().await;
        }
        let kept = Arc::downgrade(&idle);
        tokio::spawn(async move {
            while let Some(idle) = kept.upgrade() {
                let _ = idle.service.keep_alive(idle.identity).await;
                drop(idle);
                tokio::time::sleep(SESSION_KEEPALIVE).await;
            }
        });
        idle
    }

    async fn follow_recalls(self: &Arc<Self>) {
        let page = self.service.recalls(self.identity, 0, Obeyed::default()).await;
        let stream = page.expect("a recall stream").stream;
        let kept = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(idle) = kept.upgrade() {
                let page = idle
                    .service
                    .recalls(idle.identity, stream, Obeyed::default())
                    .await;
                if page.is_ok_and(|page| !page.recalls.is_empty()) {
                    return;
                }
            }
        });
    }

    async fn mutate(&self, ops: impl IntoIterator<Item = Operation>) -> Vec<OpReply> {
        let ops: Vec<NumberedOp> = ops
            .into_iter()
            .map(|op| NumberedOp {
                number: OpNumber(self.next.fetch_add(1, Ordering::Relaxed)),
                caller: Caller::root(),
                op,
            })
            .collect();
        let batch = MutationBatch {
            acknowledged_below: ops[0].number,
            ops,
            stop_on_error: false,
            durable: false,
        };
        let mutated = self.service.mutate(self.identity, batch).await;
        let results = mutated.expect("an answer").results;
        results.into_iter().map(|result| result.expect("done")).collect()
    }

    async fn make_directory(&self, name: &str, files: usize) -> Ino {
        let mkdir = Operation::Mkdir {
            parent: Ino::ROOT,
            name: named(name),
            mode: 0o755,
        };
        let OpReply::Entry(entry) = self.mutate([mkdir]).await.remove(0) else {
            panic!("mkdir answers an entry")
        };
        let parent = entry.attr.ino;
        for first in (0..files).step_by(CREATES) {
            let file = |number: usize| Operation::Mknod {
                parent,
                name: named(&format!("file-{number:06}")),
                kind: FileKind::File,
                mode: 0o644,
                rdev: 0,
            };
            self.mutate((first..files.min(first + CREATES)).map(file)).await;
        }
        parent
    }

    /// Lists a directory with attributes; whether all of it is leased now.
    async fn list(&self, directory: Ino) -> bool {
        let (mut cursor, mut leased) = (0, true);
        loop {
            let caller = Caller::root();
            let limit = READDIR_ENTRIES_MAX;
            let page = self
                .service
                .readdir(self.identity, caller, directory, cursor, limit, true)
                .await
                .expect("a page");
            leased &= page.leased;
            match page.entries.last() {
                Some(last) if !page.end => cursor = last.cursor,
                _ => return leased,
            }
        }
    }
}

fn named(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).expect("a name")
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the coordinator runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("the kernel says it in KiB") << 10
}

/// Begins `sessions` idle sessions with leases on a directory of `inodes` files each, and tells what that costs the coordinator.
///
/// # Panics
/// When something is not leased.
pub async fn growth(cluster: &mut ProcessCluster, sessions: usize, inodes: usize, leased: Leased) -> Growth {
    let address = cluster.coordinator().to_owned();
    let pid = cluster.node("coordinator").pid().expect("it runs");
    let maker = Idle::begin(&address, false).await;
    let directories = match leased {
        Leased::Shared => 1,
        Leased::Own => sessions,
    };
    let mut made = Vec::with_capacity(directories);
    for number in 0..directories {
        let name = format!("{leased:?}-{sessions}-{number}");
        made.push(maker.make_directory(&name, inodes).await);
    }
    // What is paid once: what these listings bring into caches, and the first sessions.
    for directory in &made {
        assert!(
            !maker.list(*directory).await,
            "without a recall stream nothing is leased"
        );
    }
    let mut kept = Vec::with_capacity(sessions + BEGUN_AT_ONCE);
    for _ in 0..BEGUN_AT_ONCE {
        let idle = Idle::begin(&address, true).await;
        assert!(idle.list(made[0]).await, "all of it is leased");
        kept.push(idle);
    }
    let before = resident(pid);
    for first in (0..sessions).step_by(BEGUN_AT_ONCE) {
        let begin = (first..sessions.min(first + BEGUN_AT_ONCE)).map(|number| {
            let (address, directory) = (address.as_str(), made[number % made.len()]);
            async move {
                let idle = Idle::begin(address, true).await;
                assert!(idle.list(directory).await, "all of it is leased");
                idle
            }
        });
        kept.extend(futures::future::join_all(begin).await);
    }
    let after = resident(pid);
    Growth {
        before,
        after,
        sessions,
    }
}
