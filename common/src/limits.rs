//! Every bound in one place, with its reason. Units are last in the name.

use std::time::Duration;

/// Longest name, as Linux's `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target, as Linux's `PATH_MAX` less the NUL.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Longest path that a server tells, as Linux's `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;
/// Directories of one cluster that have a quota.
pub const QUOTAS_MAX: usize = 65_536;
/// A quota is waited for until every client has heard of it: one that does not answer, until its session's lease ends, and
/// after a restart those of before it first.
pub const QUOTA_SET_DEADLINE: Duration = Duration::from_secs(120);
/// Quotas in one answer.
pub const QUOTAS_PAGE_MAX: usize = 256;
/// Largest file offset, as Linux's `loff_t`.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Hard links of one inode, as ext4 has it.
pub const LINKS_MAX: u32 = 65_000;
/// Largest extended attribute value, as Linux's `XATTR_SIZE_MAX`.
pub const XATTR_VALUE_BYTES_MAX: usize = 65_536;
/// All names of one inode's extended attributes, as Linux's `XATTR_LIST_MAX`.
pub const XATTR_LIST_BYTES_MAX: usize = 65_536;
/// Names and values of one inode's extended attributes together: what removing the inode reads at once.
pub const XATTR_INODE_BYTES_MAX: u64 = 1 << 20;
/// Supplementary groups in a request, as Linux's `NGROUPS_MAX`.
pub const GROUPS_MAX: usize = 65_536;

/// Default chunk size.
pub const CHUNK_BYTES_DEFAULT: u64 = 8 << 20;
/// Largest chunk that a datanode accepts.
pub const CHUNK_BYTES_MAX: u64 = 64 << 20;
/// Checksummed unit inside a chunk file.
pub const FRAME_BYTES: usize = 64 << 10;
/// Piece of a chunk in one wire message.
pub const WIRE_FRAME_BYTES: usize = 256 << 10;
/// Largest wire message: one piece plus headers, or a page of a listing.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Inline bytes in one extent of a commit.
pub const INLINE_EXTENT_BYTES_MAX: usize = 16 << 10;
/// Inline bytes of one inode in total.
pub const INLINE_INODE_BYTES_MAX: u64 = 64 << 10;
/// Inline bytes of all inodes together: what the metadata store may hold of file content.
pub const INLINE_TOTAL_BYTES_MAX: u64 = 4 << 30;

/// Operations in one mutation batch.
pub const BATCH_OPS_MAX: usize = 1024;
/// Extents in one write commit.
pub const COMMIT_EXTENTS_MAX: usize = 1024;
/// Chunk ids granted at once.
pub const GRANT_CHUNKS_MAX: u32 = 256;
/// Replies remembered per session before the oldest are refused rather than repeated.
pub const SESSION_REPLIES_MAX: usize = 4096;
/// Entries in one page of a directory listing.
pub const READDIR_ENTRIES_MAX: u32 = 1024;
/// Opens taken back in one call.
pub const RELEASES_MAX: usize = 4096;
/// Extents in one page of a map.
pub const EXTENTS_PAGE_MAX: u32 = 1024;
/// Batches that one group commit gathers.
pub const GROUP_COMMIT_BATCHES_MAX: usize = 512;
/// Mutation batches waiting for the applier; senders are slowed above it.
pub const APPLIER_QUEUE_MAX: usize = 4096;
/// Inventory changes in one heartbeat.
pub const HEARTBEAT_INVENTORY_MAX: usize = 4096;
/// Chunk ids in one page of an inventory listing, and in one delete request.
pub const CHUNK_LIST_MAX: usize = 4096;
/// Cluster-state deltas kept; an older reader gets the full state.
pub const CLUSTER_DELTAS_MAX: usize = 1000;
/// Replication factor limit.
pub const REPLICATION_MAX: u32 = 8;
/// Concurrent chunk writes of one datanode; each holds at most one chunk piece and one open file.
pub const DATANODE_WRITES_MAX: usize = 64;

/// A session's lease, measured by the client from the time of sending a keep-alive.
pub const SESSION_LEASE: Duration = Duration::from_secs(20);
/// Interval of keep-alives.
pub const SESSION_KEEPALIVE: Duration = Duration::from_secs(5);
/// Interval of datanode heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// Without a heartbeat for this long a datanode is suspect: no new chunks are placed on it.
pub const NODE_SUSPECT: Duration = Duration::from_secs(5);
/// Without a heartbeat for this long a datanode is down.
pub const NODE_DOWN: Duration = Duration::from_secs(30);
/// Validity of a chunk capability.
pub const CAPABILITY_VALIDITY: Duration = Duration::from_secs(3600);
/// A chunk that no extent refers to any more is kept this long before its replicas are deleted: readers that hold an older
/// map finish meanwhile.
pub const FREED_CHUNK_DELAY: Duration = Duration::from_secs(60);
/// An inode whose last name a rename gave to another one is kept this long, whether it is open or not: who has just looked the
/// name up opens what it found.
pub const REPLACED_INODE_KEPT: Duration = Duration::from_secs(5);
/// Default deadline of one attempt of a unary call; the client tries again after it.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Sessions of one coordinator; each costs about 200 bytes of memory and its reply table.
pub const SESSIONS_MAX: usize = 65_536;
/// Inodes that one session may hold open.
pub const SESSION_OPEN_INODES_MAX: usize = 1 << 20;
/// Operations that one group commit gathers; together with the batch limit it bounds the transaction's memory.
pub const GROUP_COMMIT_OPS_MAX: usize = 8192;
/// Datanodes of one cluster.
pub const NODES_MAX: usize = 4096;
/// Placement groups of one cluster.
pub const PLACEMENT_GROUPS_MAX: usize = 65_536;
/// `host:port` of a server: a DNS name of 255 bytes, a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 261;
/// A client's name, shown to administrators.
pub const CLIENT_NAME_BYTES_MAX: usize = 255;
/// Longest name of an extended attribute, as Linux's `XATTR_NAME_MAX`.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Text of an error on the wire; longer text is cut. It travels in an HTTP/2 header, which peers bound.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 1024;
/// Channels to datanodes that one connector keeps; the least recently used is closed above it.
pub const CHUNK_CHANNELS_MAX: usize = 256;
/// Calls in flight on one connection.
pub const CONNECTION_STREAMS_MAX: u32 = 1024;
/// A server gives up a chunk upload from which no piece arrives for this long.
pub const UPLOAD_STALL: Duration = Duration::from_secs(30);
/// Framed connections of one server.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Calls in flight on one framed connection; further ones wait.
pub const FRAMED_CALLS_MAX: usize = 256;
/// Leases of one session, some more than a client remembers inodes; above it the oldest are recalled.
pub const SESSION_LEASES_MAX: usize = 1 << 17;
/// Leases that are recalled at once to make room for others.
pub const LEASES_RECALLED_AT_ONCE: usize = 1024;
/// Recalls on their way to one session; one that does not read them is granted nothing more.
pub const RECALLS_PENDING_MAX: usize = 1024;
/// Reads that one datanode streams at a time, each with at most 1 MiB of content in memory; further ones wait.
pub const DATANODE_READS_MAX: usize = 128;
/// Chunk files that a datanode keeps open for the next read.
pub const DATANODE_OPEN_FILES_MAX: usize = 256;
/// Space of a datanode's disk that chunks do not get: a hundredth of it, at most this much.
pub const DATANODE_RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Damaged chunks that a datanode remembers by name; more are counted only.
pub const SUSPECT_CHUNKS_MAX: usize = 65_536;
/// Inventory changes that wait for a heartbeat; above it the whole inventory is reported again.
pub const INVENTORY_PENDING_MAX: usize = 65_536;
/// A replica that takes no piece of a forwarded chunk for this long has failed. Below the patience of the client, whose
/// upload waits meanwhile.
pub const FORWARD_STALL: Duration = Duration::from_secs(10);
/// A replica that has the whole chunk and gives no receipt for this long has failed, counted from the first replica's own.
pub const FORWARD_REPLY: Duration = Duration::from_secs(10);
/// After a recall an inode is not leased for this long: with several writers leases would only go to and fro.
pub const LEASE_COOLDOWN: Duration = Duration::from_secs(1);
/// A session that is alive and does not obey a recall for this long is ended.
pub const RECALL_PATIENCE: Duration = Duration::from_secs(20);
/// A call for recalls is answered after this long even if there are none.
pub const RECALL_POLL: Duration = Duration::from_secs(4);
/// Chunks that a datanode is asked to describe at once.
pub const CHUNK_STATS_MAX: usize = 256;
/// Repairs that the applier makes at once in a check of the file system.
pub const FSCK_REPAIRS_AT_ONCE: usize = 256;
/// Memory, in bytes, of each order that a check sorts records into; it keeps at most eight at once. More goes through temporary files.
pub const FSCK_SORT_MEMORY_BYTES: usize = 8 << 20;
/// Free bytes that the temporary files of a check leave on the disk of the metadata: above what stops clients.
pub const FSCK_DISK_KEPT_FREE_BYTES: u64 = 256 << 20;
/// Lost chunks whose files a check names; more are only counted.
pub const FSCK_LOST_CHUNKS_MAX: usize = 65_536;
/// Files with lost content that a check names.
pub const FSCK_LOST_FILES_MAX: usize = 10_000;
/// After a restore no chunk is deleted for at least this long from each start of the coordinator until the hold is over.
pub const RESTORE_HOLD_MIN: Duration = Duration::from_secs(60);
/// Locks (ranges) that one session may hold.
pub const SESSION_LOCKS_MAX: usize = 65_536;
/// Lock requests of one session that wait, or have waited and whose outcomes the client has not said to have. One more that would have
/// to wait is refused a lock; unlocks, and locks that are free, are not.
pub const SESSION_LOCK_REQUESTS_MAX: usize = 4096;
/// Outcomes of other lock requests and unlocks that are remembered of one session until it settles them. From half of it on new
/// locks are refused; the other half is for unlocks and cancellations, so a client that settles is never refused these.
pub const SESSION_LOCK_OUTCOMES_MAX: usize = 65_536;
/// A lock request that waits is answered "it waits" after this long: well below [`CALL_DEADLINE`].
pub const LOCK_POLL: Duration = Duration::from_secs(4);
/// Lock requests of one client that are polled at a time: each is a call in flight, of which a connection has at most
/// [`FRAMED_CALLS_MAX`]. With more waits than this a client polls them in turn, with less patience each.
pub const LOCK_POLLS_MAX: usize = 64;
/// Inodes, and of each of them locks and waits together, in one answer to an administrator; the rest of an inode's is counted.
pub const LOCKED_INODES_PAGE_MAX: usize = 256;
/// See [`LOCKED_INODES_PAGE_MAX`].
pub const LISTED_LOCKS_MAX: usize = 1024;
/// Locks that one request to resume a session declares: below 2 MiB on the wire.
pub const LOCK_DECLARATIONS_MAX: usize = 16_384;
