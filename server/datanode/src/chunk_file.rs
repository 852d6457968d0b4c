//! The format of a chunk file, version 1 (docs/adr/0002-chunk-format.md).
//!
//! ```text
//!  0  magic "DFSCHUNK"
//!  8  version, u32            12  length of the header, u32            16  CRC-32C of bytes 0 to 16 and of the header
//! 20  header (ChunkFileHeader, protobuf)
//!  …  CRC-32C of each 64 KiB frame of the content, u32 each
//!  …  zeros up to a multiple of 4096
//!  …  content
//! ```
//!
//! Integers are little-endian. Invariant: whatever is read here is checked, and damage of any byte of a file that matters is
//! `Corrupt`, never a panic and never other content.

use bytes::Bytes;
use dfs_common::checksum::{frame_crc, frame_crc_append};
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::limits::{CHUNK_BYTES_MAX, FILE_BYTES_MAX, FRAME_BYTES};
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, Ino, SessionEpoch};
use dfs_proto::v1::ChunkFileHeader;
use prost::Message;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Version that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;
/// First bytes of every chunk file.
pub const MAGIC: &[u8; 8] = b"DFSCHUNK";
/// The content starts at a multiple of this.
const ALIGNMENT: u64 = 4096;
/// Bytes before the protobuf header.
const PREFIX_BYTES: usize = 20;
/// Largest protobuf header that is read.
const HEADER_BYTES_MAX: usize = 4096;

/// Number of frames of `length` bytes of content.
pub fn frame_count(length: u64) -> usize {
    length.div_ceil(FRAME_BYTES as u64) as usize
}

/// Everything before the content of a chunk file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prologue {
    /// What the header says.
    pub description: ChunkDescription,
    /// Checksum of each frame.
    pub frames: Vec<u32>,
    /// Where the content starts, in bytes.
    pub content_offset: u64,
}

/// Where the content of a chunk labelled so starts, in bytes: the same for every SHA-256.
pub fn content_offset(label: &ChunkLabel) -> u64 {
    offset_behind(header(&label.described([0; 32])).encoded_len(), label.length)
}

fn offset_behind(header_bytes: usize, length: u64) -> u64 {
    ((PREFIX_BYTES + header_bytes + 4 * frame_count(length)) as u64).next_multiple_of(ALIGNMENT)
}

fn header(description: &ChunkDescription) -> ChunkFileHeader {
    ChunkFileHeader {
        chunk: Bytes::copy_from_slice(&description.chunk.to_bytes()),
        ino: description.ino.0,
        file_offset: description.file_offset,
        length: description.length,
        epoch: description.epoch.0,
        sha256: Bytes::copy_from_slice(&description.sha256),
        codec: 0,
        key_id: 0,
        frame_bytes: FRAME_BYTES as u32,
    }
}

/// Encodes everything before the content, padding included.
///
/// `frames` has one checksum per frame of the described content.
pub fn encode_prologue(description: &ChunkDescription, frames: &[u32]) -> Vec<u8> {
    assert_eq!(
        frames.len(),
        frame_count(description.length),
        "one checksum per frame"
    );
    let header = header(description).encode_to_vec();
    let size = offset_behind(header.len(), description.length) as usize;
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    let crc = frame_crc_append(frame_crc(&bytes), &header);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&header);
    for frame in frames {
        bytes.extend_from_slice(&frame.to_le_bytes());
    }
    bytes.resize(size, 0);
    bytes
}

fn corrupt(why: impl std::fmt::Display) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!("the chunk file is damaged: {why}; ask another replica"),
    )
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads and checks the prologue of the file of `chunk`, and that the file is as long as it must be.
///
/// # Errors
/// `Corrupt` (damaged, truncated, or the file of another chunk), `UnknownVersion` (written by a newer program), `Io`.
pub fn read_prologue(file: &File, chunk: ChunkId) -> FsResult<Prologue> {
    let size = file.metadata()?.len();
    // One page has the whole prologue of all but the largest chunks.
    let mut bytes = vec![0; size.min(ALIGNMENT) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let header_bytes = header_length(&bytes)?;
    let description = decode_header(&bytes, header_bytes, chunk)?;
    let table = PREFIX_BYTES + header_bytes;
    let table_end = table + 4 * frame_count(description.length);
    let content_offset = offset_behind(header_bytes, description.length);
    if size != content_offset + description.length {
        return Err(corrupt(format_args!(
            "it has {size} bytes instead of {}",
            content_offset + description.length
        )));
    }
    if bytes.len() < table_end {
        let read = bytes.len();
        bytes.resize(table_end, 0);
        file.read_exact_at(&mut bytes[read..], read as u64)?;
    }
    Ok(Prologue {
        description,
        frames: bytes[table..table_end]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|crc| u32::from_le_bytes(*crc))
            .collect(),
        content_offset,
    })
}

/// Length of the protobuf header, which lies wholly within `bytes`.
fn header_length(bytes: &[u8]) -> FsResult<usize> {
    if bytes.len() < PREFIX_BYTES || bytes[..8] != *MAGIC {
        return Err(corrupt("it does not start as a chunk file does"));
    }
    let header_bytes = word(bytes, 12) as usize;
    let end = PREFIX_BYTES + header_bytes.min(HEADER_BYTES_MAX);
    if header_bytes > HEADER_BYTES_MAX || bytes.len() < end {
        return Err(corrupt("its header is cut off"));
    }
    Ok(header_bytes)
}

fn decode_header(bytes: &[u8], header_bytes: usize, chunk: ChunkId) -> FsResult<ChunkDescription> {
    let encoded = &bytes[PREFIX_BYTES..PREFIX_BYTES + header_bytes];
    if frame_crc_append(frame_crc(&bytes[..16]), encoded) != word(bytes, 16) {
        return Err(corrupt("the checksum of its header does not match"));
    }
    let version = word(bytes, 8);
    let unknown = |what: &str, value: u32| {
        FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "a chunk file has {what} {value}, which this program does not know: use the program that wrote it"
            ),
        )
    };
    if version != FORMAT_VERSION {
        return Err(unknown("format version", version));
    }
    let header = ChunkFileHeader::decode(encoded).map_err(corrupt)?;
    if header.codec != 0 {
        return Err(unknown("codec", header.codec));
    }
    if header.key_id != 0 {
        return Err(unknown("encryption key", header.key_id));
    }
    if header.frame_bytes as usize != FRAME_BYTES {
        return Err(unknown("frame size", header.frame_bytes));
    }
    let found = ChunkId::from_slice(&header.chunk).ok_or_else(|| corrupt("its chunk id is malformed"))?;
    if found != chunk {
        return Err(corrupt(format_args!("it is the file of chunk {found}")));
    }
    if header.length == 0 || header.length > CHUNK_BYTES_MAX || header.file_offset > FILE_BYTES_MAX {
        return Err(corrupt("its header has impossible lengths"));
    }
    Ok(ChunkDescription {
        chunk,
        ino: Ino(header.ino),
        file_offset: header.file_offset,
        length: header.length,
        epoch: SessionEpoch(header.epoch),
        sha256: header.sha256[..]
            .try_into()
            .map_err(|_| corrupt("its SHA-256 is malformed"))?,
    })
}

#[cfg(test)]
mod tests;
