//! The calling side: a [`ChunkService`] at the other end of framed connections.

use super::Method;
use super::connection::{BUFFERS_KEPT, Connection, Received};
use super::idle::Idle;
use crate::convert::{
    HeadHash, WriteChunkHead, check_address, chunk_capability_to_wire, chunk_description_from_wire,
    chunk_stats_from_wire, chunk_written_from_wire, invalid, stat_chunks_to_wire, vouched_hash_to_wire,
    write_chunk_head_to_wire, wrong_answer, wrong_content,
};
use crate::framed::PREFACE_DEADLINE;
use crate::framed::frame::FrameKind;
use crate::socket::{Peer, dial};
use crate::v1;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::buffer::Buffers;
use dfs_common::capability::ChunkCapability;
use dfs_common::chunk::ChunkDescription;
use dfs_common::error::reason;
use dfs_common::limits::WIRE_FRAME_BYTES;
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkService, ChunkWritten, ContentHash, WriteChunk};
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A datanode may wait for its disk before it takes more; one that is gone is noticed by its connection. Longer than what it waits for
/// those that it forwards to.
const PIECE_DEADLINES: u32 = 2;
/// A datanode answers a whole upload only when its own forwards succeeded or were given up: so many deadlines later.
const REPLY_DEADLINES: u32 = 3;
/// An error that the peer said before it stopped reading is at hand, or does not come.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A [`ChunkService`] at the other end of framed connections. Clones share them.
///
/// The deadline is for each step, not for a whole transfer: a stream goes on as long as pieces move. Dropping a call's
/// future or a read's stream cancels the transfer.
#[derive(Clone, Debug)]
pub struct ChunkFramedClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    peer: Peer,
    deadline: Duration,
    idle: Arc<Idle>,
    buffers: Buffers,
}

impl ChunkFramedClient {
    /// A stub for the datanode at `peer` (by default, a `host:port`), which connects when a call finds no idle connection.
    ///
    /// A unary call, the start of a read and a new connection are given up after `deadline`; a read that brings no piece for so long; a
    /// write of which the connection takes no piece for two of them, or that is not answered for three.
    ///
    /// # Errors
    /// `Invalid` if its address is not `host:port`.
    pub fn connect_lazy(peer: impl Into<Peer>, deadline: Duration) -> FsResult<Self> {
        Self::with_buffers(peer, deadline, receive_buffers())
    }

    /// The same, which receives into `buffers` of [`WIRE_FRAME_BYTES`]; others may share them.
    ///
    /// # Errors
    /// As [`ChunkFramedClient::connect_lazy`].
    pub fn with_buffers(peer: impl Into<Peer>, deadline: Duration, buffers: Buffers) -> FsResult<Self> {
        let peer = peer.into();
        check_address(&peer.address)?;
        Ok(ChunkFramedClient {
            shared: Arc::new(Shared {
                peer,
                deadline,
                idle: Arc::default(),
                buffers,
            }),
        })
    }
}

/// Buffers for what clients receive, from however many datanodes.
pub(crate) fn receive_buffers() -> Buffers {
    Buffers::new(WIRE_FRAME_BYTES, BUFFERS_KEPT)
}

impl Shared {
    async fn within<T>(&self, deadline: Duration, step: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        tokio::time::timeout(deadline, step).await.map_err(|_| {
            FsError::new(
                ErrorKind::TimedOut,
                format!(
                    "the datanode at {} did not answer within {} ms",
                    self.peer.address,
                    deadline.as_millis()
                ),
            )
        })?
    }

    async fn connect(&self) -> FsResult<Connection> {
        let connect = async {
            let socket = dial(&self.peer)
                .await
                .map_err(|error| self.peer.unreachable(&reason(&error)))?;
            // Whoever closes has its reply, or gave the transfer up.
            socket.reset_when_closed();
            let connection = Connection::new(socket);
            connection.greet().await?;
            tokio::time::timeout(PREFACE_DEADLINE, connection.greeted())
                .await
                .map_err(|_| self.peer.unreachable("it does not answer"))??;
            Ok(connection)
        };
        self.within(self.deadline, connect).await
    }

    async fn connection(&self) -> FsResult<Connection> {
        match self.idle.take() {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    /// Asks for something that can be asked for again, and receives the first answer.
    async fn ask(&self, method: Method, message: &impl Message) -> FsResult<(Connection, Received)> {
        let payload = Bytes::from(message.encode_to_vec());
        let exchange = async |connection: Connection| {
            connection
                .send(FrameKind::Request, method as u16, payload.clone())
                .await?;
            let answer = connection.next(&self.buffers).await?;
            FsResult::Ok((connection, answer))
        };
        self.within(self.deadline, async {
            if let Some(connection) = self.idle.take() {
                match exchange(connection).await {
                    // Its peer may have gone while it was idle.
                    Err(error) if error.kind() == ErrorKind::Unavailable => {}
                    answer => return answer,
                }
            }
            exchange(self.connect().await?).await
        })
        .await
    }

    /// The one reply of a unary call.
    async fn reply<M: Message + Default>(&self, method: Method, message: &impl Message) -> FsResult<M> {
        let (connection, answer) = self.ask(method, message).await?;
        self.decode_reply(connection, method, answer)
    }

    /// A reply behind which the connection is free again.
    fn decode_reply<M: Message + Default>(
        &self,
        connection: Connection,
        asked: Method,
        answer: Received,
    ) -> FsResult<M> {
        match answer {
            Received::Message {
                kind: FrameKind::Reply,
                method,
                payload,
            } if method == asked as u16 => {
                let reply = M::decode(payload)
                    .map_err(|error| invalid(format!("a reply of the datanode is unreadable ({error})")))?;
                self.idle.keep(connection);
                Ok(reply)
            }
            Received::Failure(error) => {
                self.idle.keep(connection);
                Err(error)
            }
            _ => Err(unexpected()),
        }
    }

    /// Sends the whole of a write. The inner result is the content's own failure, which the peer is not told.
    async fn send_write(&self, connection: &Connection, request: WriteChunk) -> FsResult<FsResult<()>> {
        let (said, hash) = match request.hash {
            ContentHash::Computed => (HeadHash::Computed, None),
            ContentHash::Known(sha256) => (HeadHash::Known(sha256), None),
            ContentHash::Follows(hash) => (HeadHash::Follows, Some(hash)),
        };
        let mut missing = request.label.length;
        let head = write_chunk_head_to_wire(&WriteChunkHead {
            label: request.label,
            hash: said,
            capability: request.capability,
            forward: request.forward,
        });
        let send = |kind, payload: Vec<u8>| connection.send(kind, Method::Write as u16, payload.into());
        self.within(self.deadline, send(FrameKind::Request, head.encode_to_vec()))
            .await?;
        let mut content = request.content;
        while let Some(piece) = content.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Ok(Err(error)),
            };
            missing = match missing.checked_sub(piece.len() as u64) {
                Some(rest) => rest,
                None => return Ok(Err(wrong_content("more"))),
            };
            self.within(self.deadline * PIECE_DEADLINES, connection.send_piece(&piece))
                .await?;
        }
        if missing > 0 {
            return Ok(Err(wrong_content("less")));
        }
        let end = match hash {
            None => Vec::new(),
            Some(hash) => match hash.await {
                Ok(vouched) => vouched_hash_to_wire(&vouched).encode_to_vec(),
                Err(_) => {
                    return Ok(Err(FsError::new(
                        ErrorKind::Interrupted,
                        "the write was given up",
                    )));
                }
            },
        };
        self.within(self.deadline, send(FrameKind::End, end)).await?;
        Ok(Ok(()))
    }
}

#[async_trait]
impl ChunkService for ChunkFramedClient {
    async fn write_chunk(&self, request: WriteChunk) -> FsResult<ChunkWritten> {
        let shared = &self.shared;
        let connection = shared.connection().await?;
        let answer = {
            let answer = connection.next(&shared.buffers);
            let sending = shared.send_write(&connection, request);
            tokio::pin!(answer, sending);
            tokio::select! {
                early = &mut answer => match early? {
                    Received::Failure(error) => return Err(error),
                    _ => return Err(unexpected()),
                },
                sent = &mut sending => match sent {
                    Ok(Ok(())) => shared.within(shared.deadline * REPLY_DEADLINES, answer).await?,
                    Ok(Err(error)) => return Err(error),
                    // What the peer said before it closed tells more.
                    Err(error) => return match tokio::time::timeout(LAST_WORDS, answer).await {
                        Ok(Ok(Received::Failure(said))) => Err(said),
                        _ => Err(error),
                    },
                },
            }
        };
        match answer {
            // It may have been said before the end arrived: the connection goes with it.
            Received::Failure(error) => Err(error),
            answer => chunk_written_from_wire(shared.decode_reply(connection, Method::Write, answer)?),
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
        let (connection, first) = self.shared.ask(Method::Read, &request).await?;
        if let Received::Failure(error) = first {
            self.shared.idle.keep(connection);
            return Err(error);
        }
        Ok(Download {
            shared: self.shared.clone(),
            connection,
            received: Some(first),
            missing: length,
        }
        .into_stream())
    }

    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        chunk_description_from_wire(
            self.shared
                .reply(Method::Stat, &chunk_request(&capability))
                .await?,
        )
    }

    async fn stat_chunks(
        &self,
        capabilities: Vec<ChunkCapability>,
    ) -> FsResult<Vec<FsResult<ChunkDescription>>> {
        let request = stat_chunks_to_wire(&capabilities);
        let reply = self.shared.reply(Method::StatAll, &request).await?;
        let asked: Vec<ChunkId> = capabilities.iter().map(|capability| capability.chunk).collect();
        chunk_stats_from_wire(reply, &asked)
    }

    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        let v1::Empty {} = self
            .shared
            .reply(Method::Delete, &chunk_request(&capability))
            .await?;
        Ok(())
    }
}

/// What follows a piece.
enum Rest {
    More(Download),
    Failed(FsError),
    Nothing,
}

/// The receiving half of a read.
struct Download {
    shared: Arc<Shared>,
    connection: Connection,
    /// What was received and not looked at yet.
    received: Option<Received>,
    missing: u64,
}

impl Download {
    async fn receive(&mut self) -> FsResult<Received> {
        match self.received.take() {
            Some(received) => Ok(received),
            None => {
                let next = self.connection.next(&self.shared.buffers);
                self.shared.within(self.shared.deadline, next).await
            }
        }
    }

    /// The next piece, and what follows it. The end is received with the last piece: whoever has all its bytes may not ask again, and
    /// the connection can be used again all the same.
    async fn next(mut self) -> FsResult<Option<(Piece, Rest)>> {
        match self.receive().await? {
            Received::Data(piece) => {
                self.missing = self
                    .missing
                    .checked_sub(piece.len() as u64)
                    .ok_or_else(|| wrong_answer("more"))?;
                if self.missing > 0 {
                    return Ok(Some((piece, Rest::More(self))));
                }
                let rest = match self.receive().await {
                    Ok(received) => self.end(received).err(),
                    Err(error) => Some(error),
                };
                Ok(Some((piece, rest.map_or(Rest::Nothing, Rest::Failed))))
            }
            other => self.end(other).map(|()| None),
        }
    }

    /// What came instead of a piece.
    fn end(self, received: Received) -> FsResult<()> {
        match received {
            Received::Message {
                kind: FrameKind::End,
                method,
                ..
            } if method == Method::Read as u16 => {
                if self.missing > 0 {
                    return Err(wrong_answer("less"));
                }
                self.shared.idle.keep(self.connection);
                Ok(())
            }
            Received::Failure(error) => {
                self.shared.idle.keep(self.connection);
                Err(error)
            }
            Received::Data(_) => Err(wrong_answer("more")),
            Received::Message { .. } => Err(unexpected()),
        }
    }

    /// Pieces until the end or the first error.
    fn into_stream(self) -> BoxStream<'static, FsResult<Piece>> {
        stream::unfold(Rest::More(self), |rest| async move {
            match rest {
                Rest::More(download) => match download.next().await {
                    Ok(Some((piece, rest))) => Some((Ok(piece), rest)),
                    Ok(None) => None,
                    Err(error) => Some((Err(error), Rest::Nothing)),
                },
                Rest::Failed(error) => Some((Err(error), Rest::Nothing)),
                Rest::Nothing => None,
            }
        })
        .boxed()
    }
}

fn chunk_request(capability: &ChunkCapability) -> v1::ChunkRequest {
    v1::ChunkRequest {
        capability: Some(chunk_capability_to_wire(capability)),
    }
}

fn unexpected() -> FsError {
    invalid("the datanode answered something else than it was asked")
}
