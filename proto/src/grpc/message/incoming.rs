//! The receiving half: messages from HTTP/2 frames, bounded, as they come.

use super::PREFIX_BYTES;
use crate::convert::invalid;
use crate::status::from_status;
use bytes::{Buf, Bytes, BytesMut};
use dfs_common::limits::MESSAGE_BYTES_MAX;
use dfs_common::{ErrorKind, FsError, FsResult};
use http_body::Body as _;
use prost::Message;
use std::collections::VecDeque;
use std::pin::Pin;
use tonic::body::Body;
use tonic::codegen::http::header::HeaderMap;
use tonic::{Code, Status};

/// Received bytes in the pieces that they came in.
#[derive(Default)]
pub(in crate::grpc) struct Segments {
    parts: VecDeque<Bytes>,
    bytes: usize,
}

impl Segments {
    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.bytes += part.len();
            self.parts.push_back(part);
        }
    }

    /// Takes the first `bytes` away, without a copy.
    fn split_to(&mut self, bytes: usize) -> Segments {
        let mut first = Segments::default();
        while first.bytes < bytes {
            let missing = bytes - first.bytes;
            let mut part = self.parts.pop_front().expect("the caller asks for what is there");
            if part.len() > missing {
                self.parts.push_front(part.split_off(missing));
            }
            first.push(part);
        }
        self.bytes -= bytes;
        first
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| &part[..])
    }

    fn advance(&mut self, count: usize) {
        self.split_to(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let mut taken = self.split_to(count);
        if taken.parts.len() < 2 {
            return taken.parts.pop_front().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(count);
        taken.parts.iter().for_each(|part| joined.extend_from_slice(part));
        joined.freeze()
    }
}

/// The messages of a received body, one at a time. Holds at most one message and one HTTP/2 frame.
pub(in crate::grpc) struct Incoming {
    body: Body,
    received: Segments,
    /// Length of the message whose prefix was read.
    message: Option<usize>,
    trailers: Option<HeaderMap>,
}

impl Incoming {
    /// The messages of `body`.
    pub(in crate::grpc) fn new(body: Body) -> Self {
        Incoming {
            body,
            received: Segments::default(),
            message: None,
            trailers: None,
        }
    }

    /// The next message; `None` at the end of the body.
    ///
    /// # Errors
    /// `TooBig` for a message above the limit, `Unavailable` if the body or the connection broke off, `Invalid` if it is no gRPC.
    pub(in crate::grpc) async fn next<M: Message + Default>(&mut self) -> FsResult<Option<M>> {
        loop {
            if let Some(message) = self.complete()? {
                return M::decode(message)
                    .map(Some)
                    .map_err(|error| invalid(format!("a message is unreadable ({error})")));
            }
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.received.push(data),
                    Err(other) => self.trailers = other.into_trailers().ok(),
                },
                Some(Err(status)) => return Err(from_status(&status)),
                None if self.received.has_remaining() || self.message.is_some() => {
                    return Err(FsError::new(
                        ErrorKind::Unavailable,
                        "the peer ended in the middle of a message",
                    ));
                }
                None => return Ok(None),
            }
        }
    }

    /// A message whose last byte is here.
    fn complete(&mut self) -> FsResult<Option<Segments>> {
        if self.message.is_none() && self.received.remaining() >= PREFIX_BYTES {
            if self.received.get_u8() != 0 {
                return Err(invalid("a message is compressed: send it as it is"));
            }
            let bytes = self.received.get_u32() as usize;
            if bytes > MESSAGE_BYTES_MAX {
                return Err(FsError::new(
                    ErrorKind::TooBig,
                    format!("a message of {bytes} bytes is above the limit of {MESSAGE_BYTES_MAX}"),
                ));
            }
            self.message = Some(bytes);
        }
        match self.message {
            Some(bytes) if self.received.remaining() >= bytes => {
                self.message = None;
                Ok(Some(self.received.split_to(bytes)))
            }
            _ => Ok(None),
        }
    }

    /// The only message of the body.
    pub(in crate::grpc) async fn only<M: Message + Default>(&mut self) -> FsResult<M> {
        let message = self.next().await?;
        message.ok_or_else(|| invalid("a message is missing"))
    }

    /// After the end of a response: whether the server says that it is whole.
    ///
    /// # Errors
    /// The server's error; `Unavailable` if it said nothing.
    pub(in crate::grpc) fn outcome(&self) -> FsResult<()> {
        let status = self.trailers.as_ref().and_then(Status::from_header_map);
        match status {
            Some(status) if status.code() == Code::Ok => Ok(()),
            Some(status) => Err(from_status(&status)),
            None => Err(FsError::new(
                ErrorKind::Unavailable,
                "the server ended its answer without saying how it went",
            )),
        }
    }
}
