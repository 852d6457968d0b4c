//! One connection of the chunk service: frames and pieces, written and read by whoever has the transfer.

use crate::convert::{error_from_wire, error_to_wire, invalid};
use crate::framed::frame::{Frame, FrameKind, HEADER_BYTES, Header, Service, preface};
use crate::framed::writer::broken;
use crate::socket::Socket;
use crate::v1;
use bytes::Bytes;
use dfs_common::buffer::Buffers;
use dfs_common::limits::{FRAME_BYTES, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message;
use std::io::{self, ErrorKind as IoErrorKind, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::time::Duration;

/// Checksums before the content of a piece: one per frame.
const CHECKSUM_BYTES: usize = 4;
/// Checksums of the largest piece.
const CHECKSUMS_BYTES_MAX: usize = CHECKSUM_BYTES * (WIRE_FRAME_BYTES / FRAME_BYTES);
/// Largest message beside pieces: heads and receipts are far smaller.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Content from this size on is received into a buffer of the pool, which occupies a whole piece; less gets memory of its size.
const POOLED_BYTES_MIN: usize = WIRE_FRAME_BYTES / 8 * 7;
/// Buffers that are kept when nobody uses them: 4 MiB.
pub(super) const BUFFERS_KEPT: usize = 16;

/// How often it is looked whether a peer that waits for its reply is still there.
const ABANDONED_POLL: Duration = Duration::from_secs(1);

/// What arrives.
#[derive(Debug)]
pub(super) enum Received {
    /// Content whose checksums agree.
    Data(Piece),
    /// Anything else but an error.
    Message {
        kind: FrameKind,
        method: u16,
        payload: Bytes,
    },
    /// The peer's error. The connection is as good as before.
    Failure(FsError),
}

/// A connection. One task sends and one receives at a time.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
}

/// Length of the content in a payload of checksums and content.
fn content_bytes(payload: usize) -> FsResult<usize> {
    let frames = payload.div_ceil(FRAME_BYTES + CHECKSUM_BYTES);
    let content = payload.saturating_sub(frames * CHECKSUM_BYTES);
    if (1..=WIRE_FRAME_BYTES).contains(&content) && content.div_ceil(FRAME_BYTES) == frames {
        return Ok(content);
    }
    Err(invalid(format!(
        "no piece of a chunk has {payload} bytes on the wire"
    )))
}

impl Connection {
    /// A connection on which nothing was said yet.
    pub(super) fn new(socket: Socket) -> Self {
        Connection { socket }
    }

    /// Says what this side speaks.
    pub(super) async fn greet(&self) -> FsResult<()> {
        self.write(&preface(Service::Chunks), &[]).await
    }

    /// Receives what the other side speaks.
    ///
    /// # Errors
    /// `UnknownVersion` if it is something else, `Unavailable` if the connection ends before.
    pub(super) async fn greeted(&self) -> FsResult<()> {
        let expected = preface(Service::Chunks);
        let mut preface = [0; 8];
        for at in 0..preface.len() {
            // One by one: a stranger may send less, and then wait.
            self.read(&mut preface[at..=at], &mut []).await?;
            if preface[at] != expected[at] {
                return Err(FsError::new(
                    ErrorKind::UnknownVersion,
                    "the peer does not speak this version of the framed protocol for chunks: run the same release on both sides",
                ));
            }
        }
        Ok(())
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `Unavailable` if the connection is broken. It is of no use, too, if this is cancelled.
    pub(super) async fn send(&self, kind: FrameKind, method: u16, payload: Bytes) -> FsResult<()> {
        let frame = Frame {
            call: 0,
            method,
            kind,
            payload,
        };
        self.write(&frame.header()?, &frame.payload).await
    }

    /// Sends an error; otherwise as [`Connection::send`].
    pub(super) async fn send_error(&self, error: &FsError) -> FsResult<()> {
        let payload = error_to_wire(error).encode_to_vec();
        self.send(FrameKind::Error, 0, payload.into()).await
    }

    /// Sends a piece; otherwise as [`Connection::send`].
    pub(super) async fn send_piece(&self, piece: &Piece) -> FsResult<()> {
        let checksums = piece.checksums();
        let header = Header {
            call: 0,
            method: 0,
            kind: FrameKind::Data,
            payload: checksums.len() * CHECKSUM_BYTES + piece.len(),
        };
        let mut start = [0; HEADER_BYTES + CHECKSUMS_BYTES_MAX];
        let mut filled = HEADER_BYTES;
        start[..filled].copy_from_slice(&header.encode());
        for checksum in checksums {
            start[filled..filled + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
            filled += CHECKSUM_BYTES;
        }
        self.write(&start[..filled], piece.content()).await
    }

    /// Receives the next message or piece. The connection is of no use if this is cancelled.
    ///
    /// # Errors
    /// `Unavailable` if the connection ends, `Invalid` if something else than frames arrives, `Corrupt` for content that does not have its
    /// checksums. The connection is of no use afterwards.
    pub(super) async fn next(&self, buffers: &Buffers) -> FsResult<Received> {
        let header = self.header().await?;
        match header.kind {
            FrameKind::Data => self.piece(header.payload, buffers).await.map(Received::Data),
            _ => self.message(header).await,
        }
    }

    /// Receives a request: its method and its message. Anything else is refused before its payload is read.
    ///
    /// # Errors
    /// As [`Connection::next`].
    pub(super) async fn request(&self) -> FsResult<(u16, Bytes)> {
        let header = self.header().await?;
        if header.kind == FrameKind::Request
            && let Received::Message { method, payload, .. } = self.message(header).await?
        {
            return Ok((method, payload));
        }
        Err(invalid("a client begins with a request"))
    }

    async fn header(&self) -> FsResult<Header> {
        let mut header = [0; HEADER_BYTES];
        self.read(&mut header, &mut []).await?;
        Header::decode(&header)
    }

    async fn message(&self, header: Header) -> FsResult<Received> {
        if header.payload > CONTROL_BYTES_MAX {
            return Err(invalid(format!(
                "a message of {} bytes is above the limit of {CONTROL_BYTES_MAX}",
                header.payload
            )));
        }
        let mut payload = vec![0; header.payload];
        self.read(&mut payload, &mut []).await?;
        let payload = Bytes::from(payload);
        match header.kind {
            FrameKind::Error => match v1::Error::decode(payload) {
                Ok(error) => Ok(Received::Failure(error_from_wire(error))),
                Err(_) => Err(invalid("an error of the peer is unreadable")),
            },
            kind => Ok(Received::Message {
                kind,
                method: header.method,
                payload,
            }),
        }
    }

    async fn piece(&self, payload: usize, buffers: &Buffers) -> FsResult<Piece> {
        let length = content_bytes(payload)?;
        let mut checksums = [0; CHECKSUMS_BYTES_MAX];
        let checksums = &mut checksums[..payload - length];
        let content = if length >= POOLED_BYTES_MIN {
            let mut buffer = buffers.take(length);
            self.read(checksums, buffer.bytes_mut()).await?;
            buffer.freeze()
        } else {
            let mut content = vec![0; length];
            self.read(checksums, &mut content).await?;
            Bytes::from(content)
        };
        let (checksums, _) = checksums.as_chunks::<CHECKSUM_BYTES>();
        let mut numbers = [0; WIRE_FRAME_BYTES / FRAME_BYTES];
        for (number, bytes) in numbers.iter_mut().zip(checksums) {
            *number = u32::from_le_bytes(*bytes);
        }
        Piece::verified(content, &numbers[..checksums.len()])
    }

    /// Whether it can be used for another transfer: nothing arrived behind the last one, its end included.
    pub(super) fn is_quiet(&self) -> bool {
        let nothing = self.socket.try_read_vectored(&mut [IoSliceMut::new(&mut [0])]);
        matches!(nothing, Err(error) if error.kind() == IoErrorKind::WouldBlock)
    }

    /// Resolves within a second of the news that the peer closed its end, whatever it sent before is still unread.
    pub(super) async fn abandoned(&self) {
        loop {
            tokio::time::sleep(ABANDONED_POLL).await;
            let mut socket = [PollFd::new(
                self.socket.as_fd(),
                PollFlags::from_bits_retain(libc::POLLRDHUP),
            )];
            // Failing, it says nothing; the transfer's own deadlines hold.
            if matches!(poll(&mut socket, PollTimeout::ZERO), Ok(1)) {
                return;
            }
        }
    }

    /// Reads and forgets until the peer closes: what it still had to send must not cost it what it was sent.
    pub(super) async fn linger(mut self) -> FsResult<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        self.socket.shutdown().await.map_err(|error| broken(&error))?;
        let mut rest = vec![0; FRAME_BYTES];
        while self
            .socket
            .read(&mut rest)
            .await
            .map_err(|error| broken(&error))?
            > 0
        {}
        Ok(())
    }

    /// Writes both, one behind the other.
    async fn write(&self, mut first: &[u8], mut second: &[u8]) -> FsResult<()> {
        while !(first.is_empty() && second.is_empty()) {
            let written = match first.is_empty() {
                true => self.socket.try_write(second),
                false => self
                    .socket
                    .try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)]),
            };
            match written {
                Ok(sent) => {
                    let of_first = sent.min(first.len());
                    first = &first[of_first..];
                    second = &second[sent - of_first..];
                }
                Err(error) if error.kind() == IoErrorKind::WouldBlock => {
                    self.socket.writable().await.map_err(|error| broken(&error))?;
                }
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    /// Fills both, one behind the other.
    async fn read(&self, mut first: &mut [u8], mut second: &mut [u8]) -> FsResult<()> {
        while !(first.is_empty() && second.is_empty()) {
            match self
                .socket
                .try_read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])
            {
                Ok(0) => return Err(broken(&io::ErrorKind::UnexpectedEof.into())),
                Ok(received) => {
                    let of_first = received.min(first.len());
                    first = &mut first[of_first..];
                    second = &mut second[received - of_first..];
                }
                Err(error) if error.kind() == IoErrorKind::WouldBlock => {
                    self.socket.readable().await.map_err(|error| broken(&error))?;
                }
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_payload_tells_that_of_its_content() {
        for content in [
            1,
            65_535,
            FRAME_BYTES,
            FRAME_BYTES + 1,
            3 * FRAME_BYTES,
            WIRE_FRAME_BYTES,
        ] {
            let payload = content + CHECKSUM_BYTES * content.div_ceil(FRAME_BYTES);
            assert_eq!(content_bytes(payload).unwrap(), content);
        }
        for payload in [
            0,
            1,
            4,
            FRAME_BYTES + 5,
            FRAME_BYTES + 8,
            WIRE_FRAME_BYTES + 17,
            WIRE_FRAME_BYTES + 21,
            usize::MAX / 2,
        ] {
            let error = content_bytes(payload).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{payload}");
        }
    }
}
