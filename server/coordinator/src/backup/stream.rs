//! A file on its way to a client: written on a blocking thread, sent in pieces, with its length and SHA-256 behind it.
//!
//! Whoever writes waits for whoever reads, so what is in memory is bounded by the queue between them.

use dfs_common::FsResult;
use dfs_proto::{status, v1};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use tokio::sync::mpsc;
use tonic::Status;
use v1::export_metadata_reply::Part;

/// Largest piece, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Sends messages of an export.
pub type Sender = mpsc::Sender<Result<v1::ExportMetadataReply, Status>>;

/// Gathers what is written into pieces and sends them. Only for threads that may block.
pub struct PieceWriter {
    to: Sender,
    piece: Vec<u8>,
    hash: Sha256,
    bytes: u64,
}

impl PieceWriter {
    /// Sends to `to`.
    pub fn new(to: Sender) -> Self {
        PieceWriter {
            to,
            piece: Vec::with_capacity(PIECE_BYTES),
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn send(&mut self, part: Part) -> io::Result<()> {
        let message = v1::ExportMetadataReply { part: Some(part) };
        self.to
            .blocking_send(Ok(message))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody waits for the file any more"))
    }

    fn send_piece(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.hash.update(&piece);
        self.bytes += piece.len() as u64;
        self.send(Part::Data(piece.into()))
    }

    /// Sends the end of the file, or the error in its place. Nobody may be waiting any more.
    pub fn end(mut self, outcome: FsResult<()>) {
        let sent = match outcome {
            Ok(()) => self.send_piece().and_then(|()| {
                let end = v1::ExportMetadataEnd {
                    bytes: self.bytes,
                    sha256: bytes::Bytes::copy_from_slice(&self.hash.clone().finalize()),
                };
                self.send(Part::End(end))
            }),
            Err(error) => self
                .to
                .blocking_send(Err(status::to_status(&error)))
                .map_err(|_| io::ErrorKind::BrokenPipe.into()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "an export ended early");
        }
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.send_piece()?;
        }
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
