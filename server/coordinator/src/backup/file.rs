//! The backup file, version 1: magic and version, then frames: a header, blocks of records in key order, a footer.
//!
//! A frame is its payload's length, a CRC-32C over kind, number of the frame and payload, the kind, the payload. The footer has the
//! number of records and the SHA-256 of everything before it, and nothing follows. Integers are little-endian. Written and read in
//! bounded memory. Invariant: [`BackupReader`] has given every record of a whole, undamaged file when it answers `None`, and nothing
//! of a file is trusted before its checksum was compared.

use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};
use dfs_proto::v1;
use prost::Message;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

/// Begins every backup.
const MAGIC: &[u8; 8] = b"DFSMETA\0";
/// The version that is written, and the only one that is read.
pub const FORMAT_VERSION: u32 = 1;
/// A block is written when it has this much.
const BLOCK_BYTES: usize = 256 << 10;
/// Largest payload that is read: a block and its last record.
const PAYLOAD_BYTES_MAX: u32 = 2 << 20;

const HEADER: u8 = 1;
const BLOCK: u8 = 2;
const FOOTER: u8 = 3;

/// A record of the store.
pub type Record = (Bytes, Bytes);

fn frame_crc(kind: u8, number: u64, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&[kind]);
    let crc = crc32c::crc32c_append(crc, &number.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// Writes a backup.
pub struct BackupWriter<W> {
    to: W,
    hash: Sha256,
    frames: u64,
    records: u64,
    block: v1::BackupBlock,
    block_bytes: usize,
}

impl<W: Write> BackupWriter<W> {
    /// Begins a backup with its header.
    pub fn new(to: W, header: &v1::BackupHeader) -> io::Result<Self> {
        let mut writer = BackupWriter {
            to,
            hash: Sha256::new(),
            frames: 0,
            records: 0,
            block: v1::BackupBlock::default(),
            block_bytes: 0,
        };
        writer.put(MAGIC)?;
        writer.put(&FORMAT_VERSION.to_le_bytes())?;
        writer.frame(HEADER, &header.encode_to_vec())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|length| *length <= PAYLOAD_BYTES_MAX);
        let length =
            length.ok_or_else(|| io::Error::other("a record of the store is too large for a backup"))?;
        self.put(&length.to_le_bytes())?;
        self.put(&frame_crc(kind, self.frames, payload).to_le_bytes())?;
        self.put(&[kind])?;
        self.put(payload)?;
        self.frames += 1;
        Ok(())
    }

    /// Adds a record; keys ascend.
    pub fn push(&mut self, key: Bytes, value: Bytes) -> io::Result<()> {
        self.block_bytes += key.len() + value.len();
        self.block.records.push(v1::BackupRecord { key, value });
        self.records += 1;
        if self.block_bytes >= BLOCK_BYTES {
            self.flush_block()?;
        }
        Ok(())
    }

    fn flush_block(&mut self) -> io::Result<()> {
        self.block_bytes = 0;
        let block = std::mem::take(&mut self.block);
        self.frame(BLOCK, &block.encode_to_vec())
    }

    /// Ends the backup; answers the number of records. Flushed, not synced.
    pub fn finish(mut self) -> io::Result<u64> {
        if !self.block.records.is_empty() {
            self.flush_block()?;
        }
        let footer = v1::BackupFooter {
            records: self.records,
            sha256: Bytes::copy_from_slice(&self.hash.clone().finalize()),
        };
        self.frame(FOOTER, &footer.encode_to_vec())?;
        self.to.flush()?;
        Ok(self.records)
    }
}

/// Reads a backup.
pub struct BackupReader<R> {
    from: R,
    /// What it is, for errors.
    name: String,
    hash: Sha256,
    frames: u64,
    records: u64,
    last: Bytes,
    ended: bool,
    header: v1::BackupHeader,
}

impl<R: Read> BackupReader<R> {
    /// Begins to read the backup `name`.
    ///
    /// # Errors
    /// `Invalid` if it is no backup, `UnknownVersion`, `Corrupt` (damaged, ends too early), `Io`.
    pub fn new(from: R, name: String) -> FsResult<Self> {
        let mut reader = BackupReader {
            from,
            name,
            hash: Sha256::new(),
            frames: 0,
            records: 0,
            last: Bytes::new(),
            ended: false,
            header: v1::BackupHeader::default(),
        };
        let mut start = [0; 12];
        let foreign = |reader: &Self| {
            FsError::new(
                ErrorKind::Invalid,
                format!("{} is not a backup of DFS metadata", reader.name),
            )
        };
        match reader.take(&mut start) {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Err(foreign(&reader)),
            taken => taken?,
        }
        if start[..8] != MAGIC[..] {
            return Err(foreign(&reader));
        }
        let version = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
        if version != FORMAT_VERSION {
            return Err(FsError::new(
                ErrorKind::UnknownVersion,
                format!(
                    "{} is a backup of format {version}, this program knows {FORMAT_VERSION}: use the release that wrote it, or a newer one",
                    reader.name
                ),
            ));
        }
        let (kind, payload) = reader.frame()?;
        if kind != HEADER {
            return Err(reader.damaged("its header is missing"));
        }
        reader.header =
            v1::BackupHeader::decode(payload).map_err(|_| reader.damaged("its header cannot be read"))?;
        Ok(reader)
    }

    /// What the backup says of itself.
    pub fn header(&self) -> &v1::BackupHeader {
        &self.header
    }

    /// Records that were read.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn damaged(&self, why: &str) -> FsError {
        FsError::new(
            ErrorKind::Corrupt,
            format!("the backup {} is damaged ({why}): use another one", self.name),
        )
    }

    fn take(&mut self, bytes: &mut [u8]) -> FsResult<()> {
        match self.from.read_exact(bytes) {
            Ok(()) => {
                self.hash.update(&*bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends too early"))
            }
            Err(error) => Err(FsError::from(error).context(format_args!("reading the backup {}", self.name))),
        }
    }

    fn frame(&mut self) -> FsResult<(u8, Bytes)> {
        let mut head = [0; 9];
        self.take(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > PAYLOAD_BYTES_MAX {
            return Err(self.damaged("a frame is too long"));
        }
        let mut payload = vec![0; length as usize];
        self.take(&mut payload)?;
        if frame_crc(head[8], self.frames, &payload) != crc {
            return Err(self.damaged("a checksum does not match"));
        }
        self.frames += 1;
        Ok((head[8], Bytes::from(payload)))
    }

    /// The next block of records, in key order; `None` after the last one of a whole backup.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn block(&mut self) -> FsResult<Option<Vec<Record>>> {
        if self.ended {
            return Ok(None);
        }
        let before: [u8; 32] = self.hash.clone().finalize().into();
        let (kind, payload) = self.frame()?;
        match kind {
            BLOCK => {
                let block =
                    v1::BackupBlock::decode(payload).map_err(|_| self.damaged("a block cannot be read"))?;
                let mut records = Vec::with_capacity(block.records.len());
                for record in block.records {
                    if record.key <= self.last {
                        return Err(self.damaged("its records are not in order"));
                    }
                    self.last = record.key.clone();
                    records.push((record.key, record.value));
                }
                self.records += records.len() as u64;
                Ok(Some(records))
            }
            FOOTER => {
                let footer =
                    v1::BackupFooter::decode(payload).map_err(|_| self.damaged("its end cannot be read"))?;
                if footer.records != self.records || footer.sha256[..] != before {
                    return Err(self.damaged("its end does not match what is before it"));
                }
                let mut more = [0];
                match self.from.read(&mut more) {
                    Ok(0) => {}
                    Ok(_) => return Err(self.damaged("something follows its end")),
                    Err(error) => return Err(FsError::from(error).context("reading the backup")),
                }
                self.ended = true;
                Ok(None)
            }
            _ => Err(self.damaged("a frame is of an unknown kind")),
        }
    }
}
