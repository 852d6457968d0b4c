//! The format of a chunk file against damage.

use super::*;
use dfs_common::checksum::content_sha256;
use std::io::Write;

fn description(length: u64) -> ChunkDescription {
    ChunkDescription {
        chunk: ChunkId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        ino: Ino(77),
        file_offset: 1 << 40,
        length,
        epoch: SessionEpoch(3),
        sha256: [0xab; 32],
    }
}

fn write(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A file for `length` bytes of content, all of them `x`.
fn chunk_file(length: usize) -> (ChunkDescription, Vec<u8>) {
    let content = vec![b'x'; length];
    let mut described = description(length as u64);
    described.sha256 = content_sha256([&content[..]]);
    let frames: Vec<u32> = content.chunks(FRAME_BYTES).map(frame_crc).collect();
    let mut bytes = encode_prologue(&described, &frames);
    bytes.extend_from_slice(&content);
    (described, bytes)
}

#[test]
fn prologue_round_trips_at_every_size() {
    for length in [
        1,
        4095,
        FRAME_BYTES,
        FRAME_BYTES + 1,
        8 << 20,
        CHUNK_BYTES_MAX as usize,
    ] {
        let described = description(length as u64);
        let frames: Vec<u32> = (0..frame_count(length as u64) as u32).collect();
        let bytes = encode_prologue(&described, &frames);
        assert_eq!(bytes.len() as u64, content_offset(&described.label()));
        assert_eq!(bytes.len() as u64 % ALIGNMENT, 0);
        let file = write(&bytes);
        file.set_len(bytes.len() as u64 + length as u64).unwrap();
        let read = read_prologue(&file, described.chunk).unwrap();
        assert_eq!((read.description, read.frames), (described, frames));
    }
}

#[test]
fn every_flipped_bit_of_prefix_and_header_is_noticed() {
    let (described, bytes) = chunk_file(100);
    let table = content_offset(&described.label()) as usize;
    let header_end = PREFIX_BYTES + word(&bytes, 12) as usize;
    assert!(header_end < table);
    for at in 0..header_end {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let error = read_prologue(&write(&damaged), described.chunk).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at} bit {bit}: {error}");
        }
    }
}

#[test]
fn every_length_but_the_right_one_is_noticed() {
    let (described, bytes) = chunk_file(100);
    read_prologue(&write(&bytes), described.chunk).unwrap();
    for length in (0..bytes.len())
        .step_by(13)
        .chain([bytes.len() - 1, bytes.len() + 1])
    {
        let mut cut = bytes.clone();
        cut.resize(length, 0);
        let error = read_prologue(&write(&cut), described.chunk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length} bytes: {error}");
    }
}

#[test]
fn file_of_another_chunk_and_newer_versions_are_refused_by_name() {
    let (described, bytes) = chunk_file(100);
    let error = read_prologue(&write(&bytes), ChunkId(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains(&described.chunk.to_string()), "{error}");

    // A whole file of version 2, with a good checksum.
    let mut newer = bytes;
    newer[8] = 2;
    let header_end = PREFIX_BYTES + word(&newer, 12) as usize;
    let crc = frame_crc_append(frame_crc(&newer[..16]), &newer[PREFIX_BYTES..header_end]);
    newer[16..20].copy_from_slice(&crc.to_le_bytes());
    let error = read_prologue(&write(&newer), described.chunk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownVersion, "{error}");
}
