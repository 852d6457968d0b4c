//! Identifiers as newtypes, so that an inode number cannot be passed where a session is meant.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    };
}

id_u64!(
    /// Inode number. Never reused within a cluster; the root directory is [`Ino::ROOT`].
    Ino
);
id_u64!(
    /// A client session; at most [`SessionId::MAX`] so that it fits the 48 bits a [`ChunkId`] has for it.
    SessionId
);
id_u64!(
    /// Fencing epoch of a session: a mutation that carries an older one is refused where it is applied.
    SessionEpoch
);
id_u64!(
    /// Number of a mutation within its session; strictly increasing, applied at most once.
    OpNumber
);
id_u64!(
    /// Incarnation of a datanode's disk: changes when a disk is wiped or failed a sync.
    DiskIncarnation
);

impl Ino {
    /// The root directory (FUSE fixes it at 1).
    pub const ROOT: Ino = Ino(1);
    /// Stands for the quotas of the cluster, all of them, where leases are spoken of ([`crate::lease`]); no inode has this number.
    pub const QUOTAS: Ino = Ino(0);
}

impl SessionId {
    /// Largest session id: 48 bits.
    pub const MAX: u64 = (1 << 48) - 1;
}

macro_rules! id_u32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    };
}

id_u32!(
    /// A datanode, numbered by the coordinator at first registration; 0 is none.
    NodeId
);
id_u32!(
    /// A placement group: a versioned list of the datanodes that hold the replicas of its chunks.
    PgId
);

/// A chunk: 48 bits granting session, 48 bits sequence number within it, 32 bits placement group.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub u128);

impl ChunkId {
    /// Builds an id; `session` and `sequence` are below 2^48 (higher bits are a caller's bug).
    pub fn new(session: SessionId, sequence: u64, group: PgId) -> Self {
        assert!(
            session.0 <= SessionId::MAX && sequence <= SessionId::MAX,
            "chunk id parts are 48 bits"
        );
        ChunkId((u128::from(session.0) << 80) | (u128::from(sequence) << 32) | u128::from(group.0))
    }
    /// The session that the id was granted to.
    pub fn session(self) -> SessionId {
        SessionId((self.0 >> 80) as u64)
    }
    /// Sequence number within the granting session.
    pub fn sequence(self) -> u64 {
        (self.0 >> 32) as u64 & SessionId::MAX
    }
    /// Placement group whose members hold the replicas.
    pub fn group(self) -> PgId {
        PgId(self.0 as u32)
    }
    /// Big-endian bytes: the form used on disk, on the wire and as a key.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
    /// The inverse of [`ChunkId::to_bytes`]; `None` unless exactly 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(ChunkId(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
    /// Parses 32 lower-case hexadecimal digits, the form of [`fmt::Display`].
    pub fn parse_hex(text: &str) -> Option<Self> {
        if text.len() != 32
            || !text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(ChunkId)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({:032x})", self.0)
    }
}

/// Identity of a cluster: 128 random bits made when the coordinator's directory is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub uuid::Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_id_keeps_its_parts_and_text() {
        let id = ChunkId::new(SessionId(SessionId::MAX), 77, PgId(u32::MAX));
        assert_eq!(
            (id.session().0, id.sequence(), id.group().0),
            (SessionId::MAX, 77, u32::MAX)
        );
        assert_eq!(ChunkId::parse_hex(&id.to_string()), Some(id));
        assert_eq!(ChunkId::from_slice(&id.to_bytes()), Some(id));
        assert_eq!(ChunkId::parse_hex("xyz"), None);
    }
}
