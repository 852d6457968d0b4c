//! Keys of the metadata store: a one-byte table prefix, then big-endian numbers, so that ranges scan in order.
//!
//! The tables are those of the metadata schema's decision record. An extent's key holds its END: the first extent that ends
//! behind an offset is then found by a forward scan, and that is the first one that may overlap.

use bytes::{BufMut, Bytes, BytesMut};
use dfs_common::{ChunkId, Ino, Name, NodeId, OpNumber, PgId, SessionId};

const CHUNK: u8 = b'c';
const CURSOR: u8 = b'd';
const EXTENT: u8 = b'e';
const FREED: u8 = b'f';
const GROUP: u8 = b'g';
const LINK: u8 = b'h';
const INODE: u8 = b'i';
const QUOTA: u8 = b'j';
const SPENT: u8 = b'k';
const REPLICA_SET: u8 = b'l';
const META: u8 = b'm';
const NODE: u8 = b'n';
const ORPHAN: u8 = b'o';
const REPLACED: u8 = b'q';
const REPLY: u8 = b'r';
const SESSION: u8 = b's';
const DENTRY: u8 = b't';
const UNSYNCED: u8 = b'u';
const USAGE: u8 = b'v';
const REAP: u8 = b'w';
const XATTR: u8 = b'x';

/// First key of a range and the first one behind it.
pub type KeyRange = (Bytes, Bytes);

/// What a record is of, for a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Sessions, their replies, their spent chunks, their unsynced commits: gone when the sessions are.
    OfSessions,
    /// Orphans, which name sessions.
    Orphans,
    /// Everything else.
    Other,
}

/// What the record of `key` is of.
pub fn table_of(key: &[u8]) -> Table {
    match key.first() {
        Some(&(SESSION | REPLY | SPENT | UNSYNCED)) => Table::OfSessions,
        Some(&ORPHAN) => Table::Orphans,
        _ => Table::Other,
    }
}

fn key(table: u8, parts: &[&[u8]]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.put_u8(table);
    for part in parts {
        key.put_slice(part);
    }
    key.freeze()
}

fn numbered(table: u8, number: u64) -> Bytes {
    key(table, &[&number.to_be_bytes()])
}

fn numbered2(table: u8, first: u64, second: u64) -> Bytes {
    key(table, &[&first.to_be_bytes(), &second.to_be_bytes()])
}

fn table(table: u8) -> KeyRange {
    (key(table, &[]), key(table + 1, &[]))
}

/// All keys of `table` that go on with `number`.
fn below(table: u8, number: u64) -> KeyRange {
    let end = match number.checked_add(1) {
        Some(next) => numbered(table, next),
        None => key(table + 1, &[]),
    };
    (numbered(table, number), end)
}

fn parse_numbered(table: u8, key: &[u8]) -> Option<u64> {
    let (prefix, number) = key.split_first()?;
    (*prefix == table).then_some(())?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

fn parse_numbered2(table: u8, key: &[u8]) -> Option<(u64, u64)> {
    let (prefix, rest) = key.split_first()?;
    (*prefix == table && rest.len() == 16).then_some(())?;
    let (first, second) = rest.split_at(8);
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some((number(first)?, number(second)?))
}

fn parse_chunk_key(table: u8, key: &[u8]) -> Option<ChunkId> {
    let (prefix, id) = key.split_first()?;
    (*prefix == table).then_some(())?;
    ChunkId::from_slice(id)
}

/// Inode record.
pub fn inode(ino: Ino) -> Bytes {
    numbered(INODE, ino.0)
}
/// All inode records.
pub fn inodes() -> KeyRange {
    table(INODE)
}
/// The number in an inode record's key.
pub fn parse_inode(key: &[u8]) -> Option<Ino> {
    parse_numbered(INODE, key).map(Ino)
}

/// Directory entry by name.
pub fn dentry(parent: Ino, name: &Name) -> Bytes {
    key(DENTRY, &[&parent.0.to_be_bytes(), name.as_bytes()])
}
/// All directory entries by name.
pub fn dentries() -> KeyRange {
    table(DENTRY)
}
/// Parent and name in the key of a directory entry by name.
pub fn parse_dentry(key: &Bytes) -> Option<(Ino, Name)> {
    if key.len() < 9 || key[0] != DENTRY {
        return None;
    }
    let parent = u64::from_be_bytes(key[1..9].try_into().ok()?);
    Some((Ino(parent), Name::new(key.slice(9..)).ok()?))
}

/// Directory entry by cursor.
pub fn cursor(parent: Ino, cursor: u64) -> Bytes {
    numbered2(CURSOR, parent.0, cursor)
}
/// Directory entries of `parent` behind `cursor`.
pub fn cursors_after(parent: Ino, cursor: u64) -> KeyRange {
    let (start, end) = below(CURSOR, parent.0);
    match cursor.checked_add(1) {
        Some(next) => (numbered2(CURSOR, parent.0, next), end),
        None => (end, start),
    }
}
/// All directory entries by cursor.
pub fn cursors() -> KeyRange {
    table(CURSOR)
}
/// Parent and cursor in the key of a directory entry by cursor.
pub fn parse_cursor(key: &[u8]) -> Option<(Ino, u64)> {
    parse_numbered2(CURSOR, key).map(|(parent, cursor)| (Ino(parent), cursor))
}

/// Extent of a map that ends at `end`.
pub fn extent(map: u64, end: u64) -> Bytes {
    numbered2(EXTENT, map, end)
}
/// Extents of a map that end behind `offset`.
pub fn extents_behind(map: u64, offset: u64) -> KeyRange {
    let (start, end) = below(EXTENT, map);
    match offset.checked_add(1) {
        Some(next) => (numbered2(EXTENT, map, next), end),
        None => (end, start),
    }
}
/// All extents.
pub fn extents() -> KeyRange {
    table(EXTENT)
}
/// Map and end in an extent's key.
pub fn parse_extent(key: &[u8]) -> Option<(u64, u64)> {
    parse_numbered2(EXTENT, key)
}

/// Extended attribute.
pub fn xattr(ino: Ino, name: &[u8]) -> Bytes {
    key(XATTR, &[&ino.0.to_be_bytes(), name])
}
/// Extended attributes of an inode.
pub fn xattrs_of(ino: Ino) -> KeyRange {
    below(XATTR, ino.0)
}
/// All extended attributes.
pub fn xattrs() -> KeyRange {
    table(XATTR)
}
/// Inode and name in an extended attribute's key.
pub fn parse_xattr(key: &Bytes) -> Option<(Ino, Bytes)> {
    if key.len() < 9 || key[0] != XATTR {
        return None;
    }
    let ino = u64::from_be_bytes(key[1..9].try_into().ok()?);
    Some((Ino(ino), key.slice(9..)))
}

/// Name of an inode beside the one that it is counted by.
pub fn link(ino: Ino, parent: Ino, cursor: u64) -> Bytes {
    key(
        LINK,
        &[
            &ino.0.to_be_bytes(),
            &parent.0.to_be_bytes(),
            &cursor.to_be_bytes(),
        ],
    )
}
/// Further names of an inode.
pub fn links_of(ino: Ino) -> KeyRange {
    below(LINK, ino.0)
}
/// Further names of all inodes.
pub fn links() -> KeyRange {
    table(LINK)
}
/// Inode, parent and cursor in the key of a further name.
pub fn parse_link(key: &[u8]) -> Option<(Ino, Ino, u64)> {
    let (prefix, rest) = key.split_first()?;
    let (numbers, rest) = rest.as_chunks::<8>();
    let [ino, parent, cursor] = numbers else {
        return None;
    };
    (*prefix == LINK && rest.is_empty()).then_some(())?;
    let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
    Some((Ino(number(ino)), Ino(number(parent)), number(cursor)))
}

/// Usage record of a directory.
pub fn usage(directory: Ino) -> Bytes {
    numbered(USAGE, directory.0)
}
/// All usage records.
pub fn usages() -> KeyRange {
    table(USAGE)
}
/// The directory in a usage record's key.
pub fn parse_usage(key: &[u8]) -> Option<Ino> {
    parse_numbered(USAGE, key).map(Ino)
}

/// Quota of a directory.
pub fn quota(directory: Ino) -> Bytes {
    numbered(QUOTA, directory.0)
}
/// All quotas.
pub fn quotas() -> KeyRange {
    table(QUOTA)
}
/// The directory in a quota's key.
pub fn parse_quota(key: &[u8]) -> Option<Ino> {
    parse_numbered(QUOTA, key).map(Ino)
}

/// Chunk record.
pub fn chunk(chunk: ChunkId) -> Bytes {
    key(CHUNK, &[&chunk.to_bytes()])
}
/// All chunk records.
pub fn chunks() -> KeyRange {
    table(CHUNK)
}
/// The id in a chunk record's key.
pub fn parse_chunk(key: &[u8]) -> Option<ChunkId> {
    parse_chunk_key(CHUNK, key)
}

/// Freed chunk.
pub fn freed_chunk(chunk: ChunkId) -> Bytes {
    key(FREED, &[&chunk.to_bytes()])
}
/// All freed chunks.
pub fn freed_chunks() -> KeyRange {
    table(FREED)
}
/// The id in a freed chunk's key.
pub fn parse_freed_chunk(key: &[u8]) -> Option<ChunkId> {
    parse_chunk_key(FREED, key)
}

/// Chunk that was freed and deleted, whose granting session still lives.
pub fn spent_chunk(chunk: ChunkId) -> Bytes {
    key(SPENT, &[&chunk.to_bytes()])
}
/// Spent chunks of a session, in the order of their grants.
pub fn spent_chunks(session: SessionId) -> KeyRange {
    let start = spent_chunk(ChunkId::new(session, 0, PgId(0)));
    let end = match session.0 {
        SessionId::MAX => key(SPENT + 1, &[]),
        number => spent_chunk(ChunkId::new(SessionId(number + 1), 0, PgId(0))),
    };
    (start, end)
}
/// Spent chunks of all sessions.
pub fn all_spent_chunks() -> KeyRange {
    table(SPENT)
}
/// The id in a spent chunk's key.
pub fn parse_spent_chunk(key: &[u8]) -> Option<ChunkId> {
    parse_chunk_key(SPENT, key)
}

/// Orphan record.
pub fn orphan(ino: Ino) -> Bytes {
    numbered(ORPHAN, ino.0)
}
/// All orphans.
pub fn orphans() -> KeyRange {
    table(ORPHAN)
}
/// The inode in an orphan's key.
pub fn parse_orphan(key: &[u8]) -> Option<Ino> {
    parse_numbered(ORPHAN, key).map(Ino)
}

/// Mark of an inode that a rename replaced at `at_ms`, milliseconds since 1970.
pub fn replaced(at_ms: u64, ino: Ino) -> Bytes {
    numbered2(REPLACED, at_ms, ino.0)
}
/// All marks of replaced inodes, oldest first.
pub fn replaced_inodes() -> KeyRange {
    table(REPLACED)
}
/// Marks of inodes that were replaced before `at_ms`.
pub fn replaced_before(at_ms: u64) -> KeyRange {
    (key(REPLACED, &[]), numbered(REPLACED, at_ms))
}
/// Marks of inodes that were replaced later than `at_ms`.
pub fn replaced_after(at_ms: u64) -> KeyRange {
    (below(REPLACED, at_ms).1, key(REPLACED + 1, &[]))
}
/// When an inode was replaced, in milliseconds since 1970, and its number, in the key of its mark.
pub fn parse_replaced(key: &[u8]) -> Option<(u64, Ino)> {
    parse_numbered2(REPLACED, key).map(|(at_ms, ino)| (at_ms, Ino(ino)))
}

/// Reap record of a map.
pub fn reap(map: u64) -> Bytes {
    numbered(REAP, map)
}
/// All reap records.
pub fn reaps() -> KeyRange {
    table(REAP)
}
/// The map in a reap record's key.
pub fn parse_reap(key: &[u8]) -> Option<u64> {
    parse_numbered(REAP, key)
}

/// Session record.
pub fn session(session: SessionId) -> Bytes {
    numbered(SESSION, session.0)
}
/// All session records.
pub fn sessions() -> KeyRange {
    table(SESSION)
}
/// The session in a session record's key.
pub fn parse_session(key: &[u8]) -> Option<SessionId> {
    parse_numbered(SESSION, key).map(SessionId)
}

/// Reply to an operation.
pub fn reply(session: SessionId, number: OpNumber) -> Bytes {
    numbered2(REPLY, session.0, number.0)
}
/// All replies of a session.
pub fn replies(session: SessionId) -> KeyRange {
    below(REPLY, session.0)
}
/// The operation in a reply's key.
pub fn parse_reply(key: &[u8]) -> Option<OpNumber> {
    parse_numbered2(REPLY, key).map(|(_, number)| OpNumber(number))
}

/// Node record.
pub fn node(node: NodeId) -> Bytes {
    key(NODE, &[&node.0.to_be_bytes()])
}
/// All node records.
pub fn nodes() -> KeyRange {
    table(NODE)
}

/// Placement group record.
pub fn placement_group(group: PgId) -> Bytes {
    key(GROUP, &[&group.0.to_be_bytes()])
}
/// All placement groups.
pub fn placement_groups() -> KeyRange {
    table(GROUP)
}

/// Chunks with exactly these replicas (sorted).
pub fn replica_set(replicas: &[NodeId]) -> Bytes {
    let bytes: Vec<u8> = replicas.iter().flat_map(|node| node.0.to_be_bytes()).collect();
    key(REPLICA_SET, &[&bytes])
}
/// All replica sets.
pub fn replica_sets() -> KeyRange {
    table(REPLICA_SET)
}
/// The replicas in a replica set's key.
pub fn parse_replica_set(key: &[u8]) -> Option<Vec<NodeId>> {
    let (prefix, nodes) = key.split_first()?;
    let (nodes, rest) = nodes.as_chunks::<4>();
    (*prefix == REPLICA_SET && rest.is_empty()).then_some(())?;
    Some(
        nodes
            .iter()
            .map(|bytes| NodeId(u32::from_be_bytes(*bytes)))
            .collect(),
    )
}

/// Totals.
pub fn counters() -> Bytes {
    Bytes::from_static(b"mcounters")
}
/// How the store is synced.
pub fn durability() -> Bytes {
    Bytes::from_static(b"mdurability")
}
/// Number of the last commit of an epoch that was not synced by itself.
pub fn unsynced(epoch: u64) -> Bytes {
    numbered(UNSYNCED, epoch)
}
/// [`unsynced`] of all epochs.
pub fn unsynced_commits() -> KeyRange {
    table(UNSYNCED)
}
/// What a restore from a backup left behind.
pub fn restore() -> Bytes {
    Bytes::from_static(b"mrestore")
}
/// Schema version.
pub fn schema() -> Bytes {
    Bytes::from_static(b"mschema")
}
/// The last opening of the store that kept the usage records, with what is held.
pub fn usage_epoch() -> Bytes {
    Bytes::from_static(b"musage_held_epoch")
}
/// The same of a release that did not count what is held.
pub fn usage_epoch_before_held() -> Bytes {
    Bytes::from_static(b"musage_epoch")
}
/// Number of the next session.
pub fn next_session() -> Bytes {
    Bytes::from_static(b"mnext_session")
}
/// Number of the next node.
pub fn next_node() -> Bytes {
    Bytes::from_static(b"mnext_node")
}
/// Number of the next placement group.
pub fn next_placement_group() -> Bytes {
    Bytes::from_static(b"mnext_placement_group")
}
/// Everything that is not a table.
pub fn meta() -> KeyRange {
    table(META)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are_of() {
        let name = Name::new(&b"a\xff"[..]).unwrap();
        let id = ChunkId(77);
        assert_eq!(parse_inode(&inode(Ino(5))), Some(Ino(5)));
        assert_eq!(parse_dentry(&dentry(Ino(5), &name)), Some((Ino(5), name.clone())));
        assert_eq!(parse_cursor(&cursor(Ino(5), 9)), Some((Ino(5), 9)));
        assert_eq!(parse_extent(&extent(5, 9)), Some((5, 9)));
        assert_eq!(
            parse_xattr(&xattr(Ino(5), b"user.x")),
            Some((Ino(5), Bytes::from_static(b"user.x")))
        );
        assert_eq!(parse_chunk(&chunk(id)), Some(id));
        assert_eq!(parse_freed_chunk(&freed_chunk(id)), Some(id));
        assert_eq!(parse_orphan(&orphan(Ino(5))), Some(Ino(5)));
        assert_eq!(parse_replaced(&replaced(8, Ino(5))), Some((8, Ino(5))));
        assert_eq!(parse_reply(&reply(SessionId(1), OpNumber(2))), Some(OpNumber(2)));
        let set = [NodeId(1), NodeId(7)];
        assert_eq!(parse_replica_set(&replica_set(&set)), Some(set.to_vec()));
        assert_eq!(parse_chunk(&freed_chunk(id)), None);
        assert_eq!(parse_inode(b"i"), None);
        assert_eq!(parse_link(&link(Ino(5), Ino(6), 7)), Some((Ino(5), Ino(6), 7)));
        assert_eq!(parse_link(&inode(Ino(5))), None);
        assert_eq!(parse_usage(&usage(Ino(5))), Some(Ino(5)));
        assert_eq!(parse_quota(&quota(Ino(5))), Some(Ino(5)));
    }

    #[test]
    fn ranges_hold_their_own_keys_only() {
        let inside = |range: &KeyRange, key: &Bytes| range.0 <= *key && *key < range.1;
        let range = cursors_after(Ino(5), 9);
        assert!(!inside(&range, &cursor(Ino(5), 9)) && inside(&range, &cursor(Ino(5), 10)));
        assert!(inside(&range, &cursor(Ino(5), u64::MAX)) && !inside(&range, &cursor(Ino(6), 10)));
        let range = extents_behind(u64::MAX, 0);
        assert!(!inside(&range, &extent(u64::MAX, 0)) && inside(&range, &extent(u64::MAX, 1)));
        let none = extents_behind(3, u64::MAX);
        assert!(none.0 >= none.1);
        for (at_ms, before, after) in [(6, true, false), (7, false, false), (8, false, true)] {
            for ino in [Ino(0), Ino(u64::MAX)] {
                let mark = replaced(at_ms, ino);
                assert_eq!(inside(&replaced_before(7), &mark), before);
                assert_eq!(inside(&replaced_after(7), &mark), after);
            }
        }
        assert!(inside(&xattrs_of(Ino(1)), &xattr(Ino(1), &[0xff; 300])));
        assert!(!inside(&xattrs_of(Ino(1)), &xattr(Ino(2), b"")));
        let last = ChunkId::new(SessionId(3), SessionId::MAX, PgId(u32::MAX));
        assert!(inside(&spent_chunks(SessionId(3)), &spent_chunk(last)));
        assert!(!inside(&spent_chunks(SessionId(4)), &spent_chunk(last)));
    }

    #[test]
    fn tables_do_not_overlap() {
        let tables = [
            inodes(),
            dentries(),
            cursors(),
            extents(),
            xattrs(),
            chunks(),
            freed_chunks(),
            orphans(),
            replaced_inodes(),
            reaps(),
            sessions(),
            nodes(),
            placement_groups(),
            replica_sets(),
            meta(),
            unsynced_commits(),
            table(REPLY),
            table(SPENT),
            links(),
            usages(),
            quotas(),
        ];
        let mut sorted = tables.to_vec();
        sorted.sort();
        assert!(sorted.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
}
