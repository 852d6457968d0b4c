//! Random values of the vocabulary, within its bounds: what the round trips are tried with.

use bytes::Bytes;
use dfs_common::capability::{ChunkAccess, ChunkCapability};
use dfs_common::chunk::ChunkDescription;
use dfs_common::cluster::{ClusterUpdate, NodeHealth, NodeInfo, PlacementGroup, StatFs};
use dfs_common::durability::{CommitId, CommitPoint};
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, ExtentPage, Receipt, ResolvedExtent};
use dfs_common::lease::{Access, Recall, RecallPage};
use dfs_common::limits::{CHUNK_BYTES_MAX, FILE_BYTES_MAX};
use dfs_common::lock::{
    HeldLock, LockDeclaration, LockDeclarations, LockKind, LockOwner, LockRange, LockSpec, LockStyle,
    LockTicket,
};
use dfs_common::op::{
    CommitWrite, Entry, MutationBatch, NumberedOp, OpReply, OpResult, Operation, RenameMode, XattrMode,
};
use dfs_common::service::{ChunkWritten, DirEntry, DirPage, Extents, Found, Mutated, Opened};
use dfs_common::session::{Caller, Identity, OpenDeclaration, OpenSession, SessionGrant, SessionSecret};
use dfs_common::{Allowance, Quota, QuotaEntry, TreeUsage};
use dfs_common::{
    Attr, ChunkId, ClusterId, DiskIncarnation, ErrorKind, FileKind, FsError, Ino, Name, NodeId, OpNumber,
    PgId, SessionEpoch, SessionId, SetAttr, SetTime, Timestamp,
};
use proptest::array::{uniform16, uniform32};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;

pub fn ino() -> impl Strategy<Value = Ino> {
    (1..=u64::MAX).prop_map(Ino)
}

pub fn name() -> impl Strategy<Value = Name> {
    let byte = any::<u8>().prop_filter("neither NUL nor slash", |b| *b != 0 && *b != b'/');
    vec(byte, 1..=255)
        .prop_filter("neither . nor ..", |name| name != b"." && name != b"..")
        .prop_map(|bytes| Name::new(bytes).unwrap())
}

pub fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=most).prop_map(Bytes::from)
}

pub fn xattr_name() -> impl Strategy<Value = Bytes> {
    vec(1..=u8::MAX, 1..=255).prop_map(Bytes::from)
}

pub fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..=999_999_999_u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

pub fn file_kind() -> impl Strategy<Value = FileKind> {
    (1..=7_u32).prop_map(|code| FileKind::from_code(code).unwrap())
}

pub fn attr() -> impl Strategy<Value = Attr> {
    let numbers = (
        ino(),
        any::<u64>(),
        file_kind(),
        0..=0o7777_u32,
        any::<[u32; 4]>(),
    );
    let sizes = (0..=FILE_BYTES_MAX, any::<u64>(), any::<u64>());
    (
        numbers,
        sizes,
        [timestamp(), timestamp(), timestamp(), timestamp()],
    )
        .prop_map(
            |(
                (ino, generation, kind, mode, [nlink, uid, gid, rdev]),
                (size, allocated_bytes, map_version),
                times,
            )| Attr {
                ino,
                generation,
                kind,
                mode,
                nlink,
                uid,
                gid,
                rdev,
                size,
                allocated_bytes,
                atime: times[0],
                mtime: times[1],
                ctime: times[2],
                btime: times[3],
                map_version,
            },
        )
}

pub fn entry() -> impl Strategy<Value = Entry> {
    attr().prop_map(|attr| Entry { attr })
}

pub fn session_id() -> impl Strategy<Value = SessionId> {
    (0..=SessionId::MAX).prop_map(SessionId)
}

pub fn chunk_id() -> impl Strategy<Value = ChunkId> {
    any::<u128>().prop_map(ChunkId)
}

pub fn capability() -> impl Strategy<Value = ChunkCapability> {
    let access = (1..=3_u32).prop_map(|code| ChunkAccess::from_code(code).unwrap());
    (
        session_id(),
        chunk_id(),
        access,
        any::<u64>(),
        uniform16(any::<u8>()),
    )
        .prop_map(|(session, chunk, access, expires_unix_ms, mac)| ChunkCapability {
            session,
            chunk,
            access,
            expires_unix_ms,
            mac,
        })
}

/// An extent that starts at `offset` or little behind it, and ends before the largest file.
pub fn extent_from(offset: u64) -> impl Strategy<Value = Extent> {
    let chunk = (chunk_id(), 0..CHUNK_BYTES_MAX).prop_flat_map(|(chunk, chunk_offset)| {
        (1..=CHUNK_BYTES_MAX - chunk_offset).prop_map(move |length| {
            let data = ExtentData::Chunk { chunk, chunk_offset };
            (length, data)
        })
    });
    let inline = vec(any::<u8>(), 1..200)
        .prop_map(|bytes| (bytes.len() as u64, ExtentData::Inline(Bytes::from(bytes))));
    (0..1000_u64, prop_oneof![chunk, inline]).prop_map(move |(gap, (length, data))| {
        let offset = (offset + gap).min(FILE_BYTES_MAX - length);
        Extent { offset, length, data }
    })
}

/// Sorted, disjoint extents.
pub fn extents(most: usize) -> impl Strategy<Value = Vec<Extent>> {
    vec(extent_from(0), 0..=most).prop_map(|mut extents| {
        let mut end = 0;
        for extent in &mut extents {
            extent.offset += end;
            end = extent.end();
        }
        extents
    })
}

pub fn extent_page() -> impl Strategy<Value = ExtentPage> {
    (
        any::<u64>(),
        0..=FILE_BYTES_MAX,
        extents(8),
        vec(option::of(capability()), 8),
        any::<u64>(),
    )
        .prop_map(|(map_version, size, extents, capabilities, covered_to)| {
            let resolve = |(extent, capability): (Extent, Option<ChunkCapability>)| {
                let capability = match &extent.data {
                    ExtentData::Chunk { chunk, .. } => {
                        let chunk = *chunk;
                        capability.map(|capability| ChunkCapability { chunk, ..capability })
                    }
                    ExtentData::Inline(_) => None,
                };
                ResolvedExtent { extent, capability }
            };
            ExtentPage {
                map_version,
                size,
                extents: extents.into_iter().zip(capabilities).map(resolve).collect(),
                covered_to,
            }
        })
}

pub fn opened() -> impl Strategy<Value = Opened> {
    (attr(), extent_page(), access()).prop_map(|(attr, extents, access)| Opened {
        attr,
        extents,
        access,
    })
}

pub fn extents_asked_for() -> impl Strategy<Value = Extents> {
    (extent_page(), any::<bool>()).prop_map(|(page, leased)| Extents { page, leased })
}

pub fn access() -> impl Strategy<Value = Access> {
    (ino(), any::<[bool; 3]>()).prop_map(|(ino, [content, buffer, pages])| Access {
        ino,
        content,
        buffer,
        pages,
    })
}

pub fn receipt() -> impl Strategy<Value = Receipt> {
    (
        any::<u32>(),
        any::<u64>(),
        uniform32(any::<u8>()),
        1..=CHUNK_BYTES_MAX,
    )
        .prop_map(|(node, disk, sha256, length)| Receipt {
            node: NodeId(node),
            disk: DiskIncarnation(disk),
            sha256,
            length,
        })
}

pub fn committed_chunk() -> impl Strategy<Value = CommittedChunk> {
    (chunk_id(), vec(receipt(), 0..=8)).prop_map(|(chunk, receipts)| CommittedChunk { chunk, receipts })
}

pub fn description() -> impl Strategy<Value = ChunkDescription> {
    let place = (chunk_id(), any::<u64>(), 0..=FILE_BYTES_MAX);
    (place, 1..=CHUNK_BYTES_MAX, any::<u64>(), uniform32(any::<u8>())).prop_map(
        |((chunk, ino, file_offset), length, epoch, sha256)| ChunkDescription {
            chunk,
            ino: Ino(ino),
            file_offset,
            length,
            epoch: SessionEpoch(epoch),
            sha256,
        },
    )
}

pub fn address() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-z0-9][a-z0-9-]{0,40}(\\.[a-z0-9-]{1,20}){0,3}",
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
    ];
    (host, 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}"))
}

pub fn error() -> impl Strategy<Value = FsError> {
    let kind = (0..ErrorKind::ALL.len()).prop_map(|at| ErrorKind::ALL[at]);
    (kind, "\\PC{0,80}").prop_map(|(kind, message)| FsError::new(kind, message))
}

pub fn chunk_written() -> impl Strategy<Value = ChunkWritten> {
    (vec(receipt(), 0..=8), vec((address(), error()), 0..=8))
        .prop_map(|(receipts, failures)| ChunkWritten { receipts, failures })
}

pub fn node_info() -> impl Strategy<Value = NodeInfo> {
    let health = prop_oneof![
        Just(NodeHealth::Up),
        Just(NodeHealth::Suspect),
        Just(NodeHealth::Down)
    ];
    (1..=u32::MAX, address(), health, any::<[u64; 5]>(), any::<bool>()).prop_map(
        |(id, address, health, [disk, capacity_bytes, used_bytes, available_bytes, chunks], writable)| {
            NodeInfo {
                id: NodeId(id),
                address,
                health,
                disk: DiskIncarnation(disk),
                capacity_bytes,
                used_bytes,
                available_bytes,
                chunks,
                writable,
            }
        },
    )
}

pub fn placement_group() -> impl Strategy<Value = PlacementGroup> {
    let members = proptest::collection::hash_set(any::<u32>(), 0..=8);
    (any::<u32>(), any::<u64>(), members).prop_map(|(id, version, members)| PlacementGroup {
        id: PgId(id),
        version,
        members: members.into_iter().map(NodeId).collect(),
    })
}

pub fn cluster_update() -> impl Strategy<Value = ClusterUpdate> {
    let parts = (
        vec(node_info(), 0..5),
        vec(placement_group(), 0..5),
        vec(any::<u32>(), 0..5),
    );
    (any::<u64>(), any::<bool>(), parts).prop_map(|(version, full, (nodes, groups, removed))| ClusterUpdate {
        version,
        full,
        nodes,
        groups,
        removed_nodes: removed.into_iter().map(NodeId).collect(),
    })
}

pub fn identity() -> impl Strategy<Value = Identity> {
    (session_id(), any::<u64>(), uniform16(any::<u8>()), any::<u64>()).prop_map(
        |(session, epoch, secret, trace)| Identity {
            session,
            epoch: SessionEpoch(epoch),
            secret: SessionSecret(secret),
            trace,
        },
    )
}

pub fn caller() -> impl Strategy<Value = Caller> {
    (any::<u32>(), any::<u32>(), vec(any::<u32>(), 0..40)).prop_map(|(uid, gid, groups)| Caller {
        uid,
        gid,
        groups,
    })
}

pub fn open_session() -> impl Strategy<Value = OpenSession> {
    let flags = any::<[bool; 4]>();
    let open = (any::<u64>(), flags).prop_map(|(ino, [read, write, pages, buffer])| OpenDeclaration {
        ino: Ino(ino),
        read,
        write,
        pages,
        buffer,
    });
    (
        "[ -~]{0,255}",
        option::of(identity()),
        vec(open, 0..20),
        option::of(commit_id()),
        lock_declarations(),
    )
        .prop_map(|(client_name, resume, opened, unsynced, locks)| OpenSession {
            client_name,
            opened: if locks.more { Vec::new() } else { opened },
            unsynced,
            locks: if resume.is_some() {
                locks
            } else {
                LockDeclarations::default()
            },
            resume,
            leases: false,
        })
}

pub fn lock_spec() -> impl Strategy<Value = LockSpec> {
    let styles = [LockStyle::Flock, LockStyle::Process, LockStyle::OpenFile];
    let kinds = [LockKind::Shared, LockKind::Exclusive];
    (select(&styles), any::<[u64; 3]>(), select(&kinds), any::<u32>()).prop_map(
        |(style, [number, one, two], kind, pid)| LockSpec {
            owner: LockOwner { style, number },
            kind,
            range: match style {
                LockStyle::Flock => LockRange::WHOLE,
                _ => LockRange::new(one.min(two), one.max(two)).unwrap(),
            },
            pid,
        },
    )
}

fn select<T: Copy + std::fmt::Debug + 'static>(from: &[T]) -> impl Strategy<Value = T> + use<T> {
    proptest::sample::select(from.to_vec())
}

pub fn lock_ticket() -> impl Strategy<Value = LockTicket> {
    (any::<u64>(), any::<u64>(), vec(any::<u64>(), 0..20)).prop_map(|(number, settled, answered)| {
        LockTicket {
            number,
            settled,
            answered,
        }
    })
}

pub fn held_lock() -> impl Strategy<Value = HeldLock> {
    (0..=SessionId::MAX, lock_spec()).prop_map(|(session, lock)| HeldLock {
        session: SessionId(session),
        lock,
    })
}

fn lock_declaration() -> impl Strategy<Value = LockDeclaration> {
    (any::<u64>(), lock_spec()).prop_map(|(ino, lock)| LockDeclaration { ino: Ino(ino), lock })
}

fn lock_declarations() -> impl Strategy<Value = LockDeclarations> {
    (any::<u64>(), vec(lock_declaration(), 0..20), any::<bool>())
        .prop_map(|(settled, held, more)| LockDeclarations { settled, held, more })
}

fn commit_id() -> impl Strategy<Value = CommitId> {
    any::<(u64, u64)>().prop_map(|(epoch, number)| CommitId { epoch, number })
}

pub fn session_grant() -> impl Strategy<Value = SessionGrant> {
    let replicas = (1..=8_u32).prop_flat_map(|factor| (Just(factor), 1..=factor));
    (
        identity(),
        any::<u128>(),
        any::<u32>(),
        1..=CHUNK_BYTES_MAX,
        replicas,
        any::<[u64; 3]>(),
        vec(lock_declaration(), 0..20),
    )
        .prop_map(
            |(
                identity,
                cluster,
                lease_ms,
                chunk_bytes,
                (replication, replication_floor),
                [a, b, c],
                lost_locks,
            )| {
                SessionGrant {
                    identity,
                    cluster: ClusterId(uuid::Uuid::from_u128(cluster)),
                    lease: Duration::from_millis(u64::from(lease_ms)),
                    chunk_bytes,
                    replication,
                    replication_floor,
                    coordinator_epoch: a,
                    rollback_epoch: b,
                    kept_commits: c,
                    lost_locks,
                }
            },
        )
}

pub fn statfs() -> impl Strategy<Value = StatFs> {
    any::<[u64; 4]>().prop_map(|[capacity_bytes, available_bytes, used_bytes, inodes]| StatFs {
        capacity_bytes,
        available_bytes,
        used_bytes,
        inodes,
    })
}

pub fn tree_usage() -> impl Strategy<Value = TreeUsage> {
    let allowed = || option::of(any::<(u64, u64)>().prop_map(|(limit, used)| Allowance { limit, used }));
    (any::<(u64, u64, u64)>(), allowed(), allowed(), any::<[bool; 2]>()).prop_map(
        |((bytes, files, directories), bytes_allowed, inodes_allowed, [quotas, leased])| TreeUsage {
            bytes,
            files,
            directories,
            bytes_allowed,
            inodes_allowed,
            quotas,
            leased,
        },
    )
}

pub fn quota_entry() -> impl Strategy<Value = QuotaEntry> {
    let quota = any::<[Option<u64>; 2]>().prop_map(|[bytes, inodes]| Quota { bytes, inodes });
    let path = option::of(vec(any::<u8>(), 0..50).prop_map(bytes::Bytes::from));
    (ino(), path, quota, any::<(u64, u64)>()).prop_map(|(ino, path, quota, (bytes, inodes))| QuotaEntry {
        ino,
        path,
        quota,
        bytes,
        inodes,
    })
}

pub fn dir_entry() -> impl Strategy<Value = DirEntry> {
    (name(), file_kind(), 3..=u64::MAX, attr(), any::<bool>()).prop_map(|(name, kind, cursor, attr, with)| {
        DirEntry {
            name,
            ino: attr.ino,
            kind,
            cursor,
            attr: with.then_some(attr),
        }
    })
}

pub fn dir_page() -> impl Strategy<Value = DirPage> {
    (vec(dir_entry(), 0..10), any::<bool>(), ino(), any::<bool>()).prop_map(
        |(mut entries, end, parent, leased)| {
            entries.sort_by_key(|entry| entry.cursor);
            entries.dedup_by_key(|entry| entry.cursor);
            let end = end || entries.is_empty();
            DirPage {
                entries,
                end,
                parent,
                leased,
            }
        },
    )
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    let time = prop_oneof![Just(SetTime::Now), timestamp().prop_map(SetTime::At)];
    (
        any::<[Option<u32>; 3]>(),
        option::of(0..=FILE_BYTES_MAX),
        option::of(time.clone()),
        option::of(time),
    )
        .prop_map(|([mode, uid, gid], size, atime, mtime)| SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        })
}

fn commit_write() -> impl Strategy<Value = CommitWrite> {
    let parts = (extents(6), vec(committed_chunk(), 0..4));
    (ino(), parts, any::<bool>(), timestamp(), any::<bool>()).prop_map(
        |(ino, (extents, chunks), append, mtime, clear_setid)| CommitWrite {
            ino,
            extents,
            chunks,
            append,
            mtime,
            clear_setid,
        },
    )
}

pub fn operation() -> impl Strategy<Value = Operation> {
    let rename_mode = prop_oneof![
        Just(RenameMode::Replace),
        Just(RenameMode::NoReplace),
        Just(RenameMode::Exchange)
    ];
    let xattr_mode = prop_oneof![
        Just(XattrMode::Set),
        Just(XattrMode::Create),
        Just(XattrMode::Replace)
    ];
    prop_oneof![
        (ino(), name(), any::<u32>()).prop_map(|(parent, name, mode)| Operation::Mkdir {
            parent,
            name,
            mode
        }),
        (ino(), name(), file_kind(), any::<u32>(), any::<u32>()).prop_map(
            |(parent, name, kind, mode, rdev)| {
                Operation::Mknod {
                    parent,
                    name,
                    kind,
                    mode,
                    rdev,
                }
            }
        ),
        (ino(), name(), any::<u32>(), any::<[bool; 3]>()).prop_map(
            |(parent, name, mode, [exclusive, read, write])| Operation::Create {
                parent,
                name,
                mode,
                exclusive,
                read,
                write,
            }
        ),
        (ino(), name(), bytes(4095)).prop_map(|(parent, name, target)| Operation::Symlink {
            parent,
            name,
            target
        }),
        (ino(), ino(), name()).prop_map(|(ino, parent, name)| Operation::Link { ino, parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Operation::Unlink { parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Operation::Rmdir { parent, name }),
        (ino(), name(), ino(), name(), rename_mode).prop_map(|(parent, name, new_parent, new_name, mode)| {
            Operation::Rename {
                parent,
                name,
                new_parent,
                new_name,
                mode,
            }
        }),
        (ino(), set_attr(), any::<bool>()).prop_map(|(ino, set, by_handle)| Operation::Setattr {
            ino,
            set,
            by_handle
        }),
        (ino(), xattr_name(), bytes(5000), xattr_mode).prop_map(|(ino, name, value, mode)| {
            Operation::Setxattr {
                ino,
                name,
                value,
                mode,
            }
        }),
        (ino(), xattr_name()).prop_map(|(ino, name)| Operation::Removexattr { ino, name }),
        (1..=256_u32).prop_map(|count| Operation::GrantChunks { count }),
        commit_write().prop_map(Operation::CommitWrite),
    ]
}

pub fn mutation_batch() -> impl Strategy<Value = MutationBatch> {
    let op = (1..1000_u64, caller(), operation());
    (vec(op, 1..12), any::<u64>(), any::<[bool; 2]>()).prop_map(
        |(ops, acknowledged_below, [stop_on_error, durable])| {
            let mut number = 0;
            let ops = ops
                .into_iter()
                .map(|(step, caller, op)| {
                    number += step;
                    NumberedOp {
                        number: OpNumber(number),
                        caller,
                        op,
                    }
                })
                .collect();
            MutationBatch {
                ops,
                acknowledged_below: OpNumber(acknowledged_below),
                stop_on_error,
                durable,
            }
        },
    )
}

pub fn op_result() -> impl Strategy<Value = OpResult> {
    let reply = prop_oneof![
        entry().prop_map(OpReply::Entry),
        (entry(), any::<bool>()).prop_map(|(entry, existed)| OpReply::Created { entry, existed }),
        (ino(), any::<u32>()).prop_map(|(ino, nlink)| OpReply::Removed { ino, nlink }),
        (ino(), option::of(ino())).prop_map(|(ino, other)| OpReply::Renamed { ino, other }),
        attr().prop_map(OpReply::Attr),
        vec(capability(), 0..20).prop_map(OpReply::Chunks),
        (attr(), any::<u64>()).prop_map(|(attr, append_offset)| OpReply::Committed { attr, append_offset }),
    ];
    prop_oneof![4 => reply.prop_map(Ok), 1 => error().prop_map(Err)]
}

pub fn found() -> impl Strategy<Value = Found> {
    (attr(), any::<bool>(), any::<bool>()).prop_map(|(attr, leased, parent_leased)| Found {
        attr,
        leased,
        parent_leased,
    })
}

pub fn mutated() -> impl Strategy<Value = Mutated> {
    let point = (commit_id(), any::<u64>()).prop_map(|(last, durable)| CommitPoint { last, durable });
    let files = vec(access(), 0..10);
    (vec(op_result(), 0..10), vec(attr(), 0..20), files, point).prop_map(
        |(results, leased, access, point)| Mutated {
            results,
            leased,
            access,
            point,
        },
    )
}

pub fn recall_page() -> impl Strategy<Value = RecallPage> {
    let inos = || vec(ino(), 0..20);
    let recalls = vec((1..1000_u64, inos(), inos(), inos()), 0..10).prop_map(|recalls| {
        let mut sequence = 0;
        let number = |(step, inos, contents, buffers)| {
            sequence += step;
            Recall {
                sequence,
                inos,
                contents,
                buffers,
            }
        };
        recalls.into_iter().map(number).collect()
    });
    (any::<u64>(), recalls).prop_map(|(stream, recalls)| RecallPage { stream, recalls })
}
