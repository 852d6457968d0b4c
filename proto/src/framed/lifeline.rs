//! Lifelines: a connection of their own, of which nothing matters but its end (docs/adr/0021-lifelines.md).
//!
//! ```text
//! client: preface, Request (LifelineRequest)    server: preface, Reply | Error
//! client: Ping                                  server: Pong
//! ```
//!
//! From the pong on neither side sends anything, so that nothing unread turns the end of a process into a reset. Invariant: the
//! server takes a lifeline for cut only by an orderly end of a connection that nothing stands between; whatever else happens
//! to it says nothing of the client. Therefore a client never closes in order what it may still hold.

use super::client::greet;
use super::frame::{Frame, FrameKind, Service};
use super::reader::FrameReader;
use super::server::reply;
use super::writer::{FrameWriter, broken};
use crate::convert::{error_from_wire, identity_to_wire, invalid, required_identity};
use crate::framed::{FramedHandler, PREFACE_DEADLINE};
use crate::socket::{Peer, Socket};
use crate::v1;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::service::Lifeline;
use dfs_common::session::Identity;
use dfs_common::{ErrorKind, FsError, FsResult};
use prost::Message;
use std::io::ErrorKind as IoErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

/// The client's end.
pub(super) struct FramedLifeline {
    writer: FrameWriter,
    reader: FrameReader,
}

/// Opens a lifeline to the coordinator at `peer`, which is not held yet. Cancel-safe.
///
/// # Errors
/// Those of [`dfs_common::service::MetadataService::lifeline`].
pub(super) async fn open(peer: &Peer, identity: &Identity, number: u64) -> FsResult<FramedLifeline> {
    let (writer, mut reader) = greet(peer, Service::Lifeline).await?;
    let addresses = writer.socket().addresses().map_err(|error| broken(&error))?;
    let (client_address, server_address) = addresses
        .map(|(own, server)| (own.to_string(), server.to_string()))
        .unwrap_or_default();
    let request = v1::LifelineRequest {
        identity: Some(identity_to_wire(identity)),
        number,
        client_address,
        server_address,
    };
    writer.send(&Frame {
        payload: request.encode_to_vec().into(),
        ..Frame::signal(FrameKind::Request)
    })?;
    let frame = tokio::time::timeout(CALL_DEADLINE, reader.next(writer.socket()))
        .await
        .map_err(|_| peer.unreachable("it does not answer"))??;
    match frame.kind {
        FrameKind::Reply => Ok(FramedLifeline { writer, reader }),
        FrameKind::Error => Err(match v1::Error::decode(frame.payload) {
            Ok(error) => error_from_wire(error),
            Err(_) => invalid("an error of the server is unreadable"),
        }),
        _ => Err(invalid("a lifeline is answered something else")),
    }
}

impl FramedLifeline {
    /// It is over: whoever closes it says nothing by that.
    fn over(&self, error: FsError) -> FsError {
        self.writer.socket().reset_when_closed();
        error
    }
}

#[async_trait]
impl Lifeline for FramedLifeline {
    /// Waits for as long as the connection lives: it must not be closed while nobody knows whether it is held.
    async fn hold(&mut self) -> FsResult<()> {
        let held = async {
            self.writer.send(&Frame::signal(FrameKind::Ping))?;
            let frame = self.reader.next(self.writer.socket()).await?;
            match frame.kind {
                FrameKind::Pong => Ok(()),
                FrameKind::Error => Err(match v1::Error::decode(frame.payload) {
                    Ok(error) => error_from_wire(error),
                    Err(_) => invalid("an error of the server is unreadable"),
                }),
                _ => Err(invalid("a lifeline is answered something else")),
            }
        };
        let held = held.await;
        held.map_err(|error| self.over(error))
    }

    async fn broken(&mut self) -> FsError {
        // Its memory is not needed any more.
        self.reader = FrameReader::new();
        let error = match end(self.writer.socket()).await {
            Ok(()) => FsError::new(ErrorKind::Unavailable, "the coordinator closed the lifeline"),
            Err(error) => error,
        };
        self.over(error)
    }
}

/// Serves a lifeline whose prefaces were exchanged, until its end.
///
/// # Errors
/// Why it ended, unless the client's process did.
pub(super) async fn serve(
    mut reader: FrameReader,
    writer: Arc<FrameWriter>,
    handler: Arc<dyn FramedHandler>,
) -> FsResult<()> {
    let socket = writer.socket();
    let request = next(&mut reader, socket).await?;
    if request.kind != FrameKind::Request {
        return Err(invalid("a lifeline begins with a request"));
    }
    let mut line = match open_at(handler, request.payload, socket).await {
        Ok(line) => line,
        Err(error) => {
            reply(&writer, 0, 0, Err(error.clone()))?;
            return Err(error);
        }
    };
    reply(&writer, 0, 0, Ok(Bytes::new()))?;
    if next(&mut reader, socket).await?.kind != FrameKind::Ping {
        return Err(invalid("a lifeline is held by a ping"));
    }
    if let Err(error) = line.hold().await {
        reply(&writer, 0, 0, Err(error.clone()))?;
        return Err(error);
    }
    writer.send(&Frame::signal(FrameKind::Pong))?;
    if reader.has_more() {
        return Err(invalid("a lifeline carries nothing"));
    }
    // Its memory is not needed any more.
    drop(reader);
    tokio::select! {
        // First: the end of one that does not count any more means nothing.
        biased;
        error = line.broken() => return Err(error),
        ended = end(socket) => ended?,
    }
    line.part().await;
    Ok(())
}

async fn next(reader: &mut FrameReader, socket: &Socket) -> FsResult<Frame> {
    tokio::time::timeout(PREFACE_DEADLINE, reader.next(socket))
        .await
        .map_err(|_| FsError::new(ErrorKind::TimedOut, "the peer is silent"))?
}

async fn open_at(
    handler: Arc<dyn FramedHandler>,
    payload: Bytes,
    socket: &Socket,
) -> FsResult<Box<dyn Lifeline>> {
    let request = v1::LifelineRequest::decode(payload)
        .map_err(|error| invalid(format!("a request is unreadable ({error})")))?;
    let identity = required_identity(request.identity)?;
    let addresses = socket.addresses().map_err(|error| broken(&error))?;
    if let Some((own, client)) = addresses
        && !(is_same(&request.server_address, own) && is_same(&request.client_address, client))
    {
        return Err(FsError::new(
            ErrorKind::NotSupported,
            format!(
                "something stands between the client at {} and this server, which {client} is: it may end connections by itself",
                request.client_address
            ),
        ));
    }
    handler.lifeline(identity, request.number).await
}

/// Whether the peer says the address that this end has; either may have an IPv4 address in the form of IPv6.
fn is_same(said: &str, has: SocketAddr) -> bool {
    let said: Option<SocketAddr> = said.parse().ok();
    said.is_some_and(|said| (said.ip().to_canonical(), said.port()) == (has.ip().to_canonical(), has.port()))
}

/// Waits for the peer's orderly end. Cancel-safe.
///
/// # Errors
/// `Unavailable` for any other end, `Invalid` if something arrives.
async fn end(socket: &Socket) -> FsResult<()> {
    let mut rest = BytesMut::with_capacity(16);
    loop {
        socket.readable().await.map_err(|error| broken(&error))?;
        match socket.try_read_buf(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(invalid("a lifeline carries nothing")),
            Err(error) if error.kind() == IoErrorKind::WouldBlock => {}
            Err(error) => return Err(broken(&error)),
        }
    }
}
