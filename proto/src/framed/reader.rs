//! The receiving half of a connection.

use super::frame::{Frame, PREFACE_BYTES, Service, preface};
use super::writer::broken;
use crate::socket::Socket;
use bytes::BytesMut;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::io::ErrorKind as IoErrorKind;

/// Read at once if the sender has that much.
const READ_BYTES: usize = 64 << 10;

/// Cuts frames out of what a socket receives.
pub(super) struct FrameReader {
    buffer: BytesMut,
}

fn closed() -> FsError {
    FsError::new(ErrorKind::Unavailable, "the peer closed the connection")
}

impl FrameReader {
    /// A reader that has nothing yet.
    pub(super) fn new() -> Self {
        FrameReader {
            buffer: BytesMut::new(),
        }
    }

    /// Receives the peer's preface; answers which of these services it is for.
    ///
    /// # Errors
    /// `UnknownVersion` if it is another one, `Unavailable` if the connection ends before.
    pub(super) async fn preface(&mut self, socket: &Socket, services: &[Service]) -> FsResult<Service> {
        let begins = |buffer: &BytesMut| {
            services
                .iter()
                .any(|service| preface(*service).starts_with(buffer))
        };
        while self.buffer.len() < PREFACE_BYTES {
            match self.fill(socket).await {
                Ok(()) => {}
                Err(_) if !begins(&self.buffer) => break,
                Err(error) => return Err(error),
            }
        }
        let length = PREFACE_BYTES.min(self.buffer.len());
        let received = self.buffer.split_to(length);
        let service = services.iter().find(|service| preface(**service) == received[..]);
        service.copied().ok_or_else(|| {
            FsError::new(
                ErrorKind::UnknownVersion,
                "the peer does not speak this version of the framed protocol: run the same release on both sides",
            )
        })
    }

    /// Whether more has arrived than was taken.
    pub(super) fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` if the connection ends, `Invalid` if something else than frames arrives.
    pub(super) async fn next(&mut self, socket: &Socket) -> FsResult<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer)? {
                return Ok(frame);
            }
            self.fill(socket).await?;
        }
    }

    async fn fill(&mut self, socket: &Socket) -> FsResult<()> {
        loop {
            if self.buffer.capacity() - self.buffer.len() < 4096 {
                self.buffer.reserve(READ_BYTES);
            }
            match socket.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(closed()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == IoErrorKind::WouldBlock => {
                    socket.readable().await.map_err(|error| broken(&error))?;
                }
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}
