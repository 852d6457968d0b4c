//! The calling side of framed connections: one connection to a server, made when needed and made again when it broke.

use super::frame::{Frame, FrameKind, Service, preface};
use super::reader::FrameReader;
use super::writer::{FrameWriter, broken};
use crate::convert::{check_address, error_from_wire};
use crate::framed::{PEER_SILENCE, PREFACE_DEADLINE};
use crate::socket::{Peer, dial};
use crate::v1;
use bytes::Bytes;
use dfs_common::error::reason;
use dfs_common::limits::FRAMED_CALLS_MAX;
use dfs_common::{ErrorKind, FsError, FsResult};
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Calls that wait for their replies; `None` once the connection ended.
type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<FsResult<Bytes>>>>>;

struct Connection {
    writer: FrameWriter,
    waiting: Waiting,
    next_call: AtomicU64,
}

impl Connection {
    fn is_open(&self) -> bool {
        self.waiting.lock().is_some()
    }

    /// Answers every waiting call, and refuses later ones.
    fn end(&self, error: &FsError) {
        let waiting = self.waiting.lock().take();
        for (_, reply) in waiting.into_iter().flatten() {
            let _ = reply.send(Err(FsError::new(
                ErrorKind::Unavailable,
                error.message().to_string(),
            )));
        }
    }

    async fn receive(&self, reader: &mut FrameReader) -> FsResult<()> {
        let mut asked = false;
        loop {
            let frame = match tokio::time::timeout(PEER_SILENCE, reader.next(self.writer.socket())).await {
                Ok(frame) => frame?,
                Err(_) if asked => {
                    return Err(FsError::new(ErrorKind::Unavailable, "the server is silent"));
                }
                Err(_) => {
                    asked = true;
                    self.writer.send(&Frame::signal(FrameKind::Ping))?;
                    continue;
                }
            };
            asked = false;
            let result = match frame.kind {
                FrameKind::Reply => Ok(frame.payload),
                FrameKind::Error => Err(match v1::Error::decode(frame.payload) {
                    Ok(error) => error_from_wire(error),
                    Err(_) => FsError::new(ErrorKind::Invalid, "an error of the server is unreadable"),
                }),
                FrameKind::Pong => continue,
                FrameKind::Request | FrameKind::Ping | FrameKind::Data | FrameKind::End => {
                    return Err(FsError::new(ErrorKind::Invalid, "a server sends replies only"));
                }
            };
            let waiting = self
                .waiting
                .lock()
                .as_mut()
                .and_then(|waiting| waiting.remove(&frame.call));
            // A caller that went away left its number behind: its reply is nobody's.
            if let Some(reply) = waiting {
                let _ = reply.send(result);
            }
        }
    }
}

/// Takes a call's place back when its caller goes away.
struct Place<'a> {
    connection: &'a Connection,
    call: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.connection.waiting.lock().as_mut() {
            waiting.remove(&self.call);
        }
    }
}

/// Calls methods of a server by number.
pub struct FramedClient {
    peer: Peer,
    deadline: Duration,
    connection: Mutex<Option<Arc<Connection>>>,
    connecting: tokio::sync::Mutex<()>,
    calls: Semaphore,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl FramedClient {
    /// A client of `peer` (by default, the server at a `host:port`), which connects at the first call and again after a
    /// failure. A call is given up after `deadline`, waiting for a connection included.
    ///
    /// # Errors
    /// `Invalid` if its address is not `host:port`.
    pub fn connect_lazy(peer: impl Into<Peer>, deadline: Duration) -> FsResult<Self> {
        let peer = peer.into();
        check_address(&peer.address)?;
        let stop = CancellationToken::new();
        Ok(FramedClient {
            peer,
            deadline,
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            calls: Semaphore::new(FRAMED_CALLS_MAX),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Calls `method` with an encoded message; answers the encoded reply. One attempt.
    ///
    /// # Errors
    /// The server's error, `Unavailable` if it cannot be reached or the connection breaks, `TimedOut` after the deadline,
    /// `UnknownVersion` if the peer speaks something else.
    pub async fn call(&self, method: u16, payload: Bytes) -> FsResult<Bytes> {
        match tokio::time::timeout(self.deadline, self.attempt(method, payload)).await {
            Ok(result) => result,
            Err(_) => Err(FsError::new(
                ErrorKind::TimedOut,
                format!(
                    "the server at {} did not answer within {} ms",
                    self.peer.address,
                    self.deadline.as_millis()
                ),
            )),
        }
    }

    async fn attempt(&self, method: u16, payload: Bytes) -> FsResult<Bytes> {
        let _running = self
            .calls
            .acquire()
            .await
            .map_err(|_| FsError::from(ErrorKind::Unavailable))?;
        let connection = self.connected().await?;
        let call = connection.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match connection.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(call, sender),
            None => return Err(FsError::new(ErrorKind::Unavailable, "the connection broke")),
        };
        let _place = Place {
            connection: &connection,
            call,
        };
        connection.writer.send(&Frame {
            call,
            method,
            kind: FrameKind::Request,
            payload,
        })?;
        receiver
            .await
            .unwrap_or_else(|_| Err(FsError::new(ErrorKind::Unavailable, "the connection broke")))
    }

    /// The server.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    fn current(&self) -> Option<Arc<Connection>> {
        self.connection
            .lock()
            .clone()
            .filter(|connection| connection.is_open())
    }

    async fn connected(&self) -> FsResult<Arc<Connection>> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        // Held while connecting, so that many callers make one connection.
        let _one = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let connection = self.connect().await?;
        *self.connection.lock() = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> FsResult<Arc<Connection>> {
        let (writer, mut reader) = greet(&self.peer, Service::Metadata).await?;
        let connection = Arc::new(Connection {
            writer,
            waiting: Mutex::new(Some(HashMap::new())),
            next_call: AtomicU64::new(1),
        });
        let (kept, stop) = (connection.clone(), self.stop.clone());
        // Ends with the connection, or with this client.
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = kept.receive(&mut reader) => ended,
                ended = kept.writer.flush() => ended,
                () = stop.cancelled() => Ok(()),
            };
            let error = ended.err().unwrap_or_else(|| ErrorKind::Unavailable.into());
            tracing::debug!(%error, "framed connection ended");
            kept.end(&error);
        });
        Ok(connection)
    }
}

/// A new connection to `peer` for a service, on which both prefaces were exchanged.
///
/// # Errors
/// `Unavailable` if it cannot be reached, `UnknownVersion` if it speaks something else.
pub(super) async fn greet(peer: &Peer, service: Service) -> FsResult<(FrameWriter, FrameReader)> {
    let socket = dial(peer)
        .await
        .map_err(|error| peer.unreachable(&reason(&error)))?;
    let writer = FrameWriter::new(socket);
    let mut reader = FrameReader::new();
    let greet = async {
        writer.socket().writable().await.map_err(|error| broken(&error))?;
        let preface = preface(service);
        match writer.socket().try_write(&preface) {
            Ok(sent) if sent == preface.len() => reader.preface(writer.socket(), &[service]).await,
            _ => Err(peer.unreachable("it takes nothing")),
        }
    };
    tokio::time::timeout(PREFACE_DEADLINE, greet)
        .await
        .map_err(|_| peer.unreachable("it does not answer"))??;
    Ok((writer, reader))
}
