//! The chunk seam over a gRPC channel. Every piece that arrives is verified before the caller sees it.

use super::channel::{stub_channel, timed_out, within};
use super::message::{Encoded, Incoming, Outgoing, call};
use super::upload::Upload;
use crate::convert::{
    chunk_capability_to_wire, chunk_description_from_wire, chunk_stats_from_wire, chunk_written_from_wire,
    invalid, piece_from_wire, required, stat_chunks_to_wire, wrong_answer,
};
use crate::socket::Peer;
use crate::v1;
use crate::v1::chunk_client::ChunkClient;
use async_trait::async_trait;
use dfs_common::capability::ChunkCapability;
use dfs_common::chunk::ChunkDescription;
use dfs_common::limits::MESSAGE_BYTES_MAX;
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkService, ChunkWritten, WriteChunk};
use dfs_common::{ChunkId, FsResult};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::time::Duration;
use tonic::transport::Channel;

const WRITE_PATH: &str = "/dfs.v1.Chunk/WriteChunk";
const READ_PATH: &str = "/dfs.v1.Chunk/ReadChunk";
/// A datanode answers a whole upload only when its own forwards succeeded or were given up: so many deadlines later.
const REPLY_DEADLINES: u32 = 3;

/// A [`ChunkService`] at the other end of a channel. Clones share the channel.
///
/// The deadline is for each step, not for a whole transfer: a stream goes on as long as pieces move. Dropping a call's
/// future or a read's stream cancels the transfer.
#[derive(Clone, Debug)]
pub struct ChunkGrpcClient {
    channel: Channel,
    deadline: Duration,
}

impl ChunkGrpcClient {
    /// A stub for the datanode at `peer` (by default, a `host:port`), which connects at the first call and again after a
    /// failure.
    ///
    /// A unary call and the start of a read are given up after `deadline`; a read that brings no piece for so long; a write
    /// of which the connection takes no piece for one to two deadlines, or that is not answered for four.
    ///
    /// # Errors
    /// `Invalid` if its address is not `host:port`, or outside a tokio runtime.
    pub fn connect_lazy(peer: impl Into<Peer>, deadline: Duration) -> FsResult<Self> {
        Ok(Self::new(stub_channel(peer.into())?, deadline))
    }

    /// A stub on a channel that exists already; deadlines as [`ChunkGrpcClient::connect_lazy`] has them.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        ChunkGrpcClient { channel, deadline }
    }

    /// For the calls without content.
    fn client(&self) -> ChunkClient<Channel> {
        ChunkClient::new(self.channel.clone())
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// One write, for as long as it takes.
    async fn upload(&self, upload: Upload) -> FsResult<ChunkWritten> {
        let mut reply = call(self.channel.clone(), WRITE_PATH, Outgoing::request(upload)).await?;
        let written = reply.next().await?;
        let end: Option<v1::WriteChunkReply> = reply.next().await?;
        reply.outcome()?;
        match (written, end) {
            (Some(written), None) => chunk_written_from_wire(written),
            _ => Err(invalid("a write has one reply")),
        }
    }

    /// Starts a read.
    async fn download(&self, request: v1::ReadChunkRequest) -> FsResult<Incoming> {
        let messages = stream::iter([Ok(Encoded::message(&request))]);
        call(self.channel.clone(), READ_PATH, Outgoing::request(messages)).await
    }
}

fn chunk_request(capability: &ChunkCapability) -> v1::ChunkRequest {
    v1::ChunkRequest {
        capability: Some(chunk_capability_to_wire(capability)),
    }
}

#[async_trait]
impl ChunkService for ChunkGrpcClient {
    async fn write_chunk(&self, request: WriteChunk) -> FsResult<ChunkWritten> {
        let (upload, progress, mut failure) = Upload::new(request);
        let call = self.upload(upload);
        tokio::pin!(call);
        let mut patience = self.deadline;
        let mut seen = progress.pieces();
        let mut source_failed = false;
        loop {
            tokio::select! {
                biased;
                written = &mut call => return written,
                error = &mut failure, if !source_failed => match error {
                    Ok(error) => return Err(error),
                    // The transport dropped the stream: its own error is about to come.
                    Err(_) => source_failed = true,
                },
                () = tokio::time::sleep(patience) => {
                    let now = progress.pieces();
                    if now == seen && !progress.waits_for_source() {
                        return Err(timed_out(patience));
                    }
                    seen = now;
                    if progress.ended() {
                        patience = self.deadline * REPLY_DEADLINES;
                    }
                }
            }
        }
    }

    async fn read_chunk(
        &self,
        capability: ChunkCapability,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        let request = v1::ReadChunkRequest {
            capability: Some(chunk_capability_to_wire(&capability)),
            offset,
            length,
        };
        let pieces = tokio::time::timeout(self.deadline, self.download(request))
            .await
            .map_err(|_| timed_out(self.deadline))??;
        Ok(Download {
            pieces,
            missing: length,
            deadline: self.deadline,
        }
        .into_stream())
    }

    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        let mut client = self.client();
        let reply = within(self.deadline, client.stat_chunk(chunk_request(&capability))).await?;
        chunk_description_from_wire(reply)
    }

    async fn stat_chunks(
        &self,
        capabilities: Vec<ChunkCapability>,
    ) -> FsResult<Vec<FsResult<ChunkDescription>>> {
        let mut client = self.client();
        let request = stat_chunks_to_wire(&capabilities);
        let reply = within(self.deadline, client.stat_chunks(request)).await?;
        let asked: Vec<ChunkId> = capabilities.iter().map(|capability| capability.chunk).collect();
        chunk_stats_from_wire(reply, &asked)
    }

    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        let mut client = self.client();
        within(self.deadline, client.delete_chunk(chunk_request(&capability))).await?;
        Ok(())
    }
}

/// The receiving half of a read.
struct Download {
    pieces: Incoming,
    missing: u64,
    deadline: Duration,
}

impl Download {
    /// The next piece; `None` when everything that was asked for is there.
    async fn next(&mut self) -> FsResult<Option<Piece>> {
        let received: Option<v1::ReadChunkReply> = tokio::time::timeout(self.deadline, self.pieces.next())
            .await
            .map_err(|_| timed_out(self.deadline))??;
        let Some(reply) = received else {
            self.pieces.outcome()?;
            return if self.missing == 0 {
                Ok(None)
            } else {
                Err(wrong_answer("less"))
            };
        };
        let piece = piece_from_wire(required(reply.piece, "piece")?)?;
        self.missing = self
            .missing
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| wrong_answer("more"))?;
        Ok(Some(piece))
    }

    /// Pieces until the end or the first error.
    fn into_stream(self) -> BoxStream<'static, FsResult<Piece>> {
        stream::unfold(Some(self), |state| async move {
            let mut download = state?;
            match download.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(download))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}
