//! Serves a [`ChunkService`] over gRPC: every piece of an upload is verified before the service sees it.
//!
//! Nothing is buffered here: an upload's pieces are taken from the connection when the service asks for them, a read's from
//! the service when the connection can take them. A reader that goes away drops the service's stream.

use super::message::{Encoded, Incoming, respond};
use crate::convert::{
    HeadHash, chunk_description_to_wire, chunk_stats_to_wire, chunk_written_to_wire, invalid,
    piece_from_wire, required, required_capability, stat_chunks_from_wire, vouched_hash_from_wire,
    write_chunk_head_from_wire, wrong_upload,
};
use crate::status::to_status;
use crate::v1;
use crate::v1::write_chunk_request::Part;
use dfs_common::limits::{CHUNK_BYTES_MAX, UPLOAD_STALL};
use dfs_common::piece::{Piece, PieceCutter};
use dfs_common::service::{ChunkService, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;

/// Number of the field `piece` in `ReadChunkReply`.
const PIECE_FIELD: u32 = 1;

/// The adapter between gRPC and a [`ChunkService`]: the calls of the chunk service of chunk.proto.
pub struct ChunkGrpcServer<S: ?Sized> {
    service: Arc<S>,
    stall: Duration,
}

impl<S: ChunkService + ?Sized> ChunkGrpcServer<S> {
    /// Serves `service`. An upload from which no piece arrives for [`UPLOAD_STALL`] is given up.
    pub fn new(service: Arc<S>) -> Self {
        ChunkGrpcServer {
            service,
            stall: UPLOAD_STALL,
        }
    }

    /// Gives an upload up when no piece arrives for `stall`.
    pub fn with_upload_stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// The tower service for [`tonic::transport::Server::add_service`], with messages bounded both ways.
    pub fn into_service(self) -> Self {
        self
    }

    /// Answers one call.
    async fn answer(self, request: Request<Body>) -> FsResult<Response<Body>> {
        let (head, body) = request.into_parts();
        let mut messages = Incoming::new(body);
        let reply = match head.uri.path() {
            "/dfs.v1.Chunk/WriteChunk" => Encoded::message(&self.write(messages).await?),
            "/dfs.v1.Chunk/ReadChunk" => return Ok(respond(self.read(messages.only().await?).await?)),
            "/dfs.v1.Chunk/StatChunk" => Encoded::message(&self.stat(messages.only().await?).await?),
            "/dfs.v1.Chunk/StatChunks" => Encoded::message(&self.stat_all(messages.only().await?).await?),
            "/dfs.v1.Chunk/DeleteChunk" => Encoded::message(&self.delete(messages.only().await?).await?),
            _ => {
                return Err(FsError::new(
                    ErrorKind::UnknownVersion,
                    "the chunk service has no such call: run the same release on both sides",
                ));
            }
        };
        Ok(respond(stream::iter([Ok(reply)])))
    }

    async fn write(&self, messages: Incoming) -> FsResult<v1::WriteChunkReply> {
        let mut received = Received {
            messages,
            missing: 0,
            cutter: PieceCutter::default(),
            end: None,
            stall: self.stall,
        };
        let Some(Part::Header(head)) = received.part().await? else {
            return Err(invalid("a chunk write starts with its header"));
        };
        let head = write_chunk_head_from_wire(head)?;
        received.missing = head.label.length;
        let hash = match head.hash {
            HeadHash::Computed => ContentHash::Computed,
            HeadHash::Known(sha256) => ContentHash::Known(sha256),
            HeadHash::Follows => {
                let (end, hash) = oneshot::channel();
                received.end = Some(end);
                ContentHash::Follows(hash)
            }
        };
        let written = self
            .service
            .write_chunk(WriteChunk {
                label: head.label,
                hash,
                capability: head.capability,
                forward: head.forward,
                content: received.into_content(),
            })
            .await?;
        Ok(chunk_written_to_wire(&written))
    }

    async fn read(&self, request: v1::ReadChunkRequest) -> FsResult<PieceStream> {
        let capability = required_capability(request.capability)?;
        let v1::ReadChunkRequest { offset, length, .. } = request;
        if offset.checked_add(length).is_none_or(|end| end > CHUNK_BYTES_MAX) {
            return Err(invalid("a range reaches behind the largest chunk"));
        }
        let content = self.service.read_chunk(capability, offset, length).await?;
        Ok(pieces(content))
    }

    async fn stat(&self, request: v1::ChunkRequest) -> FsResult<v1::ChunkDescription> {
        let capability = required_capability(request.capability)?;
        let description = self.service.stat_chunk(capability).await?;
        Ok(chunk_description_to_wire(&description))
    }

    async fn stat_all(&self, request: v1::StatChunksRequest) -> FsResult<v1::StatChunksReply> {
        let capabilities = stat_chunks_from_wire(request)?;
        Ok(chunk_stats_to_wire(
            &self.service.stat_chunks(capabilities).await?,
        ))
    }

    async fn delete(&self, request: v1::ChunkRequest) -> FsResult<v1::Empty> {
        let capability = required_capability(request.capability)?;
        self.service.delete_chunk(capability).await?;
        Ok(v1::Empty {})
    }
}

/// The receiving half of an upload.
struct Received {
    messages: Incoming,
    /// Content that the description still promises.
    missing: u64,
    /// Makes frames of pieces that end within one.
    cutter: PieceCutter,
    /// Where the hash goes that the end is to say; without it the upload is not whole.
    end: Option<oneshot::Sender<VouchedHash>>,
    stall: Duration,
}

impl Received {
    async fn part(&mut self) -> FsResult<Option<Part>> {
        let received: Option<v1::WriteChunkRequest> = tokio::time::timeout(self.stall, self.messages.next())
            .await
            .map_err(|_| {
                FsError::new(
                    ErrorKind::TimedOut,
                    format!(
                        "the upload brought nothing for {} ms and was given up",
                        self.stall.as_millis()
                    ),
                )
            })??;
        received.map(|message| required(message.part, "part")).transpose()
    }

    /// The next aligned piece of content; `None` when the upload is whole.
    async fn piece(&mut self) -> FsResult<Option<Piece>> {
        loop {
            if let Some(piece) = self.cutter.next_piece() {
                return Ok(Some(piece));
            }
            if self.missing == 0
                && let Some(piece) = self.cutter.finish()
            {
                return Ok(Some(piece));
            }
            match self.part().await? {
                Some(Part::Piece(piece)) => {
                    let with_frames = !piece.frame_crc32c.is_empty();
                    let piece = piece_from_wire(piece)?;
                    self.missing = self
                        .missing
                        .checked_sub(piece.len() as u64)
                        .ok_or_else(|| wrong_upload("more"))?;
                    if self.cutter.is_empty() && (piece.is_whole_frames() || self.missing == 0) {
                        return Ok(Some(piece));
                    }
                    if with_frames {
                        return Err(invalid("a piece but the last of a chunk is whole frames"));
                    }
                    // Of an earlier release, whose pieces may end anywhere.
                    self.cutter.push(piece.into_content());
                }
                Some(Part::Header(_)) => return Err(invalid("a chunk write has one header")),
                Some(Part::End(_)) | None if self.missing > 0 => return Err(wrong_upload("less")),
                Some(Part::End(end)) => {
                    self.end(vouched_hash_from_wire(end)?).await?;
                    return Ok(None);
                }
                None if self.end.is_some() => {
                    return Err(FsError::new(
                        ErrorKind::Corrupt,
                        "the upload lacks the end that its header promised: send it again",
                    ));
                }
                None => return Ok(None),
            }
        }
    }

    /// The hash behind the content, behind which nothing comes.
    async fn end(&mut self, vouched: VouchedHash) -> FsResult<()> {
        let Some(end) = self.end.take() else {
            return Err(invalid(
                "a chunk write has an end only if its header promises one",
            ));
        };
        if self.part().await?.is_some() {
            return Err(invalid("something follows the end of a chunk write"));
        }
        // Nobody takes it if the service gave the write up.
        let _ = end.send(vouched);
        Ok(())
    }

    /// Pieces until the end or the first error.
    fn into_content(self) -> BoxStream<'static, FsResult<Piece>> {
        stream::unfold(Some(self), |state| async move {
            let mut received = state?;
            match received.piece().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(received))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}

type PieceStream = BoxStream<'static, FsResult<Encoded>>;

/// A service's content as messages, ended by the first error.
fn pieces(content: BoxStream<'static, FsResult<Piece>>) -> PieceStream {
    stream::unfold(Some(content), |content| async move {
        let mut content = content?;
        match content.next().await? {
            Ok(piece) => Some((Ok(Encoded::piece(PIECE_FIELD, piece)), Some(content))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl<S: ?Sized> Clone for ChunkGrpcServer<S> {
    fn clone(&self) -> Self {
        ChunkGrpcServer {
            service: self.service.clone(),
            stall: self.stall,
        }
    }
}

impl<S: ?Sized> NamedService for ChunkGrpcServer<S> {
    const NAME: &'static str = "dfs.v1.Chunk";
}

impl<S: ChunkService + ?Sized> Service<Request<Body>> for ChunkGrpcServer<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.clone().answer(request);
        Box::pin(async { Ok(answer.await.unwrap_or_else(|error| to_status(&error).into_http())) })
    }
}
