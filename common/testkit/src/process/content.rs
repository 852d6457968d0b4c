//! File content that can be made again from a number, and digests of files.
//!
//! Invariant: two contents of different seeds differ in every 8 bytes, so that a mix of two versions is seen.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const PIECE: usize = 1 << 20;

/// The content of a file: `length` bytes that follow from `seed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which content.
    pub seed: u64,
    /// Its length in bytes.
    pub length: usize,
}

impl Content {
    /// The content of this seed and length.
    pub fn new(seed: u64, length: usize) -> Self {
        Content { seed, length }
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length + 8);
        let mut state = mixed(self.seed);
        while bytes.len() < self.length {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            bytes.extend_from_slice(&(state ^ state.rotate_left(29)).to_le_bytes());
        }
        bytes.truncate(self.length);
        bytes
    }

    /// Writes it in pieces of `piece` bytes.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to(&self, writer: &mut impl Write, piece: usize) -> io::Result<()> {
        self.bytes()
            .chunks(piece.max(1))
            .try_for_each(|part| writer.write_all(part))
    }

    /// Whether `found` is exactly this.
    pub fn is(&self, found: &[u8]) -> bool {
        found.len() == self.length && found == self.bytes()
    }

    /// Whether `found` is how this begins.
    pub fn starts_with(&self, found: &[u8]) -> bool {
        found.len() <= self.length && self.bytes().starts_with(found)
    }
}

/// One round of splitmix64: neighbouring seeds give unrelated states.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// SHA-256 and length of everything that `reader` gives.
///
/// # Errors
/// Those of the reader.
pub fn digest(reader: &mut impl Read) -> io::Result<([u8; 32], u64)> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut length = 0;
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok((hash.finalize().into(), length)),
            count => {
                hash.update(&piece[..count]);
                length += count as u64;
            }
        }
    }
}

/// SHA-256 of a file in hexadecimal.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn digest_hex(path: &Path) -> String {
    let digest = File::open(path).and_then(|mut file| digest(&mut file));
    let (bytes, _) = digest.unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_repeat_and_differ() {
        let one = Content::new(1, 100_003).bytes();
        assert_eq!(one, Content::new(1, 100_003).bytes());
        let two = Content::new(2, 100_003).bytes();
        assert!(one.chunks(8).zip(two.chunks(8)).all(|(one, two)| one != two));
        assert!(Content::new(1, 100_003).starts_with(&one[..7]));
        assert!(!Content::new(1, 3).starts_with(&one[..4]));
        assert!(!Content::new(1, 100_003).is(&one[..100_002]));
    }
}
