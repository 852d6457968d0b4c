//! Conversion between wire messages and the vocabulary of `dfs-common`.
//!
//! `<type>_to_wire` cannot fail. `<type>_from_wire` trusts nothing: missing parts, wrong lengths, unknown codes and
//! anything above its limit are refused with `Invalid` (names as [`dfs_common::Name`] refuses them) before anybody sees
//! them. What depends on the state of the file system (permissions, inline budgets, order of a commit's extents) is
//! not judged here.

mod chunk;
mod cluster;
mod error;
mod extent;
mod inode;
mod lease;
mod lock;
mod operation;
mod reply;
mod session;
mod usage;

pub use chunk::*;
pub use cluster::*;
pub use error::*;
pub use extent::*;
pub use inode::*;
pub use lease::*;
pub use lock::*;
pub use operation::*;
pub use reply::*;
pub use session::*;
pub use usage::*;

use dfs_common::limits::ADDRESS_BYTES_MAX;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult};
use std::borrow::Cow;

/// An `Invalid` error.
pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> FsError {
    FsError::new(ErrorKind::Invalid, message)
}

/// The part, or an error that names it.
pub(crate) fn required<T>(part: Option<T>, what: &'static str) -> FsResult<T> {
    part.ok_or_else(|| invalid(format!("a message lacks its {what}")))
}

/// A field of exactly `N` bytes.
pub(crate) fn fixed<const N: usize>(bytes: &[u8], what: &'static str) -> FsResult<[u8; N]> {
    bytes
        .try_into()
        .map_err(|_| invalid(format!("a {what} has {N} bytes, not {}", bytes.len())))
}

/// A chunk id: 16 bytes.
pub(crate) fn chunk_id(bytes: &[u8]) -> FsResult<ChunkId> {
    Ok(ChunkId(u128::from_be_bytes(fixed(bytes, "chunk id")?)))
}

/// Refuses more than `limit` of something.
pub(crate) fn at_most(count: usize, limit: usize, what: &'static str) -> FsResult<()> {
    if count > limit {
        return Err(invalid(format!("{count} {what} in one message: at most {limit}")));
    }
    Ok(())
}

/// Checks that `address` is `host:port` with a port above 0, an IPv6 host in brackets.
///
/// # Errors
/// `Invalid` with the address in the message.
pub fn check_address(address: &str) -> FsResult<()> {
    let parts = address.rsplit_once(':');
    let good = address.len() <= ADDRESS_BYTES_MAX
        && parts
            .is_some_and(|(host, port)| host_is_plausible(host) && matches!(port.parse::<u16>(), Ok(1..)));
    if good {
        return Ok(());
    }
    let shown: String = address.chars().take(ADDRESS_BYTES_MAX).collect();
    Err(invalid(format!(
        "\"{}\" is not an address: write host:port",
        shown.escape_default()
    )))
}

fn host_is_plausible(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
