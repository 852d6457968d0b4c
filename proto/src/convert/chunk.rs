//! What travels between clients and datanodes: capabilities, descriptions, the head and the outcome of a write, pieces.

use super::extent::{chunk_id_to_wire, chunk_length, receipts};
use super::{
    at_most, check_address, chunk_id, error_from_wire, error_to_wire, fixed, invalid, receipt_to_wire,
    required,
};
use crate::v1;
use bytes::Bytes;
use dfs_common::capability::{ChunkAccess, ChunkCapability, Voucher};
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::limits::{CHUNK_STATS_MAX, FILE_BYTES_MAX, REPLICATION_MAX};
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkWritten, VouchedHash};
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, Ino, SessionEpoch};

/// A capability's wire form.
pub fn chunk_capability_to_wire(capability: &ChunkCapability) -> v1::ChunkCapability {
    v1::ChunkCapability {
        session: capability.session.0,
        chunk: chunk_id_to_wire(capability.chunk),
        access: capability.access.code(),
        expires_unix_ms: capability.expires_unix_ms,
        mac: Bytes::copy_from_slice(&capability.mac),
    }
}

/// A capability from the wire. Its signature is the datanode's to check.
///
/// # Errors
/// `Invalid`: wrong lengths, a session above 48 bits, an unknown access.
pub fn chunk_capability_from_wire(capability: v1::ChunkCapability) -> FsResult<ChunkCapability> {
    let access = capability.access;
    Ok(ChunkCapability {
        session: super::session_id(capability.session)?,
        chunk: chunk_id(&capability.chunk)?,
        access: ChunkAccess::from_code(access)
            .ok_or_else(|| invalid(format!("unknown kind of chunk access {access}")))?,
        expires_unix_ms: capability.expires_unix_ms,
        mac: fixed(&capability.mac, "capability's signature")?,
    })
}

/// A capability that a message must have.
pub(crate) fn required_capability(capability: Option<v1::ChunkCapability>) -> FsResult<ChunkCapability> {
    chunk_capability_from_wire(required(capability, "chunk capability")?)
}

/// A description's wire form.
pub fn chunk_description_to_wire(description: &ChunkDescription) -> v1::ChunkDescription {
    v1::ChunkDescription {
        chunk: chunk_id_to_wire(description.chunk),
        ino: description.ino.0,
        file_offset: description.file_offset,
        length: description.length,
        epoch: description.epoch.0,
        sha256: Bytes::copy_from_slice(&description.sha256),
    }
}

/// A description from the wire.
///
/// # Errors
/// `Invalid`: wrong lengths, an impossible content length or file offset.
pub fn chunk_description_from_wire(description: v1::ChunkDescription) -> FsResult<ChunkDescription> {
    let sha256 = fixed(&description.sha256, "SHA-256")?;
    Ok(label_from_wire(description)?.described(sha256))
}

fn label_from_wire(description: v1::ChunkDescription) -> FsResult<ChunkLabel> {
    if description.file_offset > FILE_BYTES_MAX {
        return Err(invalid("a chunk's file offset is behind the largest file"));
    }
    Ok(ChunkLabel {
        chunk: chunk_id(&description.chunk)?,
        ino: Ino(description.ino),
        file_offset: description.file_offset,
        length: chunk_length(description.length)?,
        epoch: SessionEpoch(description.epoch),
    })
}

/// What the head of a chunk write says of the content's SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadHash {
    /// The receiver computes it.
    Computed,
    /// The receiver compares it.
    Known([u8; 32]),
    /// The end of the stream says it.
    Follows,
}

/// The head of a chunk write: everything but the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteChunkHead {
    /// What is known of the chunk.
    pub label: ChunkLabel,
    /// Its SHA-256.
    pub hash: HeadHash,
    /// Permission to write.
    pub capability: ChunkCapability,
    /// Addresses of further replicas; at most [`REPLICATION_MAX`].
    pub forward: Vec<String>,
}

/// The wire form of a write's head.
pub fn write_chunk_head_to_wire(head: &WriteChunkHead) -> v1::WriteChunkHeader {
    let mut description = chunk_description_to_wire(&head.label.described([0; 32]));
    description.sha256 = match &head.hash {
        HeadHash::Known(sha256) => Bytes::copy_from_slice(sha256),
        HeadHash::Computed | HeadHash::Follows => Bytes::new(),
    };
    v1::WriteChunkHeader {
        description: Some(description),
        capability: Some(chunk_capability_to_wire(&head.capability)),
        forward: head.forward.clone(),
        end_follows: head.hash == HeadHash::Follows,
    }
}

/// A write's head from the wire.
///
/// # Errors
/// `Invalid`: too many or malformed addresses, or any if the end follows; a hash of another length, or one that is said now and
/// is to follow; and as [`chunk_description_from_wire`], [`chunk_capability_from_wire`].
pub fn write_chunk_head_from_wire(head: v1::WriteChunkHeader) -> FsResult<WriteChunkHead> {
    at_most(head.forward.len(), REPLICATION_MAX as usize, "further replicas")?;
    head.forward
        .iter()
        .try_for_each(|address| check_address(address))?;
    let description = required(head.description, "chunk description")?;
    let hash = match (description.sha256.is_empty(), head.end_follows) {
        (true, true) => HeadHash::Follows,
        (true, false) => HeadHash::Computed,
        (false, true) => {
            return Err(invalid(
                "a SHA-256 is said at the beginning or at the end, not twice",
            ));
        }
        (false, false) => HeadHash::Known(fixed(&description.sha256, "SHA-256")?),
    };
    if hash == HeadHash::Follows && !head.forward.is_empty() {
        return Err(invalid("a forwarded chunk is not forwarded again"));
    }
    Ok(WriteChunkHead {
        label: label_from_wire(description)?,
        hash,
        capability: required_capability(head.capability)?,
        forward: head.forward,
    })
}

/// The wire form of the end of a forwarded chunk.
pub fn vouched_hash_to_wire(vouched: &VouchedHash) -> v1::WriteChunkEnd {
    v1::WriteChunkEnd {
        sha256: Bytes::copy_from_slice(&vouched.sha256),
        voucher: Bytes::copy_from_slice(&vouched.voucher.0),
    }
}

/// The end of a forwarded chunk from the wire. Its voucher is the datanode's to check.
///
/// # Errors
/// `Invalid`: wrong lengths.
pub fn vouched_hash_from_wire(end: v1::WriteChunkEnd) -> FsResult<VouchedHash> {
    Ok(VouchedHash {
        sha256: fixed(&end.sha256, "SHA-256")?,
        voucher: Voucher(fixed(&end.voucher, "voucher")?),
    })
}

/// The wire form of a question for many descriptions.
pub fn stat_chunks_to_wire(capabilities: &[ChunkCapability]) -> v1::StatChunksRequest {
    v1::StatChunksRequest {
        capabilities: capabilities.iter().map(chunk_capability_to_wire).collect(),
    }
}

/// A question for many descriptions from the wire.
///
/// # Errors
/// `Invalid`: none or too many capabilities, or malformed ones.
pub fn stat_chunks_from_wire(request: v1::StatChunksRequest) -> FsResult<Vec<ChunkCapability>> {
    if request.capabilities.is_empty() {
        return Err(invalid("no chunk is asked for"));
    }
    at_most(request.capabilities.len(), CHUNK_STATS_MAX, "chunks")?;
    let capabilities = request.capabilities.into_iter();
    capabilities.map(chunk_capability_from_wire).collect()
}

/// The wire form of many descriptions.
pub fn chunk_stats_to_wire(described: &[FsResult<ChunkDescription>]) -> v1::StatChunksReply {
    use v1::chunk_stat::Outcome;
    let chunk = |described: &FsResult<ChunkDescription>| v1::ChunkStat {
        outcome: Some(match described {
            Ok(description) => Outcome::Description(chunk_description_to_wire(description)),
            Err(error) => Outcome::Error(error_to_wire(error)),
        }),
    };
    v1::StatChunksReply {
        chunks: described.iter().map(chunk).collect(),
    }
}

/// Descriptions of the chunks of `asked` from the wire.
///
/// # Errors
/// `Invalid`: not one answer for each, an answer about another chunk, or malformed ones.
pub fn chunk_stats_from_wire(
    reply: v1::StatChunksReply,
    asked: &[ChunkId],
) -> FsResult<Vec<FsResult<ChunkDescription>>> {
    use v1::chunk_stat::Outcome;
    if reply.chunks.len() != asked.len() {
        return Err(invalid("not every chunk that was asked for is described"));
    }
    let chunk = |(described, asked): (v1::ChunkStat, &ChunkId)| match required(described.outcome, "outcome")?
    {
        Outcome::Error(error) => Ok(Err(error_from_wire(error))),
        Outcome::Description(description) => match chunk_description_from_wire(description)? {
            description if description.chunk == *asked => Ok(Ok(description)),
            _ => Err(invalid("another chunk is described than was asked for")),
        },
    };
    reply.chunks.into_iter().zip(asked).map(chunk).collect()
}

/// The wire form of a write's outcome.
pub fn chunk_written_to_wire(written: &ChunkWritten) -> v1::WriteChunkReply {
    v1::WriteChunkReply {
        receipts: written.receipts.iter().map(receipt_to_wire).collect(),
        failures: written
            .failures
            .iter()
            .map(|(address, error)| v1::WriteFailure {
                address: address.clone(),
                error: Some(error_to_wire(error)),
            })
            .collect(),
    }
}

/// A write's outcome from the wire.
///
/// # Errors
/// `Invalid`: more receipts or failures than replicas can be, a malformed address.
pub fn chunk_written_from_wire(reply: v1::WriteChunkReply) -> FsResult<ChunkWritten> {
    at_most(reply.failures.len(), REPLICATION_MAX as usize, "failures")?;
    let failures = reply
        .failures
        .into_iter()
        .map(|failure| {
            check_address(&failure.address)?;
            let error = error_from_wire(required(failure.error, "error")?);
            Ok((failure.address, error))
        })
        .collect::<FsResult<_>>()?;
    Ok(ChunkWritten {
        receipts: receipts(reply.receipts)?,
        failures,
    })
}

/// The wire form of a piece. The content is shared, not copied.
pub fn piece_to_wire(piece: &Piece) -> v1::Piece {
    v1::Piece {
        content: piece.content().clone(),
        crc32c: piece.checksum(),
        frame_crc32c: piece.checksums().to_vec(),
    }
}

/// A piece from the wire, compared with its checksums.
///
/// # Errors
/// `Invalid` if it is empty or above [`dfs_common::limits::WIRE_FRAME_BYTES`], or has another number of checksums than of frames;
/// `Corrupt` if a checksum does not match.
pub fn piece_from_wire(piece: v1::Piece) -> FsResult<Piece> {
    let compared = match piece.frame_crc32c.is_empty() {
        true => Piece::verified_whole(piece.content, piece.crc32c),
        false => Piece::verified(piece.content, &piece.frame_crc32c),
    };
    compared.map_err(|error| match error.kind() {
        ErrorKind::Corrupt => error.context("a piece of a chunk was damaged on the way: send it again"),
        _ => error,
    })
}

/// A writer's content is `than` (more, or less) its description says.
pub(crate) fn wrong_content(than: &str) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!("there is {than} content of the chunk than its description says"),
    )
}

/// A datanode sent `than` (more, or less) it was asked for.
pub(crate) fn wrong_answer(than: &str) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!("the datanode sent {than} of the chunk than it was asked for: ask another replica"),
    )
}

/// An upload brought `than` (more, or less) its description says.
pub(crate) fn wrong_upload(than: &str) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!("the upload has {than} content than its description says"),
    )
}
