//! Serves a [`ChunkService`] over gRPC: every piece of an upload is verified before the service sees it, and every piece of
//! a read gets its checksum.
//!
//! Nothing is buffered here: an upload's pieces are taken from the connection when the service asks for them, a read's from
//! the service when the connection can take them. A reader that goes away drops the service's stream.

use crate::convert::{
    chunk_description_to_wire, chunk_written_to_wire, invalid, piece_from_wire, piece_to_wire, required,
    required_capability, write_chunk_head_from_wire,
};
use crate::status::{from_status, to_status};
use crate::v1;
use crate::v1::chunk_server::{Chunk, ChunkServer};
use crate::v1::write_chunk_request::Part;
use bytes::Bytes;
use dfs_common::limits::{CHUNK_BYTES_MAX, MESSAGE_BYTES_MAX, UPLOAD_STALL, WIRE_FRAME_BYTES};
use dfs_common::service::{ChunkService, WriteChunk};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// The adapter between the generated server and a [`ChunkService`].
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
    pub fn into_service(self) -> ChunkServer<Self> {
        ChunkServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn write(&self, messages: Streaming<v1::WriteChunkRequest>) -> FsResult<v1::WriteChunkReply> {
        let mut received = Received {
            messages,
            missing: 0,
            stall: self.stall,
        };
        let Some(Part::Header(head)) = received.part().await? else {
            return Err(invalid("a chunk write starts with its header"));
        };
        let head = write_chunk_head_from_wire(head)?;
        received.missing = head.description.length;
        let written = self
            .service
            .write_chunk(WriteChunk {
                description: head.description,
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

    async fn delete(&self, request: v1::ChunkRequest) -> FsResult<v1::Empty> {
        let capability = required_capability(request.capability)?;
        self.service.delete_chunk(capability).await?;
        Ok(v1::Empty {})
    }
}

/// The receiving half of an upload.
struct Received {
    messages: Streaming<v1::WriteChunkRequest>,
    /// Content that the description still promises.
    missing: u64,
    stall: Duration,
}

impl Received {
    async fn part(&mut self) -> FsResult<Option<Part>> {
        let received = tokio::time::timeout(self.stall, self.messages.message())
            .await
            .map_err(|_| {
                FsError::new(
                    ErrorKind::TimedOut,
                    format!(
                        "the upload brought nothing for {} ms and was given up",
                        self.stall.as_millis()
                    ),
                )
            })?
            .map_err(|status| from_status(&status))?;
        received.map(|message| required(message.part, "part")).transpose()
    }

    /// The next piece of content; `None` when the upload is whole. A client that went away looks here like one that has
    /// finished (tonic ends a cancelled request's stream cleanly), so only the length tells.
    async fn piece(&mut self) -> FsResult<Option<Bytes>> {
        match self.part().await? {
            Some(Part::Piece(piece)) => {
                let piece = piece_from_wire(piece)?;
                self.missing = self
                    .missing
                    .checked_sub(piece.len() as u64)
                    .ok_or_else(|| wrong_length("more"))?;
                Ok(Some(piece))
            }
            Some(Part::Header(_)) => Err(invalid("a chunk write has one header")),
            None if self.missing > 0 => Err(wrong_length("less")),
            None => Ok(None),
        }
    }

    /// Pieces until the end or the first error.
    fn into_content(self) -> BoxStream<'static, FsResult<Bytes>> {
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

fn wrong_length(than: &str) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!("the upload has {than} content than its description says"),
    )
}

type PieceStream = BoxStream<'static, Result<v1::ReadChunkReply, Status>>;

/// A service's content as messages: cut to the size of a piece, with checksums, ended by the first error.
fn pieces(content: BoxStream<'static, FsResult<Bytes>>) -> PieceStream {
    stream::unfold(Some((content, Bytes::new())), |state| async move {
        let (mut content, mut rest) = state?;
        while rest.is_empty() {
            match content.next().await? {
                Ok(bytes) => rest = bytes,
                Err(error) => return Some((Err(to_status(&error)), None)),
            }
        }
        let piece = rest.split_to(rest.len().min(WIRE_FRAME_BYTES));
        let reply = v1::ReadChunkReply {
            piece: Some(piece_to_wire(piece)),
        };
        Some((Ok(reply), Some((content, rest))))
    })
    .boxed()
}

/// The reply, or the error as status.
fn respond<T>(result: FsResult<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

#[tonic::async_trait]
impl<S: ChunkService + ?Sized> Chunk for ChunkGrpcServer<S> {
    type ReadChunkStream = PieceStream;

    async fn write_chunk(
        &self,
        request: Request<Streaming<v1::WriteChunkRequest>>,
    ) -> Result<Response<v1::WriteChunkReply>, Status> {
        respond(self.write(request.into_inner()).await)
    }

    async fn read_chunk(
        &self,
        request: Request<v1::ReadChunkRequest>,
    ) -> Result<Response<PieceStream>, Status> {
        respond(self.read(request.into_inner()).await)
    }

    async fn stat_chunk(
        &self,
        request: Request<v1::ChunkRequest>,
    ) -> Result<Response<v1::ChunkDescription>, Status> {
        respond(self.stat(request.into_inner()).await)
    }

    async fn delete_chunk(&self, request: Request<v1::ChunkRequest>) -> Result<Response<v1::Empty>, Status> {
        respond(self.delete(request.into_inner()).await)
    }
}
