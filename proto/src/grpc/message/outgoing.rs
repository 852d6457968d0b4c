//! The sending half: messages as HTTP/2 asks for them.

use super::{GRPC, PREFIX_BYTES};
use crate::status::to_status;
use bytes::{BufMut, Bytes, BytesMut};
use dfs_common::FsResult;
use dfs_common::piece::Piece;
use futures::{Stream, StreamExt};
use http_body::Frame;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tonic::{Code, Status};

/// Content below this is copied behind its header, which costs less than a frame of its own.
const OWN_FRAME_BYTES_MIN: usize = 8 << 10;

/// A message ready to be sent: its start, and content that follows in a frame of its own.
pub(in crate::grpc) struct Encoded {
    start: Bytes,
    content: Bytes,
}

impl Encoded {
    /// Any message, whole.
    pub(in crate::grpc) fn message(message: &impl Message) -> Encoded {
        let bytes = message.encoded_len();
        let mut start = BytesMut::with_capacity(PREFIX_BYTES + bytes);
        put_prefix(&mut start, bytes);
        message.encode(&mut start).expect("a growing buffer has room");
        Encoded {
            start: start.freeze(),
            content: Bytes::new(),
        }
    }

    /// A message whose only field is a piece under the number `field`.
    pub(in crate::grpc) fn piece(field: u32, piece: Piece) -> Encoded {
        let checksums = 4 * piece.checksums().len();
        // The checksums first, so that the content ends the message.
        let body = 5
            + 1
            + encoded_len_varint(checksums as u64)
            + checksums
            + 1
            + encoded_len_varint(piece.len() as u64)
            + piece.len();
        let bytes = 1 + encoded_len_varint(body as u64) + body;
        let alone = piece.len() >= OWN_FRAME_BYTES_MIN;
        let mut start = BytesMut::with_capacity(PREFIX_BYTES + bytes - if alone { piece.len() } else { 0 });
        put_prefix(&mut start, bytes);
        encode_key(field, WireType::LengthDelimited, &mut start);
        encode_varint(body as u64, &mut start);
        encode_key(2, WireType::ThirtyTwoBit, &mut start);
        start.put_u32_le(piece.checksum());
        encode_key(3, WireType::LengthDelimited, &mut start);
        encode_varint(checksums as u64, &mut start);
        piece
            .checksums()
            .iter()
            .for_each(|checksum| start.put_u32_le(*checksum));
        encode_key(1, WireType::LengthDelimited, &mut start);
        encode_varint(piece.len() as u64, &mut start);
        let content = piece.into_content();
        if alone {
            return Encoded {
                start: start.freeze(),
                content,
            };
        }
        start.put_slice(&content);
        Encoded {
            start: start.freeze(),
            content: Bytes::new(),
        }
    }
}

fn put_prefix(buffer: &mut BytesMut, bytes: usize) {
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(bytes).expect("messages are far smaller than 4 GiB"));
}

/// A body that sends the messages of a stream as HTTP/2 asks for them; nothing is buffered but the message in hand.
pub(in crate::grpc) struct Outgoing<S> {
    messages: S,
    content: Bytes,
    /// A server ends with trailers that hold the status.
    trailers: bool,
    ended: bool,
}

impl<S: Stream<Item = FsResult<Encoded>> + Send + Unpin + 'static> Outgoing<S> {
    /// The body of a request. `messages` yields no error: a request has no way to say it.
    pub(in crate::grpc) fn request(messages: S) -> Body {
        Self::body(messages, false)
    }

    /// The body of a response, ended by the first error of `messages`.
    pub(in crate::grpc) fn response(messages: S) -> Body {
        Self::body(messages, true)
    }

    fn body(messages: S, trailers: bool) -> Body {
        Body::new(Outgoing {
            messages,
            content: Bytes::new(),
            trailers,
            ended: false,
        })
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    // It fails only for text that is no header value, and gRPC's text is encoded.
    let _ = status.add_header(&mut headers);
    headers
}

impl<S: Stream<Item = FsResult<Encoded>> + Unpin> http_body::Body for Outgoing<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if !this.content.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.content)))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let status = match std::task::ready!(this.messages.poll_next_unpin(cx)) {
            Some(Ok(message)) => {
                this.content = message.content;
                return Poll::Ready(Some(Ok(Frame::data(message.start))));
            }
            Some(Err(error)) => to_status(&error),
            None => Status::new(Code::Ok, ""),
        };
        this.ended = true;
        Poll::Ready(this.trailers.then(|| Ok(Frame::trailers(trailers(&status)))))
    }
}

/// A response with the messages of a stream.
pub(in crate::grpc) fn respond<S>(messages: S) -> Response<Body>
where
    S: Stream<Item = FsResult<Encoded>> + Send + Unpin + 'static,
{
    let mut response = Response::new(Outgoing::response(messages));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}
