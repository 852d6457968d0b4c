//! CRC-32C (Castagnoli, RFC 3720 appendix B.4) per frame and SHA-256 per chunk.

use crate::limits::FRAME_BYTES;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// CRC-32C of `bytes`.
pub fn frame_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC-32C of what `crc` is the checksum of, followed by `bytes`.
pub fn frame_crc_append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// CRC-32C of `length` bytes from those of their frames, the last of which may be short; 0 for no frames.
pub fn frames_crc(checksums: &[u32], length: usize) -> u32 {
    let Some((last, whole)) = checksums.split_last() else {
        return 0;
    };
    let before = whole.iter().fold(0, |crc, frame| behind_a_frame(crc) ^ frame);
    match length - whole.len() * FRAME_BYTES {
        FRAME_BYTES => behind_a_frame(before) ^ last,
        // Twenty squarings of a matrix: slower than a pass over the frame, but only behind the last one of a chunk.
        _ if whole.is_empty() => *last,
        short => crc32c::crc32c_combine(before, *last, short),
    }
}

/// What the CRC-32C `crc` becomes when a frame of zeros is appended, apart from the frame's own part: a linear map, applied from a
/// table of what becomes of each bit.
fn behind_a_frame(crc: u32) -> u32 {
    static BITS: LazyLock<[u32; 32]> =
        LazyLock::new(|| std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, FRAME_BYTES)));
    let bits = (0..32).filter(|bit| crc >> bit & 1 == 1);
    bits.fold(0, |sum, bit| sum ^ BITS[bit])
}

/// SHA-256 of the concatenation of `pieces`.
pub fn content_sha256<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize().into()
}
