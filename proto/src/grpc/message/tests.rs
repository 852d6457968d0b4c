//! The framing against prost and against bodies that were cut in every way.

use super::*;
use crate::convert::piece_from_wire;
use crate::v1;
use bytes::{Buf, Bytes, BytesMut};
use dfs_common::limits::{MESSAGE_BYTES_MAX, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::stream;
use http_body::{Body as _, Frame};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::http::header::HeaderMap;

/// A body of these frames.
struct Frames(VecDeque<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn body(parts: impl IntoIterator<Item = Bytes>) -> Body {
    Body::new(Frames(parts.into_iter().map(Frame::data).collect()))
}

/// What a body sends: its data frames and its trailers.
async fn sent(mut body: Body) -> (Vec<Bytes>, Option<HeaderMap>) {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.unwrap().into_data() {
            Ok(part) => data.push(part),
            Err(other) => trailers = other.into_trailers().ok(),
        }
    }
    (data, trailers)
}

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

fn pieces(
    sizes: &[usize],
) -> impl futures::Stream<Item = FsResult<Encoded>> + Send + Unpin + 'static + use<> {
    let pieces: Vec<_> = sizes
        .iter()
        .map(|size| Ok(Encoded::piece(1, Piece::new(content(*size)))))
        .collect();
    stream::iter(pieces)
}

async fn received(body: Body) -> FsResult<Vec<Bytes>> {
    let mut messages = Incoming::new(body);
    let mut pieces = Vec::new();
    while let Some(reply) = messages.next::<v1::ReadChunkReply>().await? {
        pieces.push(piece_from_wire(reply.piece.unwrap_or_default())?.into_content());
    }
    Ok(pieces)
}

const SIZES: [usize; 6] = [1, 100, 8191, 8192, 70_000, WIRE_FRAME_BYTES];

#[tokio::test]
async fn pieces_are_what_prost_would_write_and_read() {
    for size in SIZES {
        let (data, trailers) = sent(Outgoing::request(pieces(&[size]))).await;
        assert!(trailers.is_none(), "a request has no trailers");
        let whole: Bytes = data.concat().into();
        let mut message = whole.clone();
        assert_eq!(message.get_u8(), 0);
        assert_eq!(message.get_u32() as usize, message.remaining());
        let decoded = <v1::ReadChunkReply as prost::Message>::decode(message).unwrap();
        assert_eq!(
            piece_from_wire(decoded.piece.clone().unwrap()).unwrap(),
            Piece::new(content(size))
        );
        let (plain, _) = sent(Outgoing::request(stream::iter([Ok(Encoded::message(&decoded))]))).await;
        assert_eq!(
            plain.concat().len(),
            whole.len(),
            "the order of fields is all that differs"
        );
        assert_eq!(received(body(plain)).await.unwrap(), [content(size)]);
    }
}

#[tokio::test]
async fn large_content_is_neither_copied_when_sent_nor_when_received() {
    let content = content(WIRE_FRAME_BYTES);
    let message = stream::iter([Ok(Encoded::piece(1, Piece::new(content.clone())))]);
    let (data, _) = sent(Outgoing::request(message)).await;
    assert_eq!(data[1].as_ptr(), content.as_ptr());
    let pieces = received(body(data)).await.unwrap();
    assert_eq!(pieces[0].as_ptr(), content.as_ptr());
}

#[tokio::test]
async fn messages_are_whole_however_the_frames_are_cut() {
    let (data, _) = sent(Outgoing::request(pieces(&SIZES))).await;
    let whole: Bytes = data.concat().into();
    let expected: Vec<_> = SIZES.iter().map(|size| content(*size)).collect();
    for step in [1, 2, 3, 5, 7, 4096, 100_000, whole.len()] {
        let cut = (0..whole.len()).step_by(step);
        let parts = cut.map(|start| whole.slice(start..whole.len().min(start + step)));
        assert_eq!(
            received(body(parts)).await.unwrap(),
            expected,
            "frames of {step} bytes"
        );
    }
}

#[tokio::test]
async fn body_that_ends_within_a_message_is_an_error() {
    let (data, _) = sent(Outgoing::request(pieces(&[100]))).await;
    let whole: Bytes = data.concat().into();
    for length in 1..whole.len() {
        let error = received(body([whole.slice(..length)])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{length} bytes: {error}");
    }
    assert!(received(body([])).await.unwrap().is_empty());
}

#[tokio::test]
async fn hostile_prefixes_are_refused_before_anything_is_kept() {
    let prefix = |flag: u8, length: u32| {
        let mut prefix = BytesMut::new();
        prefix.extend_from_slice(&[flag]);
        prefix.extend_from_slice(&length.to_be_bytes());
        prefix.freeze()
    };
    let compressed = received(body([prefix(1, 3), content(3)])).await.unwrap_err();
    assert_eq!(compressed.kind(), ErrorKind::Invalid, "{compressed}");
    for length in [MESSAGE_BYTES_MAX as u32 + 1, u32::MAX] {
        let large = received(body([prefix(0, length), content(3)])).await.unwrap_err();
        assert_eq!(large.kind(), ErrorKind::TooBig, "{large}");
    }
    let garbage = received(body([prefix(0, 4), Bytes::from_static(&[0xff; 4])]))
        .await
        .unwrap_err();
    assert_eq!(garbage.kind(), ErrorKind::Invalid, "{garbage}");
    let field_beyond = received(body([prefix(0, 3), Bytes::from_static(&[0x0a, 0x7f, 0])]))
        .await
        .unwrap_err();
    assert_eq!(field_beyond.kind(), ErrorKind::Invalid, "{field_beyond}");
}

#[tokio::test]
async fn response_says_how_it_ended() {
    let failure = FsError::new(ErrorKind::NoSpace, "the disk is full — buy another");
    let failing = stream::iter([
        Ok(Encoded::piece(1, Piece::new(content(10)))),
        Err(failure.clone()),
    ]);
    for (response, outcome) in [(respond(pieces(&[10])), Ok(())), (respond(failing), Err(failure))] {
        let (data, trailers) = sent(response.into_body()).await;
        let frames = data.into_iter().map(Frame::data);
        let frames = frames.chain(trailers.map(Frame::trailers)).collect();
        let mut messages = Incoming::new(Body::new(Frames(frames)));
        assert!(messages.next::<v1::ReadChunkReply>().await.unwrap().is_some());
        assert!(messages.next::<v1::ReadChunkReply>().await.unwrap().is_none());
        assert_eq!(messages.outcome(), outcome);
    }
    let mut silent = Incoming::new(body([]));
    assert!(silent.next::<v1::ReadChunkReply>().await.unwrap().is_none());
    assert_eq!(silent.outcome().unwrap_err().kind(), ErrorKind::Unavailable);
}
