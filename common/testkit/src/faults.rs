//! Wrappers of both seams that lose requests, lose replies, delay and cut streams, by a plan.
//!
//! A lost request never reaches the service; a lost reply means that the call was done and the caller does not know. Both
//! look alike to the caller: `Unavailable`, or `TimedOut` if the plan says so.

use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::ChunkCapability;
use dfs_common::chunk::ChunkDescription;
use dfs_common::cluster::{ClusterUpdate, StatFs};
use dfs_common::lease::{Obeyed, RecallPage};
use dfs_common::lock::{HeldLock, LockOutcome, LockOwner, LockRange, LockSpec, LockTicket};
use dfs_common::op::MutationBatch;
use dfs_common::piece::Piece;
use dfs_common::service::{
    ChunkConnector, ChunkService, ChunkWritten, DirPage, Extents, Found, Lifeline, MetadataService, Mutated,
    Opened, WriteChunk,
};
use dfs_common::session::{Caller, Identity, OpenSession, SessionGrant};
use dfs_common::{CommitPoint, ErrorKind, FsError, FsResult, Ino, Name, TreeUsage};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is not done; the caller sees `Unavailable`.
    LoseRequest,
    /// It is done; the caller sees `Unavailable`.
    LoseReply,
    /// It is done; the caller sees `TimedOut`.
    TimeOut,
    /// It is done after this long.
    Delay(Duration),
    /// It is done; the caller hears of it after this long.
    DelayReply(Duration),
    /// A stream of chunk content ends with `Unavailable` after its first piece; other calls are done as usual.
    CutStream,
    /// It is not done; the caller sees this error.
    Refuse(ErrorKind),
}

/// A call that a plan decides on: the method's name, and how often it was called before.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Name of the method, `mutate` for example.
    pub method: &'static str,
    /// Calls of this method before this one.
    pub before: u64,
}

type Decide = Box<dyn FnMut(Attempt) -> Fault + Send>;

/// Decides what happens to each call; shared by the wrappers that it is given to.
#[derive(Clone)]
pub struct FaultPlan {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    decide: Decide,
    calls: BTreeMap<&'static str, u64>,
    faults: u64,
}

impl FaultPlan {
    /// `decide` is asked for every call, in the order in which they arrive.
    pub fn new(decide: impl FnMut(Attempt) -> Fault + Send + 'static) -> Self {
        let inner = Inner {
            decide: Box::new(decide),
            calls: BTreeMap::new(),
            faults: 0,
        };
        FaultPlan {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// No faults.
    pub fn none() -> Self {
        FaultPlan::new(|_| Fault::None)
    }

    /// `fault` happens to every `n`-th call of each method that `concerns` names; to all methods if that is empty.
    pub fn every(n: u64, fault: Fault, concerns: &'static [&'static str]) -> Self {
        FaultPlan::new(move |attempt| {
            let concerned = concerns.is_empty() || concerns.contains(&attempt.method);
            if concerned && attempt.before % n == n - 1 {
                fault
            } else {
                Fault::None
            }
        })
    }

    /// The faults of `script`, one per call of `method`, then none.
    pub fn script(method: &'static str, script: Vec<Fault>) -> Self {
        FaultPlan::new(move |attempt| {
            let at = (attempt.method == method).then_some(attempt.before as usize);
            at.and_then(|at| script.get(at)).copied().unwrap_or(Fault::None)
        })
    }

    /// One of `faults` for about one in `n` calls, determined by `seed` and the order of calls.
    pub fn random(seed: u64, n: u32, faults: Vec<Fault>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        FaultPlan::new(move |_| match rng.random_ratio(1, n) {
            true => faults[rng.random_range(0..faults.len())],
            false => Fault::None,
        })
    }

    /// Another way to decide from now on.
    pub fn replace(&self, decide: impl FnMut(Attempt) -> Fault + Send + 'static) {
        self.inner.lock().decide = Box::new(decide);
    }

    /// Calls of a method so far.
    pub fn calls(&self, method: &str) -> u64 {
        self.inner.lock().calls.get(method).copied().unwrap_or(0)
    }

    /// Faults so far.
    pub fn faults(&self) -> u64 {
        self.inner.lock().faults
    }

    fn decide(&self, method: &'static str) -> Fault {
        let mut inner = self.inner.lock();
        let calls = inner.calls.entry(method).or_default();
        let attempt = Attempt {
            method,
            before: *calls,
        };
        *calls += 1;
        let fault = (inner.decide)(attempt);
        inner.faults += u64::from(fault != Fault::None);
        fault
    }

    async fn around<T>(&self, method: &'static str, call: BoxFuture<'_, FsResult<T>>) -> FsResult<T> {
        let lost = |kind, what: &str| Err(FsError::new(kind, format!("the {what} of {method} was lost")));
        match self.decide(method) {
            Fault::None | Fault::CutStream => call.await,
            Fault::LoseRequest => lost(ErrorKind::Unavailable, "request"),
            Fault::LoseReply => {
                let _ = call.await;
                lost(ErrorKind::Unavailable, "reply")
            }
            Fault::TimeOut => {
                let _ = call.await;
                lost(ErrorKind::TimedOut, "reply")
            }
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                call.await
            }
            Fault::DelayReply(time) => {
                let reply = call.await;
                tokio::time::sleep(time).await;
                reply
            }
            Fault::Refuse(kind) => Err(FsError::new(kind, format!("{method} was refused by the plan"))),
        }
    }
}

/// Metadata with faults.
pub struct FaultyMetadata {
    inner: Arc<dyn MetadataService>,
    plan: FaultPlan,
}

impl FaultyMetadata {
    /// `inner`, disturbed by `plan`.
    pub fn new(inner: Arc<dyn MetadataService>, plan: FaultPlan) -> Self {
        FaultyMetadata { inner, plan }
    }
}

#[async_trait]
impl MetadataService for FaultyMetadata {
    async fn open_session(&self, request: OpenSession) -> FsResult<SessionGrant> {
        self.plan
            .around("open_session", self.inner.open_session(request))
            .await
    }
    async fn keep_alive(&self, identity: Identity) -> FsResult<Duration> {
        self.plan
            .around("keep_alive", self.inner.keep_alive(identity))
            .await
    }
    async fn close_session(&self, identity: Identity) -> FsResult<()> {
        self.plan
            .around("close_session", self.inner.close_session(identity))
            .await
    }
    async fn mutate(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated> {
        self.plan
            .around("mutate", self.inner.mutate(identity, batch))
            .await
    }
    async fn lifeline(&self, identity: Identity, number: u64) -> FsResult<Box<dyn Lifeline>> {
        self.plan
            .around("lifeline", self.inner.lifeline(identity, number))
            .await
    }
    async fn recalls(&self, identity: Identity, stream: u64, obeyed: Obeyed) -> FsResult<RecallPage> {
        self.plan
            .around("recalls", self.inner.recalls(identity, stream, obeyed))
            .await
    }
    async fn lookup(&self, identity: Identity, caller: Caller, parent: Ino, name: Name) -> FsResult<Found> {
        self.plan
            .around("lookup", self.inner.lookup(identity, caller, parent, name))
            .await
    }
    async fn getattr(&self, identity: Identity, ino: Ino) -> FsResult<Found> {
        self.plan
            .around("getattr", self.inner.getattr(identity, ino))
            .await
    }
    async fn readlink(&self, identity: Identity, ino: Ino) -> FsResult<Bytes> {
        self.plan
            .around("readlink", self.inner.readlink(identity, ino))
            .await
    }
    async fn readdir(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let call = self.inner.readdir(identity, caller, ino, cursor, limit, attrs);
        self.plan.around("readdir", call).await
    }
    async fn getxattr(&self, identity: Identity, caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        self.plan
            .around("getxattr", self.inner.getxattr(identity, caller, ino, name))
            .await
    }
    async fn listxattr(&self, identity: Identity, caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        self.plan
            .around("listxattr", self.inner.listxattr(identity, caller, ino))
            .await
    }
    async fn read_extents(
        &self,
        identity: Identity,
        ino: Ino,
        offset: u64,
        length: u64,
        settle: bool,
    ) -> FsResult<Extents> {
        self.plan
            .around(
                "read_extents",
                self.inner.read_extents(identity, ino, offset, length, settle),
            )
            .await
    }
    async fn open(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened> {
        self.plan
            .around("open", self.inner.open(identity, caller, ino, read, write))
            .await
    }
    async fn release(&self, identity: Identity, inos: Vec<Ino>) -> FsResult<()> {
        self.plan
            .around("release", self.inner.release(identity, inos))
            .await
    }
    async fn fsync(&self, identity: Identity, ino: Ino) -> FsResult<CommitPoint> {
        self.plan.around("fsync", self.inner.fsync(identity, ino)).await
    }
    async fn usage(&self, identity: Identity, ino: Ino) -> FsResult<TreeUsage> {
        self.plan.around("usage", self.inner.usage(identity, ino)).await
    }
    async fn lock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        lock: LockSpec,
        patience: Duration,
    ) -> FsResult<LockOutcome> {
        let call = self.inner.lock(identity, ticket, ino, lock, patience);
        self.plan.around("lock", call).await
    }
    async fn unlock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
    ) -> FsResult<LockOutcome> {
        let call = self.inner.unlock(identity, ticket, ino, owner, range);
        self.plan.around("unlock", call).await
    }
    async fn cancel_lock(&self, identity: Identity, ticket: LockTicket) -> FsResult<LockOutcome> {
        self.plan
            .around("cancel_lock", self.inner.cancel_lock(identity, ticket))
            .await
    }
    async fn test_lock(&self, identity: Identity, ino: Ino, lock: LockSpec) -> FsResult<Option<HeldLock>> {
        self.plan
            .around("test_lock", self.inner.test_lock(identity, ino, lock))
            .await
    }
    async fn statfs(&self, identity: Identity) -> FsResult<StatFs> {
        self.plan.around("statfs", self.inner.statfs(identity)).await
    }
    async fn cluster_state(&self, identity: Identity, known_version: u64) -> FsResult<ClusterUpdate> {
        self.plan
            .around("cluster_state", self.inner.cluster_state(identity, known_version))
            .await
    }
}

/// A datanode with faults.
pub struct FaultyChunks {
    inner: Arc<dyn ChunkService>,
    plan: FaultPlan,
}

impl FaultyChunks {
    /// `inner`, disturbed by `plan`.
    pub fn new(inner: Arc<dyn ChunkService>, plan: FaultPlan) -> Self {
        FaultyChunks { inner, plan }
    }
}

#[async_trait]
impl ChunkService for FaultyChunks {
    async fn write_chunk(&self, request: WriteChunk) -> FsResult<ChunkWritten> {
        self.plan
            .around("write_chunk", self.inner.write_chunk(request))
            .await
    }
    async fn read_chunk(
        &self,
        capability: ChunkCapability,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        // The plan decides once per call: a cut is looked at after the call was made.
        let fault = self.plan.decide("read_chunk");
        let once = FaultPlan::new(move |_| fault);
        let stream = once
            .around("read_chunk", self.inner.read_chunk(capability, offset, length))
            .await?;
        Ok(match fault {
            Fault::CutStream => {
                let cut = FsError::new(ErrorKind::Unavailable, "the stream was cut");
                stream.take(1).chain(futures::stream::iter([Err(cut)])).boxed()
            }
            _ => stream,
        })
    }
    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        self.plan
            .around("stat_chunk", self.inner.stat_chunk(capability))
            .await
    }
    async fn stat_chunks(
        &self,
        capabilities: Vec<ChunkCapability>,
    ) -> FsResult<Vec<FsResult<ChunkDescription>>> {
        self.plan
            .around("stat_chunks", self.inner.stat_chunks(capabilities))
            .await
    }
    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        self.plan
            .around("delete_chunk", self.inner.delete_chunk(capability))
            .await
    }
}

/// A connector whose services have faults, all by one plan.
pub struct FaultyConnector {
    inner: Arc<dyn ChunkConnector>,
    plan: FaultPlan,
}

impl FaultyConnector {
    /// `inner`, disturbed by `plan`.
    pub fn new(inner: Arc<dyn ChunkConnector>, plan: FaultPlan) -> Self {
        FaultyConnector { inner, plan }
    }
}

impl ChunkConnector for FaultyConnector {
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>> {
        let inner = self.inner.chunk_service(address)?;
        Ok(Arc::new(FaultyChunks::new(inner, self.plan.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::TwinCluster;
    use dfs_common::session::OpenSession;

    fn request() -> OpenSession {
        OpenSession {
            client_name: "test".into(),
            resume: None,
            opened: Vec::new(),
            unsynced: None,
            locks: Default::default(),
            leases: false,
        }
    }

    #[tokio::test]
    async fn lost_reply_was_applied_and_lost_request_was_not() {
        let twin = TwinCluster::default();
        let grant = twin.metadata.open_session(request()).await.unwrap();
        let plan = FaultPlan::script(
            "release",
            vec![Fault::LoseRequest, Fault::LoseReply, Fault::TimeOut],
        );
        let faulty = FaultyMetadata::new(twin.metadata.clone(), plan.clone());
        let name = Name::new(&b"f"[..]).unwrap();
        let create = dfs_common::op::Operation::Create {
            parent: Ino::ROOT,
            name,
            mode: 0o644,
            exclusive: true,
            read: true,
            write: true,
        };
        let op = dfs_common::op::NumberedOp {
            number: dfs_common::OpNumber(1),
            caller: Caller::root(),
            op: create,
        };
        let batch = MutationBatch {
            ops: vec![op],
            acknowledged_below: dfs_common::OpNumber(0),
            stop_on_error: true,
            durable: false,
        };
        faulty
            .mutate(grant.identity, batch)
            .await
            .unwrap()
            .results
            .remove(0)
            .unwrap();
        let ino = faulty.lookup(
            grant.identity,
            Caller::root(),
            Ino::ROOT,
            Name::new(&b"f"[..]).unwrap(),
        );
        let ino = ino.await.unwrap().attr.ino;
        let release = async || {
            faulty
                .release(grant.identity, vec![ino])
                .await
                .unwrap_err()
                .kind()
        };
        assert_eq!(release().await, ErrorKind::Unavailable);
        assert_eq!(twin.metadata.open_files(), 1);
        assert_eq!(release().await, ErrorKind::Unavailable);
        assert_eq!(twin.metadata.open_files(), 0);
        assert_eq!(release().await, ErrorKind::TimedOut);
        faulty.release(grant.identity, vec![ino]).await.unwrap();
        assert_eq!((plan.faults(), plan.calls("release")), (3, 4));
    }
}
