//! What the checks work with: a directory of their own, sessions, and one short call per operation.

use bytes::Bytes;
use dfs_common::attr::{Attr, FileKind, SetAttr};
use dfs_common::capability::ChunkCapability;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, ExtentPage, Receipt};
use dfs_common::op::{
    CommitWrite, MutationBatch, NumberedOp, OpReply, OpResult, Operation, RenameMode, XattrMode,
};
use dfs_common::service::{MetadataService, Opened};
use dfs_common::session::{Caller, Identity, OpenSession, SessionGrant};
use dfs_common::{ChunkId, DiskIncarnation, FsResult, Ino, Name, NodeId, OpNumber, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_ref())).unwrap()
}

pub(super) fn user(uid: u32, gid: u32, groups: &[u32]) -> Caller {
    Caller {
        uid,
        gid,
        groups: groups.to_vec(),
    }
}

/// A service, a directory that only one check uses, and a session.
pub(super) struct Kit {
    pub(super) service: Arc<dyn MetadataService>,
    pub(super) session: Session,
    /// Mode 0777, of root.
    pub(super) dir: Ino,
}

impl Kit {
    pub(super) async fn new(service: Arc<dyn MetadataService>, check: &str) -> Kit {
        let session = Session::open(&service).await;
        let unique = format!("{check} {:016x}", rand::random::<u64>());
        let dir = session
            .mkdir(&Caller::root(), Ino::ROOT, &unique, 0o777)
            .await
            .unwrap()
            .ino;
        let set = SetAttr {
            mode: Some(0o777),
            ..SetAttr::default()
        };
        session.setattr(&Caller::root(), dir, set).await.unwrap();
        Kit {
            service,
            session,
            dir,
        }
    }

    pub(super) async fn another_session(&self) -> Session {
        Session::open(&self.service).await
    }

    /// A file of root in the check's directory, open for reading and writing.
    pub(super) async fn file(&self, text: &str) -> Ino {
        self.session
            .create(&Caller::root(), self.dir, text, 0o644)
            .await
            .unwrap()
            .ino
    }
}

pub(super) struct Session {
    pub(super) service: Arc<dyn MetadataService>,
    pub(super) grant: SessionGrant,
    next: AtomicU64,
}

pub(super) fn fresh_session(client_name: &str) -> OpenSession {
    OpenSession {
        client_name: client_name.into(),
        resume: None,
        opened: Vec::new(),
        unsynced: None,
        locks: Default::default(),
        leases: false,
    }
}

pub(super) fn numbered(number: u64, caller: &Caller, op: Operation) -> NumberedOp {
    NumberedOp {
        number: OpNumber(number),
        caller: caller.clone(),
        op,
    }
}

pub(super) fn batch(ops: Vec<NumberedOp>) -> MutationBatch {
    MutationBatch {
        ops,
        acknowledged_below: OpNumber(0),
        stop_on_error: false,
        durable: false,
    }
}

/// The results of a batch.
pub(super) async fn mutate(
    service: &dyn MetadataService,
    identity: Identity,
    batch: MutationBatch,
) -> FsResult<Vec<OpResult>> {
    service
        .mutate(identity, batch)
        .await
        .map(|mutated| mutated.results)
}

impl Session {
    pub(super) async fn open(service: &Arc<dyn MetadataService>) -> Session {
        let grant = service.open_session(fresh_session("conformance")).await.unwrap();
        Session {
            service: service.clone(),
            grant,
            next: AtomicU64::new(1),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        self.grant.identity
    }

    pub(super) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// One operation under the next number; the replies of those before are acknowledged.
    pub(super) async fn apply(&self, who: &Caller, op: Operation) -> OpResult {
        let number = self.next_number();
        let ops = vec![numbered(number, who, op)];
        let batch = MutationBatch {
            ops,
            acknowledged_below: OpNumber(number),
            stop_on_error: true,
            durable: false,
        };
        let mut results = mutate(&*self.service, self.identity(), batch).await?;
        assert_eq!(results.len(), 1, "one result per operation");
        results.remove(0)
    }

    async fn entry(&self, who: &Caller, op: Operation) -> FsResult<Attr> {
        match self.apply(who, op).await? {
            OpReply::Entry(entry) => Ok(entry.attr),
            OpReply::Created { entry, .. } => Ok(entry.attr),
            OpReply::Attr(attr) => Ok(attr),
            other => panic!("not the reply of such an operation: {other:?}"),
        }
    }

    pub(super) async fn mkdir(&self, who: &Caller, parent: Ino, text: &str, mode: u32) -> FsResult<Attr> {
        self.entry(
            who,
            Operation::Mkdir {
                parent,
                name: name(text),
                mode,
            },
        )
        .await
    }

    pub(super) async fn mknod(
        &self,
        who: &Caller,
        parent: Ino,
        text: &str,
        kind: FileKind,
    ) -> FsResult<Attr> {
        let op = Operation::Mknod {
            parent,
            name: name(text),
            kind,
            mode: 0o644,
            rdev: 0x0103,
        };
        self.entry(who, op).await
    }

    /// A new file, open for reading and writing.
    pub(super) async fn create(&self, who: &Caller, parent: Ino, text: &str, mode: u32) -> FsResult<Attr> {
        let op = Operation::Create {
            parent,
            name: name(text),
            mode,
            exclusive: true,
            read: true,
            write: true,
        };
        self.entry(who, op).await
    }

    pub(super) async fn symlink(
        &self,
        who: &Caller,
        parent: Ino,
        text: &str,
        target: &str,
    ) -> FsResult<Attr> {
        let target = Bytes::copy_from_slice(target.as_bytes());
        self.entry(
            who,
            Operation::Symlink {
                parent,
                name: name(text),
                target,
            },
        )
        .await
    }

    pub(super) async fn link(&self, who: &Caller, ino: Ino, parent: Ino, text: &str) -> FsResult<Attr> {
        self.entry(
            who,
            Operation::Link {
                ino,
                parent,
                name: name(text),
            },
        )
        .await
    }

    pub(super) async fn unlink(&self, who: &Caller, parent: Ino, text: &str) -> OpResult {
        self.apply(
            who,
            Operation::Unlink {
                parent,
                name: name(text),
            },
        )
        .await
    }

    pub(super) async fn rmdir(&self, who: &Caller, parent: Ino, text: &str) -> OpResult {
        self.apply(
            who,
            Operation::Rmdir {
                parent,
                name: name(text),
            },
        )
        .await
    }

    pub(super) async fn rename(
        &self,
        who: &Caller,
        from: (Ino, &str),
        to: (Ino, &str),
        mode: RenameMode,
    ) -> OpResult {
        let op = Operation::Rename {
            parent: from.0,
            name: name(from.1),
            new_parent: to.0,
            new_name: name(to.1),
            mode,
        };
        self.apply(who, op).await
    }

    pub(super) async fn setattr(&self, who: &Caller, ino: Ino, set: SetAttr) -> FsResult<Attr> {
        self.entry(
            who,
            Operation::Setattr {
                ino,
                set,
                by_handle: false,
            },
        )
        .await
    }

    pub(super) async fn chmod(&self, who: &Caller, ino: Ino, mode: u32) -> FsResult<Attr> {
        self.setattr(
            who,
            ino,
            SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            },
        )
        .await
    }

    pub(super) async fn truncate(&self, who: &Caller, ino: Ino, size: u64) -> FsResult<Attr> {
        self.setattr(
            who,
            ino,
            SetAttr {
                size: Some(size),
                ..SetAttr::default()
            },
        )
        .await
    }

    pub(super) async fn setxattr(
        &self,
        who: &Caller,
        ino: Ino,
        text: &str,
        value: &[u8],
        mode: XattrMode,
    ) -> FsResult<Attr> {
        let (name, value) = (
            Bytes::copy_from_slice(text.as_bytes()),
            Bytes::copy_from_slice(value),
        );
        self.entry(
            who,
            Operation::Setxattr {
                ino,
                name,
                value,
                mode,
            },
        )
        .await
    }

    pub(super) async fn lookup(&self, who: &Caller, parent: Ino, text: &str) -> FsResult<Attr> {
        let found = self
            .service
            .lookup(self.identity(), who.clone(), parent, name(text))
            .await;
        found.map(|found| found.attr)
    }

    pub(super) async fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        self.service
            .getattr(self.identity(), ino)
            .await
            .map(|found| found.attr)
    }

    pub(super) async fn open_file(
        &self,
        who: &Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened> {
        self.service
            .open(self.identity(), who.clone(), ino, read, write)
            .await
    }

    pub(super) async fn release(&self, ino: Ino) -> FsResult<()> {
        self.service.release(self.identity(), vec![ino]).await
    }

    pub(super) async fn extents(&self, ino: Ino, offset: u64, length: u64) -> FsResult<ExtentPage> {
        let asked = self
            .service
            .read_extents(self.identity(), ino, offset, length, true);
        asked.await.map(|extents| extents.page)
    }

    pub(super) async fn commit(&self, commit: CommitWrite) -> FsResult<(Attr, u64)> {
        match self
            .apply(&Caller::root(), Operation::CommitWrite(commit))
            .await?
        {
            OpReply::Committed { attr, append_offset } => Ok((attr, append_offset)),
            other => panic!("not the reply of a commit: {other:?}"),
        }
    }

    /// Puts `text` at `offset` as an inline extent.
    pub(super) async fn put(&self, ino: Ino, offset: u64, text: &[u8]) -> FsResult<Attr> {
        let (attr, _) = self.commit(commit_of(ino, vec![inline(offset, text)])).await?;
        Ok(attr)
    }

    pub(super) async fn grant_chunks(&self, count: u32) -> FsResult<Vec<ChunkCapability>> {
        match self
            .apply(&Caller::root(), Operation::GrantChunks { count })
            .await?
        {
            OpReply::Chunks(chunks) => Ok(chunks),
            other => panic!("not the reply of a grant: {other:?}"),
        }
    }

    /// Receipts of every member of a chunk's group, as its datanodes would give them.
    pub(super) async fn receipts(&self, chunk: ChunkId, length: u64) -> Vec<Receipt> {
        let state = self.service.cluster_state(self.identity(), 0).await.unwrap();
        let group = state
            .groups
            .iter()
            .find(|group| group.id == chunk.group())
            .expect("the group is known");
        let disk = |id: &NodeId| {
            let node = state.nodes.iter().find(|node| node.id == *id);
            node.map_or(DiskIncarnation(0), |node| node.disk)
        };
        let receipt = |node: &NodeId| Receipt {
            node: *node,
            disk: disk(node),
            sha256: [7; 32],
            length,
        };
        group.members.iter().map(receipt).collect()
    }

    /// A granted chunk with receipts of all members.
    pub(super) async fn chunk(&self, length: u64) -> CommittedChunk {
        let chunk = self.grant_chunks(1).await.unwrap()[0].chunk;
        CommittedChunk {
            chunk,
            receipts: self.receipts(chunk, length).await,
        }
    }
}

pub(super) fn commit_of(ino: Ino, extents: Vec<Extent>) -> CommitWrite {
    CommitWrite {
        ino,
        extents,
        chunks: Vec::new(),
        append: false,
        mtime: Timestamp {
            secs: 1_700_000_000,
            nanos: 123_456_789,
        },
        clear_setid: false,
    }
}

pub(super) fn inline(offset: u64, text: &[u8]) -> Extent {
    let data = ExtentData::Inline(Bytes::copy_from_slice(text));
    Extent {
        offset,
        length: text.len() as u64,
        data,
    }
}

pub(super) fn of_chunk(offset: u64, length: u64, chunk: ChunkId, chunk_offset: u64) -> Extent {
    Extent {
        offset,
        length,
        data: ExtentData::Chunk { chunk, chunk_offset },
    }
}

/// The bytes that inline extents describe, with `.` for holes, up to the file's size.
pub(super) fn text_of(page: &ExtentPage) -> String {
    let mut text = vec![b'.'; page.size as usize];
    let mut behind = 0;
    for resolved in &page.extents {
        let Extent { offset, length, data } = &resolved.extent;
        assert!(*offset >= behind, "extents are sorted and disjoint: {page:?}");
        behind = offset + length;
        let ExtentData::Inline(bytes) = data else {
            panic!("not inline: {page:?}")
        };
        assert_eq!(bytes.len() as u64, *length);
        text[*offset as usize..behind as usize].copy_from_slice(bytes);
    }
    String::from_utf8(text).unwrap()
}
