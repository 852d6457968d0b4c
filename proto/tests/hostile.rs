//! What a broken or hostile peer may send is refused, with a sentence, before it costs anything.

#![allow(clippy::unwrap_used)] // a test may fail

use bytes::Bytes;
use dfs_common::checksum::frame_crc;
use dfs_common::limits::*;
use dfs_common::piece::Piece;
use dfs_common::{ErrorKind, FsResult};
use dfs_proto::convert::*;
use dfs_proto::v1::numbered_op::Op;
use dfs_proto::{PROTOCOL_VERSION, v1};

#[track_caller]
fn refused<T: std::fmt::Debug>(result: FsResult<T>, about: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(
        error.message().contains(about),
        "\"{error}\" says nothing of \"{about}\""
    );
}

fn attr() -> v1::Attr {
    let time = Some(v1::Timestamp { secs: 1, nanos: 2 });
    v1::Attr {
        ino: 7,
        kind: 1,
        mode: 0o644,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        ..v1::Attr::default()
    }
}

fn capability() -> v1::ChunkCapability {
    v1::ChunkCapability {
        session: 1,
        chunk: vec![0; 16].into(),
        access: 1,
        expires_unix_ms: 9,
        mac: vec![0; 16].into(),
    }
}

fn chunk_extent(offset: u64, length: u64, chunk_offset: u64) -> v1::Extent {
    v1::Extent {
        offset,
        length,
        data: Some(v1::extent::Data::Chunk(v1::ChunkRange {
            chunk: vec![0; 16].into(),
            chunk_offset,
        })),
    }
}

fn receipt() -> v1::Receipt {
    v1::Receipt {
        node: 1,
        disk: 1,
        sha256: vec![0; 32].into(),
        length: 1,
    }
}

fn identity() -> v1::Identity {
    v1::Identity {
        session: 1,
        epoch: 1,
        secret: vec![0; 16].into(),
        trace: 0,
    }
}

#[test]
fn attributes_out_of_range() {
    assert!(attr_from_wire(attr()).is_ok());
    refused(attr_from_wire(v1::Attr { ino: 0, ..attr() }), "inode number 0");
    refused(
        attr_from_wire(v1::Attr { kind: 0, ..attr() }),
        "unknown inode kind",
    );
    refused(
        attr_from_wire(v1::Attr { kind: 8, ..attr() }),
        "unknown inode kind",
    );
    refused(
        attr_from_wire(v1::Attr {
            mode: 0o10000,
            ..attr()
        }),
        "permission bits",
    );
    refused(
        attr_from_wire(v1::Attr {
            size: FILE_BYTES_MAX + 1,
            ..attr()
        }),
        "largest file",
    );
    refused(
        attr_from_wire(v1::Attr {
            mtime: None,
            ..attr()
        }),
        "time stamp",
    );
    let second = v1::Timestamp {
        secs: 0,
        nanos: 1_000_000_000,
    };
    refused(timestamp_from_wire(second), "nanoseconds");
    refused(entry_from_wire(v1::Entry { attr: None }), "attributes");
}

#[test]
fn directory_pages_that_would_confuse_a_reader() {
    let entry = |cursor| v1::DirEntry {
        name: "f".into(),
        ino: 7,
        kind: 1,
        cursor,
        attr: None,
    };
    let page = |entries, end| v1::ReaddirReply {
        entries,
        end,
        parent: 1,
        leased: false,
    };
    assert!(dir_page_from_wire(page(vec![entry(3), entry(4)], false)).is_ok());
    refused(
        dir_page_from_wire(page(vec![], false)),
        "neither entries nor an end",
    );
    refused(
        dir_page_from_wire(page(vec![entry(4), entry(4)], true)),
        "out of order",
    );
    refused(
        dir_page_from_wire(page(vec![entry(2)], true)),
        "impossible cursor",
    );
    let many = (3..).take(READDIR_ENTRIES_MAX as usize + 1).map(entry).collect();
    refused(dir_page_from_wire(page(many, true)), "directory entries");
    let other = v1::DirEntry {
        attr: Some(v1::Attr { ino: 8, ..attr() }),
        ..entry(3)
    };
    refused(dir_entry_from_wire(other), "another inode");
    let evil = v1::DirEntry {
        name: "../etc".into(),
        ..entry(3)
    };
    refused(dir_entry_from_wire(evil), "slash");
}

#[test]
fn extents_that_do_not_fit() {
    assert!(extent_from_wire(chunk_extent(0, CHUNK_BYTES_MAX, 0)).is_ok());
    refused(extent_from_wire(chunk_extent(0, 0, 0)), "empty");
    refused(
        extent_from_wire(chunk_extent(FILE_BYTES_MAX, 1, 0)),
        "largest file",
    );
    refused(extent_from_wire(chunk_extent(u64::MAX, 1, 0)), "largest file");
    refused(
        extent_from_wire(chunk_extent(0, CHUNK_BYTES_MAX, 1)),
        "largest chunk",
    );
    refused(extent_from_wire(chunk_extent(0, 1, u64::MAX)), "largest chunk");
    let no_data = v1::Extent {
        data: None,
        ..chunk_extent(0, 1, 0)
    };
    refused(extent_from_wire(no_data), "extent data");
    let short_id = v1::ChunkRange {
        chunk: vec![0; 15].into(),
        chunk_offset: 0,
    };
    let short = v1::Extent {
        data: Some(v1::extent::Data::Chunk(short_id)),
        ..chunk_extent(0, 1, 0)
    };
    refused(extent_from_wire(short), "chunk id has 16 bytes");
    let inline = v1::Extent {
        data: Some(v1::extent::Data::Inline(vec![0; 9].into())),
        ..chunk_extent(0, 10, 0)
    };
    refused(extent_from_wire(inline), "inline bytes");
}

#[test]
fn map_pages_that_overlap_or_mix_capabilities() {
    let resolved = |extent| v1::ResolvedExtent {
        extent: Some(extent),
        capability: Some(capability()),
    };
    let page = |extents| v1::ExtentPage {
        map_version: 1,
        size: 100,
        extents,
        covered_to: u64::MAX,
        leased: false,
    };
    let touching = vec![resolved(chunk_extent(0, 5, 0)), resolved(chunk_extent(5, 5, 0))];
    assert!(extent_page_from_wire(page(touching)).is_ok());
    let overlapping = vec![resolved(chunk_extent(0, 6, 0)), resolved(chunk_extent(5, 5, 0))];
    refused(extent_page_from_wire(page(overlapping)), "overlap");
    let many = (0..=u64::from(EXTENTS_PAGE_MAX)).map(|at| resolved(chunk_extent(at, 1, 0)));
    refused(
        extent_page_from_wire(page(many.collect())),
        "extents in one message",
    );
    let other = v1::ResolvedExtent {
        extent: Some(chunk_extent(0, 1, 0)),
        capability: Some(v1::ChunkCapability {
            chunk: vec![1; 16].into(),
            ..capability()
        }),
    };
    refused(resolved_extent_from_wire(other), "another chunk");
}

#[test]
fn receipts_descriptions_and_capabilities_of_wrong_shape() {
    assert!(receipt_from_wire(receipt()).is_ok());
    let sha = |bytes: usize| v1::Receipt {
        sha256: vec![0; bytes].into(),
        ..receipt()
    };
    refused(receipt_from_wire(sha(31)), "SHA-256 has 32 bytes");
    for length in [0, CHUNK_BYTES_MAX + 1] {
        refused(
            receipt_from_wire(v1::Receipt { length, ..receipt() }),
            "a chunk has",
        );
        let description = v1::ChunkDescription {
            chunk: vec![0; 16].into(),
            sha256: vec![0; 32].into(),
            length,
            ..v1::ChunkDescription::default()
        };
        refused(chunk_description_from_wire(description), "a chunk has");
    }
    let committed = v1::CommittedChunk {
        chunk: vec![0; 16].into(),
        receipts: vec![receipt(); REPLICATION_MAX as usize + 1],
    };
    refused(committed_chunk_from_wire(committed), "receipts");
    let access = v1::ChunkCapability {
        access: 4,
        ..capability()
    };
    refused(chunk_capability_from_wire(access), "access 4");
    let session = v1::ChunkCapability {
        session: 1 << 48,
        ..capability()
    };
    refused(chunk_capability_from_wire(session), "48 bits");
    let mac = v1::ChunkCapability {
        mac: vec![0; 17].into(),
        ..capability()
    };
    refused(chunk_capability_from_wire(mac), "signature has 16 bytes");
}

#[test]
fn chunk_writes_with_bad_targets() {
    let head = |forward: Vec<String>| v1::WriteChunkHeader {
        description: Some(v1::ChunkDescription {
            chunk: vec![0; 16].into(),
            sha256: vec![0; 32].into(),
            length: 1,
            ..v1::ChunkDescription::default()
        }),
        capability: Some(capability()),
        forward,
        ..v1::WriteChunkHeader::default()
    };
    assert!(write_chunk_head_from_wire(head(vec!["node-1.example:7401".to_string()])).is_ok());
    for length in [1, 31, 33, 1 << 20] {
        let mut hashed = head(Vec::new());
        hashed.description.as_mut().unwrap().sha256 = vec![0; length].into();
        refused(write_chunk_head_from_wire(hashed), "SHA-256 has 32 bytes");
    }
    let mut follows = head(Vec::new());
    follows.end_follows = true;
    refused(write_chunk_head_from_wire(follows.clone()), "not twice");
    follows.description.as_mut().unwrap().sha256 = Bytes::new();
    assert!(write_chunk_head_from_wire(follows.clone()).is_ok());
    follows.forward = vec!["node-1.example:7401".to_string()];
    refused(write_chunk_head_from_wire(follows), "not forwarded again");
    let end = |sha256: usize, voucher: usize| v1::WriteChunkEnd {
        sha256: vec![0; sha256].into(),
        voucher: vec![0; voucher].into(),
    };
    assert!(vouched_hash_from_wire(end(32, 16)).is_ok());
    refused(vouched_hash_from_wire(end(0, 16)), "SHA-256 has 32 bytes");
    refused(vouched_hash_from_wire(end(1 << 20, 16)), "SHA-256 has 32 bytes");
    refused(vouched_hash_from_wire(end(32, 0)), "voucher has 16 bytes");
    refused(vouched_hash_from_wire(end(32, 17)), "voucher has 16 bytes");
    let many = vec!["a:1".to_string(); REPLICATION_MAX as usize + 1];
    refused(write_chunk_head_from_wire(head(many)), "further replicas");
    for address in [
        "",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:x",
        "a b:1",
        "h/p@x:1",
        "::1:5",
        "[::1:5",
    ] {
        refused(check_address(address), "host:port");
        refused(
            write_chunk_head_from_wire(head(vec![address.to_string()])),
            "host:port",
        );
    }
    refused(check_address(&format!("{}:1", "h".repeat(300))), "host:port");
    assert!(check_address("[::1]:5").is_ok());
}

#[test]
fn pieces_of_wrong_size_or_damaged() {
    let bare = |content: Vec<u8>, frames: usize| v1::Piece {
        crc32c: frame_crc(&content),
        content: content.into(),
        frame_crc32c: vec![0; frames],
    };
    for frames in [0, 1, 4, 5, 1 << 18] {
        for size in [0, WIRE_FRAME_BYTES + 1, 1 << 20] {
            refused(
                piece_from_wire(bare(vec![0; size], frames)),
                "a piece of a chunk has",
            );
        }
    }
    for frames in [2, 4, 1 << 18] {
        refused(piece_from_wire(bare(vec![0; 100], frames)), "one checksum per");
    }
    let whole = piece_to_wire(&Piece::new("content".into()));
    let corrupt = |piece: v1::Piece| {
        assert_eq!(piece_from_wire(piece).unwrap_err().kind(), ErrorKind::Corrupt);
    };
    let mut damaged = whole.clone();
    damaged.frame_crc32c[0] ^= 1;
    corrupt(damaged);
    // Of an earlier release: one checksum for all.
    let mut earlier = whole.clone();
    earlier.frame_crc32c.clear();
    assert_eq!(piece_from_wire(earlier.clone()).unwrap().content(), "content");
    earlier.crc32c ^= 1;
    corrupt(earlier);
}

#[test]
fn callers_and_identities_of_wrong_shape() {
    let caller = v1::Caller {
        groups: vec![1; GROUPS_MAX + 1],
        ..v1::Caller::default()
    };
    refused(caller_from_wire(caller), "supplementary groups");
    let session = v1::Identity {
        session: 1 << 48,
        ..identity()
    };
    refused(identity_from_wire(session), "48 bits");
    for bytes in [0, 15, 17] {
        let secret = v1::Identity {
            secret: vec![0; bytes].into(),
            ..identity()
        };
        refused(identity_from_wire(secret), "session secret has 16 bytes");
    }
}

#[test]
fn locks_that_no_file_has() {
    let lock = v1::Lock {
        style: 2,
        owner: u64::MAX,
        kind: 1,
        first: 0,
        last: u64::MAX,
        pid: u32::MAX,
    };
    assert!(lock_from_wire(lock).is_ok());
    let change = |change: fn(&mut v1::Lock)| {
        let mut changed = lock;
        change(&mut changed);
        lock_from_wire(changed)
    };
    assert!(change(|lock| lock.first = u64::MAX).is_ok());
    refused(
        change(|lock| (lock.first, lock.last) = (9, 8)),
        "before its first byte",
    );
    refused(change(|lock| lock.style = 0), "style");
    refused(change(|lock| lock.style = 4), "style");
    refused(change(|lock| lock.kind = 0), "kind");
    refused(change(|lock| lock.kind = 3), "kind");
    refused(change(|lock| (lock.style, lock.first) = (1, 1)), "whole file");
    refused(unlock_from_wire(None), "lock");
    assert!(unlock_from_wire(Some(v1::Lock { kind: 0, ..lock })).is_ok());
    let ticket = v1::LockTicket {
        answered: vec![0; SESSION_LOCK_REQUESTS_MAX + 1],
        ..v1::LockTicket::default()
    };
    refused(lock_ticket_from_wire(ticket), "answered lock requests");
    for outcome in [0, 7, u32::MAX] {
        refused(lock_outcome_from_wire(v1::LockReply { outcome }), "outcome");
    }
    let held = |session, lock| held_lock_from_wire(v1::HeldLock { session, lock });
    assert!(held(1, Some(lock)).is_ok());
    refused(held(1 << 48, Some(lock)), "48 bits");
    refused(held(1, None), "lock");

    let listed = v1::ListedLock {
        session: 1,
        client_name: "c".to_string(),
        lock: Some(lock),
        age_ms: u64::MAX,
    };
    let inode = v1::LockedInode {
        ino: 1,
        path: Some("/f".into()),
        held: vec![listed.clone()],
        waiting: vec![listed.clone()],
        more: u64::MAX,
    };
    let page = |change: &dyn Fn(&mut v1::LockedInode)| {
        let mut changed = inode.clone();
        change(&mut changed);
        locks_from_wire(v1::ListLocksReply {
            inodes: vec![changed],
        })
    };
    assert!(page(&|_| {}).is_ok());
    refused(
        page(&|inode| inode.held = vec![listed.clone(); LISTED_LOCKS_MAX]),
        "listed locks",
    );
    refused(
        page(&|inode| inode.path = Some(vec![b'/'; PATH_BYTES_MAX + 1].into())),
        "path",
    );
    refused(
        page(&|inode| inode.held[0].client_name = "c".repeat(CLIENT_NAME_BYTES_MAX + 1)),
        "client name",
    );
    refused(page(&|inode| inode.waiting[0].lock = None), "lock");
    let inodes = vec![inode.clone(); LOCKED_INODES_PAGE_MAX + 1];
    refused(locks_from_wire(v1::ListLocksReply { inodes }), "locked inodes");
}

#[test]
fn declarations_of_locks_without_bounds_or_sense() {
    let declaration = v1::LockDeclaration {
        ino: 1,
        lock: Some(v1::Lock {
            style: 2,
            kind: 2,
            ..v1::Lock::default()
        }),
    };
    let request = |held: usize, more| v1::OpenSessionRequest {
        protocol_version: PROTOCOL_VERSION,
        resume: Some(identity()),
        locks: Some(v1::LockDeclarations {
            settled: 0,
            held: vec![declaration; held],
            more,
        }),
        ..v1::OpenSessionRequest::default()
    };
    assert!(open_session_from_wire(request(LOCK_DECLARATIONS_MAX, true)).is_ok());
    refused(
        open_session_from_wire(request(LOCK_DECLARATIONS_MAX + 1, false)),
        "declared locks",
    );
    for (held, more) in [(1, false), (0, true)] {
        let fresh = v1::OpenSessionRequest {
            resume: None,
            ..request(held, more)
        };
        refused(open_session_from_wire(fresh), "new session");
    }
    let early = v1::OpenSessionRequest {
        opened: vec![v1::OpenDeclaration::default()],
        ..request(1, true)
    };
    refused(open_session_from_wire(early), "last part");
    let mut half = request(1, false);
    if let Some(locks) = &mut half.locks {
        locks.held[0].lock = None;
    }
    refused(open_session_from_wire(half), "lock");
    let largest = v1::LockDeclaration {
        ino: u64::MAX,
        lock: Some(v1::Lock {
            style: 2,
            owner: u64::MAX,
            kind: 2,
            first: u64::MAX,
            last: u64::MAX,
            pid: u32::MAX,
        }),
    };
    let mut full = request(0, true);
    if let Some(locks) = &mut full.locks {
        locks.held = vec![largest; LOCK_DECLARATIONS_MAX];
    }
    let bytes = prost::Message::encoded_len(&full);
    assert!(bytes < MESSAGE_BYTES_MAX / 2, "{bytes} bytes");
}

#[test]
fn sessions_of_another_protocol_or_without_bounds() {
    let request = |version| v1::OpenSessionRequest {
        protocol_version: version,
        client_name: "c".to_string(),
        ..v1::OpenSessionRequest::default()
    };
    assert!(open_session_from_wire(request(PROTOCOL_VERSION)).is_ok());
    for version in [0, PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1] {
        let error = open_session_from_wire(request(version)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownVersion);
        assert!(error.message().contains(&format!("version {version}")), "{error}");
    }
    let name = v1::OpenSessionRequest {
        client_name: "c".repeat(CLIENT_NAME_BYTES_MAX + 1),
        ..request(PROTOCOL_VERSION)
    };
    refused(open_session_from_wire(name), "client name");
    let opened = v1::OpenSessionRequest {
        opened: vec![v1::OpenDeclaration::default(); SESSION_OPEN_INODES_MAX + 1],
        ..request(PROTOCOL_VERSION)
    };
    refused(open_session_from_wire(opened), "open inodes");

    let grant = v1::OpenSessionReply {
        identity: Some(identity()),
        cluster: uuid::Uuid::nil().to_string(),
        lease_ms: 1,
        chunk_bytes: 1,
        replication: 3,
        replication_floor: 2,
        ..Default::default()
    };
    assert!(session_grant_from_wire(grant.clone()).is_ok());
    let change = |change: fn(&mut v1::OpenSessionReply)| {
        let mut changed = grant.clone();
        change(&mut changed);
        session_grant_from_wire(changed)
    };
    refused(change(|grant| grant.identity = None), "identity");
    refused(change(|grant| grant.cluster = "mine".to_string()), "UUID");
    refused(change(|grant| grant.chunk_bytes = 0), "chunk size");
    refused(
        change(|grant| grant.chunk_bytes = CHUNK_BYTES_MAX + 1),
        "chunk size",
    );
    refused(change(|grant| grant.replication_floor = 0), "replication");
    refused(change(|grant| grant.replication_floor = 4), "replication");
    refused(
        change(|grant| grant.replication = REPLICATION_MAX + 1),
        "replication",
    );
}

fn op(number: u64, op: Op) -> v1::NumberedOp {
    v1::NumberedOp {
        number,
        caller: Some(v1::Caller::default()),
        op: Some(op),
    }
}

fn unlink(number: u64) -> v1::NumberedOp {
    let name = "f".into();
    op(number, Op::Unlink(v1::Unlink { parent: 1, name }))
}

fn batch(ops: Vec<v1::NumberedOp>) -> v1::MutateRequest {
    v1::MutateRequest {
        ops,
        ..v1::MutateRequest::default()
    }
}

#[test]
fn batches_without_order_or_bounds() {
    assert!(mutation_batch_from_wire(batch(vec![unlink(1), unlink(3)])).is_ok());
    refused(mutation_batch_from_wire(batch(vec![])), "at least one");
    refused(
        mutation_batch_from_wire(batch(vec![unlink(1), unlink(1)])),
        "do not increase",
    );
    let many = (0..=BATCH_OPS_MAX as u64).map(unlink).collect();
    refused(mutation_batch_from_wire(batch(many)), "operations in one message");
    let anonymous = v1::NumberedOp {
        caller: None,
        ..unlink(5)
    };
    refused(
        mutation_batch_from_wire(batch(vec![anonymous])),
        "operation 5: a message lacks its caller",
    );
    let newer = v1::NumberedOp {
        op: None,
        ..unlink(5)
    };
    refused(mutation_batch_from_wire(batch(vec![newer])), "unknown here");
    let reply = |results, leased| v1::MutateReply {
        results,
        leased,
        access: Vec::new(),
        point: None,
    };
    let unknown = vec![v1::OpResult { result: None }];
    refused(mutated_from_wire(reply(unknown, vec![])), "unknown here");
    let leased = vec![v1::Attr::default(); 4 * BATCH_OPS_MAX + 1];
    refused(mutated_from_wire(reply(vec![], leased)), "leases");
    let files = v1::MutateReply {
        access: vec![v1::Access::default(); BATCH_OPS_MAX + 1],
        ..reply(vec![], vec![])
    };
    refused(mutated_from_wire(files), "files");
}

#[test]
fn recalls_without_order_or_bounds() {
    let page = |sequences: Vec<u64>| v1::RecallsReply {
        stream: 1,
        recalls: sequences
            .into_iter()
            .map(|sequence| v1::Recall {
                sequence,
                inos: vec![1],
                ..v1::Recall::default()
            })
            .collect(),
    };
    assert!(recall_page_from_wire(page(vec![1, 2, 5])).is_ok());
    refused(recall_page_from_wire(page(vec![1, 1])), "out of order");
    let many = (0..=RECALLS_PENDING_MAX as u64).collect();
    refused(recall_page_from_wire(page(many)), "recalls in one message");
    let request = v1::RecallsRequest {
        beside: vec![7; RECALLS_PENDING_MAX + 1],
        ..v1::RecallsRequest::default()
    };
    refused(obeyed_from_wire(&request), "recalls in one message");
}

#[test]
fn operations_above_their_limits() {
    let name: Bytes = "n".into();
    let long: Bytes = vec![b'n'; NAME_BYTES_MAX + 1].into();
    let error = operation_from_wire(Op::Unlink(v1::Unlink {
        parent: 1,
        name: long.clone(),
    }));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NameTooLong);
    let refused_op = |op, about| refused(operation_from_wire(op), about);
    let rename = |mode| {
        Op::Rename(v1::Rename {
            parent: 1,
            name: name.clone(),
            new_parent: 1,
            new_name: "m".into(),
            mode,
        })
    };
    assert!(operation_from_wire(rename(3)).is_ok());
    refused_op(rename(0), "mode of rename");
    refused_op(rename(4), "mode of rename");
    let mknod = Op::Mknod(v1::Mknod {
        parent: 1,
        name: name.clone(),
        kind: 9,
        ..v1::Mknod::default()
    });
    refused_op(mknod, "inode kind");
    let symlink = Op::Symlink(v1::Symlink {
        parent: 1,
        name: name.clone(),
        target: vec![b't'; SYMLINK_BYTES_MAX + 1].into(),
    });
    refused_op(symlink, "target");
    let xattr = |name: Bytes, bytes: usize, mode| {
        Op::Setxattr(v1::Setxattr {
            ino: 1,
            name,
            value: vec![0; bytes].into(),
            mode,
        })
    };
    assert!(operation_from_wire(xattr(name.clone(), XATTR_VALUE_BYTES_MAX, 1)).is_ok());
    refused_op(xattr(name.clone(), XATTR_VALUE_BYTES_MAX + 1, 1), "value");
    refused_op(xattr(long, 1, 1), "extended attribute's name");
    refused_op(xattr(Bytes::new(), 1, 1), "extended attribute's name");
    refused_op(xattr(name, 1, 4), "mode of setxattr");
    for count in [0, GRANT_CHUNKS_MAX + 1] {
        refused_op(Op::GrantChunks(v1::GrantChunks { count }), "chunks at once");
    }
    let size = v1::Setattr {
        ino: 1,
        size: Some(FILE_BYTES_MAX + 1),
        ..v1::Setattr::default()
    };
    refused_op(Op::Setattr(size), "largest file");
    let time = v1::Setattr {
        ino: 1,
        atime: Some(v1::SetTime { time: None }),
        ..v1::Setattr::default()
    };
    refused_op(Op::Setattr(time), "time to set");
    let commit = |extents: usize, chunks: usize| {
        Op::CommitWrite(v1::CommitWrite {
            ino: 1,
            extents: (0..extents as u64).map(|at| chunk_extent(at, 1, 0)).collect(),
            chunks: vec![
                v1::CommittedChunk {
                    chunk: vec![0; 16].into(),
                    receipts: vec![receipt()],
                };
                chunks
            ],
            mtime: Some(v1::Timestamp { secs: 0, nanos: 0 }),
            ..v1::CommitWrite::default()
        })
    };
    assert!(operation_from_wire(commit(COMMIT_EXTENTS_MAX, 1)).is_ok());
    refused_op(commit(COMMIT_EXTENTS_MAX + 1, 0), "extents of a commit");
    refused_op(commit(1, COMMIT_EXTENTS_MAX + 1), "chunks of a commit");
}

#[test]
fn cluster_states_without_bounds() {
    let node = || v1::NodeInfo {
        id: 1,
        address: "a:1".to_string(),
        health: 1,
        ..v1::NodeInfo::default()
    };
    assert!(node_info_from_wire(node()).is_ok());
    refused(
        node_info_from_wire(v1::NodeInfo { id: 0, ..node() }),
        "node number 0",
    );
    refused(
        node_info_from_wire(v1::NodeInfo { health: 4, ..node() }),
        "health",
    );
    let address = String::new();
    refused(
        node_info_from_wire(v1::NodeInfo { address, ..node() }),
        "host:port",
    );
    let group = |members: Vec<u32>| v1::PlacementGroup {
        id: 1,
        version: 1,
        members,
    };
    refused(placement_group_from_wire(group(vec![1, 2, 1])), "twice");
    refused(placement_group_from_wire(group((1..=9).collect())), "members");
    let update = v1::ClusterUpdate {
        nodes: vec![node(); NODES_MAX + 1],
        ..v1::ClusterUpdate::default()
    };
    refused(cluster_update_from_wire(update), "nodes");
    let update = v1::ClusterUpdate {
        groups: vec![group(vec![]); PLACEMENT_GROUPS_MAX + 1],
        ..v1::ClusterUpdate::default()
    };
    refused(cluster_update_from_wire(update), "placement groups");
}

#[test]
fn grants_above_their_limit() {
    let chunks = v1::Chunks {
        capabilities: vec![capability(); GRANT_CHUNKS_MAX as usize + 1],
    };
    let result = v1::OpResult {
        result: Some(v1::op_result::Result::Chunks(chunks)),
    };
    refused(op_result_from_wire(result), "granted chunks");
}
