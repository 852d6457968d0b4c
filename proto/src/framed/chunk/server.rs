//! The serving side: answers the transfers of one connection, one after the other.
//!
//! Bounded: a piece that was received waits until the service takes it, one that the service gives until the socket took it. A peer that
//! brings nothing, or takes nothing, is given up.

use super::Method;
use super::connection::{BUFFERS_KEPT, Connection, Received};
use crate::convert::{
    HeadHash, chunk_description_to_wire, chunk_stats_to_wire, chunk_written_to_wire, invalid,
    required_capability, stat_chunks_from_wire, vouched_hash_from_wire, write_chunk_head_from_wire,
    wrong_upload,
};
use crate::framed::frame::FrameKind;
use crate::framed::{PREFACE_DEADLINE, ServeFramed};
use crate::socket::Socket;
use crate::v1;
use bytes::Bytes;
use dfs_common::buffer::Buffers;
use dfs_common::limits::{CHUNK_BYTES_MAX, UPLOAD_STALL, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkService, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A connection without a request for so long is closed; clients close it earlier.
const IDLE_AGE_MAX: Duration = Duration::from_secs(15);
/// A peer that was refused in the middle of its content may take so long to notice.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// Serves connections with transfers from and to `service`. An upload from which no piece arrives for `stall`
/// ([`UPLOAD_STALL`] unless given) is given up, and so is a reader that takes none.
pub fn serve_chunks(service: Arc<dyn ChunkService>, stall: Option<Duration>) -> ServeFramed {
    let server = Arc::new(Server {
        service,
        buffers: Buffers::new(WIRE_FRAME_BYTES, BUFFERS_KEPT),
        stall: stall.unwrap_or(UPLOAD_STALL),
    });
    Arc::new(move |socket, stop| Box::pin(server.clone().serve(socket, stop)))
}

struct Server {
    service: Arc<dyn ChunkService>,
    buffers: Buffers,
    stall: Duration,
}

/// What becomes of the connection.
enum After {
    /// The next request may follow.
    Next,
    /// Something of the last one is still under way.
    Close,
}

async fn within<T>(limit: Duration, what: &str, step: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    tokio::time::timeout(limit, step).await.map_err(|_| {
        FsError::new(
            ErrorKind::TimedOut,
            format!("{what} for {} ms and was given up", limit.as_millis()),
        )
    })?
}

impl Server {
    async fn serve(self: Arc<Self>, socket: Socket, stop: CancellationToken) -> FsResult<()> {
        let connection = Arc::new(Connection::new(socket));
        within(PREFACE_DEADLINE, "the peer sent no preface", async {
            connection.greeted().await?;
            connection.greet().await
        })
        .await?;
        loop {
            let (method, payload) = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                request = within(IDLE_AGE_MAX, "the peer asked nothing", connection.request()) => request?,
            };
            match self.answer(&connection, method, payload).await? {
                After::Next => {}
                After::Close => {
                    // Whatever the service kept of the content goes first.
                    let Some(connection) = Arc::into_inner(connection) else {
                        return Ok(());
                    };
                    return within(LINGER_MAX, "the peer went on", connection.linger()).await;
                }
            }
        }
    }

    /// Answers one request; errors are those of the connection.
    async fn answer(&self, connection: &Arc<Connection>, method: u16, payload: Bytes) -> FsResult<After> {
        let reply = match Method::from_number(method) {
            Some(Method::Write) => return self.write(connection, payload).await,
            Some(Method::Read) => return self.read(connection, payload).await,
            Some(Method::Stat) => self.stat(payload).await,
            Some(Method::StatAll) => self.stat_all(payload).await,
            Some(Method::Delete) => self.delete(payload).await,
            None => Err(FsError::new(
                ErrorKind::UnknownVersion,
                "the chunk service has no such call: run the same release on both sides",
            )),
        };
        self.reply(connection, method, reply).await?;
        Ok(After::Next)
    }

    async fn reply(&self, connection: &Connection, method: u16, reply: FsResult<Vec<u8>>) -> FsResult<()> {
        let sending = async {
            match reply {
                Ok(reply) => connection.send(FrameKind::Reply, method, reply.into()).await,
                Err(error) => connection.send_error(&error).await,
            }
        };
        within(self.stall, "the peer took no reply", sending).await
    }

    async fn write(&self, connection: &Arc<Connection>, head: Bytes) -> FsResult<After> {
        let whole = Arc::new(AtomicBool::new(false));
        let mut written = attended(connection, self.store(connection, head, &whole)).await?;
        if written.is_ok() && !whole.load(Ordering::Relaxed) {
            written = Err(FsError::new(ErrorKind::Io, "the content was not read to its end"));
        }
        self.reply(connection, Method::Write as u16, written).await?;
        Ok(match whole.load(Ordering::Relaxed) {
            true => After::Next,
            false => After::Close,
        })
    }

    async fn store(
        &self,
        connection: &Arc<Connection>,
        head: Bytes,
        whole: &Arc<AtomicBool>,
    ) -> FsResult<Vec<u8>> {
        let head: v1::WriteChunkHeader = decode(head)?;
        let head = write_chunk_head_from_wire(head)?;
        let mut upload = Upload {
            connection: connection.clone(),
            buffers: self.buffers.clone(),
            missing: head.label.length,
            aligned: true,
            end: None,
            whole: whole.clone(),
            stall: self.stall,
        };
        let hash = match head.hash {
            HeadHash::Computed => ContentHash::Computed,
            HeadHash::Known(sha256) => ContentHash::Known(sha256),
            HeadHash::Follows => {
                let (end, hash) = oneshot::channel();
                upload.end = Some(end);
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
                content: upload.into_content(),
            })
            .await?;
        Ok(chunk_written_to_wire(&written).encode_to_vec())
    }

    async fn read(&self, connection: &Connection, request: Bytes) -> FsResult<After> {
        let outcome = match attended(connection, self.open(request)).await? {
            Ok(mut content) => loop {
                match attended(connection, content.next()).await? {
                    Some(Ok(piece)) => {
                        within(
                            self.stall,
                            "the peer took no content",
                            connection.send_piece(&piece),
                        )
                        .await?;
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                }
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                let end = connection.send(FrameKind::End, Method::Read as u16, Bytes::new());
                within(self.stall, "the peer took no content", end).await?;
            }
            Err(error) => self.reply(connection, Method::Read as u16, Err(error)).await?,
        }
        Ok(After::Next)
    }

    async fn open(&self, request: Bytes) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        let v1::ReadChunkRequest {
            capability,
            offset,
            length,
        } = decode(request)?;
        let capability = required_capability(capability)?;
        if offset.checked_add(length).is_none_or(|end| end > CHUNK_BYTES_MAX) {
            return Err(invalid("a range reaches behind the largest chunk"));
        }
        self.service.read_chunk(capability, offset, length).await
    }

    async fn stat(&self, request: Bytes) -> FsResult<Vec<u8>> {
        let v1::ChunkRequest { capability } = decode(request)?;
        let description = self.service.stat_chunk(required_capability(capability)?).await?;
        Ok(chunk_description_to_wire(&description).encode_to_vec())
    }

    async fn stat_all(&self, request: Bytes) -> FsResult<Vec<u8>> {
        let capabilities = stat_chunks_from_wire(decode(request)?)?;
        let described = self.service.stat_chunks(capabilities).await?;
        Ok(chunk_stats_to_wire(&described).encode_to_vec())
    }

    async fn delete(&self, request: Bytes) -> FsResult<Vec<u8>> {
        let v1::ChunkRequest { capability } = decode(request)?;
        self.service
            .delete_chunk(required_capability(capability)?)
            .await?;
        Ok(v1::Empty {}.encode_to_vec())
    }
}

/// What `work` comes to, unless the peer goes away before.
async fn attended<T>(connection: &Connection, work: impl Future<Output = T>) -> FsResult<T> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = connection.abandoned() => Err(FsError::new(ErrorKind::Interrupted, "the peer went away")),
    }
}

fn decode<M: Message + Default>(payload: Bytes) -> FsResult<M> {
    M::decode(payload).map_err(|error| invalid(format!("a message is unreadable ({error})")))
}

/// The receiving half of an upload.
struct Upload {
    connection: Arc<Connection>,
    buffers: Buffers,
    /// Content that the description still promises.
    missing: u64,
    /// Pieces so far were whole frames.
    aligned: bool,
    /// Where the hash goes that the end is to say.
    end: Option<oneshot::Sender<VouchedHash>>,
    /// Set when the end was received: what follows is another request.
    whole: Arc<AtomicBool>,
    stall: Duration,
}

impl Upload {
    /// The next piece of content; `None` when the upload is whole.
    async fn piece(&mut self) -> FsResult<Option<Piece>> {
        let next = self.connection.next(&self.buffers);
        match within(self.stall, "the upload brought nothing", next).await? {
            Received::Data(piece) => {
                self.missing = self
                    .missing
                    .checked_sub(piece.len() as u64)
                    .ok_or_else(|| wrong_upload("more"))?;
                if !self.aligned {
                    return Err(invalid("a piece but the last of a chunk is whole frames"));
                }
                self.aligned = piece.is_whole_frames();
                Ok(Some(piece))
            }
            Received::Message {
                kind: FrameKind::End,
                payload,
                ..
            } => {
                if self.missing > 0 {
                    return Err(wrong_upload("less"));
                }
                self.end(payload)?;
                self.whole.store(true, Ordering::Relaxed);
                Ok(None)
            }
            _ => Err(invalid("something else than content arrived in a chunk write")),
        }
    }

    fn end(&mut self, payload: Bytes) -> FsResult<()> {
        match (self.end.take(), payload.is_empty()) {
            (None, true) => Ok(()),
            (Some(end), false) => {
                let vouched = vouched_hash_from_wire(decode(payload)?)?;
                // Nobody takes it if the service gave the write up.
                let _ = end.send(vouched);
                Ok(())
            }
            (None, false) => Err(invalid(
                "a chunk write has a hash at its end only if its header promises one",
            )),
            (Some(_), true) => Err(FsError::new(
                ErrorKind::Corrupt,
                "the upload lacks the hash that its header promised: send it again",
            )),
        }
    }

    /// Pieces until the end or the first error.
    fn into_content(self) -> BoxStream<'static, FsResult<Piece>> {
        stream::unfold(Some(self), |upload| async move {
            let mut upload = upload?;
            match upload.piece().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(upload))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}
