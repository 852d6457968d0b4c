//! CRC-32C (Castagnoli, RFC 3720 appendix B.4) per frame and SHA-256 per chunk.

use sha2::{Digest, Sha256};

/// CRC-32C of `bytes`.
pub fn frame_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC-32C of what `crc` is the checksum of, followed by `bytes`.
pub fn frame_crc_append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// SHA-256 of the concatenation of `pieces`.
pub fn content_sha256<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize().into()
}
