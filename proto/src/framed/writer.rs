//! The sending half of a connection, shared by everybody who has something to send.
//!
//! A frame is written to the socket by the task that has it, at once and without a hop to another task; only what the socket
//! does not take is left to the connection's flusher. Invariant: frames go out whole and one after the other.

use super::frame::{Frame, HEADER_BYTES};
use crate::socket::Socket;
use bytes::{Buf, BytesMut};
use dfs_common::limits::MESSAGE_BYTES_MAX;
use dfs_common::{ErrorKind, FsError, FsResult};
use parking_lot::Mutex;
use std::io::{ErrorKind as IoErrorKind, IoSlice};
use tokio::sync::Notify;

/// While so much waits for a peer, no further request of it is begun.
const BACKLOG_BYTES_PAUSE: usize = MESSAGE_BYTES_MAX;
/// What may wait for a peer that does not read, from requests begun before; above it the connection is given up.
const BACKLOG_BYTES_MAX: usize = 16 * MESSAGE_BYTES_MAX;

/// Writes frames to a connection.
pub(super) struct FrameWriter {
    socket: Socket,
    backlog: Mutex<BytesMut>,
    more: Notify,
    less: Notify,
}

impl FrameWriter {
    pub(super) fn new(socket: Socket) -> Self {
        FrameWriter {
            socket,
            backlog: Mutex::default(),
            more: Notify::new(),
            less: Notify::new(),
        }
    }

    /// The socket, for the reading half.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends a frame, or leaves it to [`FrameWriter::flush`]. Does not wait.
    ///
    /// # Errors
    /// `TooBig` (nothing was sent), or `Unavailable`: the connection is broken, whether the frame was sent is unknown.
    pub(super) fn send(&self, frame: &Frame) -> FsResult<()> {
        let header = frame.header()?;
        let mut backlog = self.backlog.lock();
        let sent = if backlog.is_empty() {
            self.write_now(&header, &frame.payload)?
        } else {
            0
        };
        let total = HEADER_BYTES + frame.payload.len();
        if sent == total {
            return Ok(());
        }
        if backlog.len() + total > BACKLOG_BYTES_MAX {
            return Err(FsError::new(
                ErrorKind::Unavailable,
                "the peer does not read its connection",
            ));
        }
        backlog.extend_from_slice(&header[sent.min(HEADER_BYTES)..]);
        backlog.extend_from_slice(&frame.payload[sent.saturating_sub(HEADER_BYTES)..]);
        drop(backlog);
        self.more.notify_one();
        Ok(())
    }

    /// Returns when the peer has read enough of what was sent for something more. Cancel-safe; one caller at a time.
    pub(super) async fn room(&self) {
        while self.backlog.lock().len() >= BACKLOG_BYTES_PAUSE {
            self.less.notified().await;
        }
    }

    /// Bytes of the frame that the socket took.
    fn write_now(&self, header: &[u8; HEADER_BYTES], payload: &[u8]) -> FsResult<usize> {
        match self
            .socket
            .try_write_vectored(&[IoSlice::new(header), IoSlice::new(payload)])
        {
            Ok(sent) => Ok(sent),
            Err(error) if error.kind() == IoErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Sends what the socket did not take at once; runs as long as the connection does.
    ///
    /// # Errors
    /// `Unavailable` when the connection is broken. Cancel-safe.
    pub(super) async fn flush(&self) -> FsResult<()> {
        loop {
            self.more.notified().await;
            loop {
                self.socket.writable().await.map_err(|error| broken(&error))?;
                let mut backlog = self.backlog.lock();
                match self.socket.try_write(&backlog) {
                    Ok(sent) => backlog.advance(sent),
                    Err(error) if error.kind() == IoErrorKind::WouldBlock => {}
                    Err(error) => return Err(broken(&error)),
                }
                if backlog.len() < BACKLOG_BYTES_PAUSE {
                    self.less.notify_one();
                }
                if backlog.is_empty() {
                    // A burst's memory is not kept.
                    *backlog = BytesMut::new();
                    break;
                }
            }
        }
    }
}

/// The error of a connection that cannot be used any more.
pub(super) fn broken(error: &std::io::Error) -> FsError {
    FsError::new(ErrorKind::Unavailable, format!("the connection broke ({error})"))
}
