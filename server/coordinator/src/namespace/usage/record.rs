//! A usage record's form in the store. Knows no transaction: those keep records decoded.

use crate::namespace::damaged;
use bytes::Bytes;
use dfs_common::FsResult;
use dfs_proto::v1;
use prost::Message;

/// What lies below a directory, and its quota.
pub type Usage = v1::StoredUsage;

/// Reads a record's value.
///
/// # Errors
/// `Corrupt`.
pub fn decode(value: Bytes) -> FsResult<Usage> {
    Usage::decode(value).map_err(|_| damaged("usage"))
}

/// A record's value.
pub fn encode(usage: &Usage) -> Bytes {
    Bytes::from(usage.encode_to_vec())
}
