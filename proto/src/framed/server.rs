//! Serves framed connections: requests are handled as they arrive, replies leave in any order.
//!
//! A handler that is ready at once is answered by the task that read the request; only one that waits gets a task of its
//! own. Bounded: [`FRAMED_CALLS_MAX`] calls of a connection run at a time, more are not read; nor are any while the peer is far behind
//! with reading its replies.

use super::frame::{Frame, FrameKind, Service, preface};
use super::lifeline;
use super::reader::FrameReader;
use super::writer::FrameWriter;
use crate::convert::error_to_wire;
use crate::framed::{FramedHandler, PREFACE_DEADLINE};
use crate::socket::Socket;
use bytes::Bytes;
use dfs_common::limits::FRAMED_CALLS_MAX;
use dfs_common::{ErrorKind, FsError, FsResult};
use prost::Message;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// A client asks after 5 s of silence whether we are there; one that is silent for longer than this is gone.
const CLIENT_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Serves a connection until it ends. Calls that still run then are finished by `tasks`, without an audience.
///
/// # Errors
/// Why it ended, `Unavailable` when the peer closed it.
pub async fn serve_connection(
    socket: Socket,
    handler: Arc<dyn FramedHandler>,
    tasks: &TaskTracker,
) -> FsResult<()> {
    let writer = Arc::new(FrameWriter::new(socket));
    let mut reader = FrameReader::new();
    let services = [Service::Metadata, Service::Lifeline];
    let service = tokio::time::timeout(PREFACE_DEADLINE, reader.preface(writer.socket(), &services))
        .await
        .map_err(|_| FsError::new(ErrorKind::TimedOut, "the peer sent no preface"))??;
    // Eight bytes fit into the buffer of a new socket.
    let preface = preface(service);
    match writer.socket().try_write(&preface) {
        Ok(sent) if sent == preface.len() => {}
        _ => return Err(FsError::new(ErrorKind::Unavailable, "the peer takes nothing")),
    }
    if service == Service::Lifeline {
        return lifeline::serve(reader, writer, handler).await;
    }
    tokio::select! {
        ended = read_requests(&mut reader, &writer, &handler, tasks) => ended,
        ended = writer.flush() => ended,
    }
}

async fn read_requests(
    reader: &mut FrameReader,
    writer: &Arc<FrameWriter>,
    handler: &Arc<dyn FramedHandler>,
    tasks: &TaskTracker,
) -> FsResult<()> {
    let running = Arc::new(Semaphore::new(FRAMED_CALLS_MAX));
    loop {
        tokio::time::timeout(CLIENT_SILENCE_MAX, writer.room())
            .await
            .map_err(|_| FsError::new(ErrorKind::TimedOut, "the peer does not read its replies"))?;
        let frame = tokio::time::timeout(CLIENT_SILENCE_MAX, reader.next(writer.socket()))
            .await
            .map_err(|_| FsError::new(ErrorKind::TimedOut, "the peer is silent"))??;
        match frame.kind {
            FrameKind::Request => {}
            FrameKind::Ping => {
                writer.send(&Frame::signal(FrameKind::Pong))?;
                continue;
            }
            _ => {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    "a client sends requests and pings only",
                ));
            }
        }
        let permit = running
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| FsError::from(ErrorKind::Unavailable))?;
        let Frame {
            call,
            method,
            payload,
            ..
        } = frame;
        let mut handling = handler.clone().call(method, payload);
        match poll_fn(|context| Poll::Ready(handling.as_mut().poll(context))).await {
            Poll::Ready(result) => reply(writer, call, method, result)?,
            Poll::Pending => {
                let writer = writer.clone();
                tasks.spawn(async move {
                    let result = handling.await;
                    // A broken connection is noticed by its reader.
                    let _ = reply(&writer, call, method, result);
                    drop(permit);
                });
            }
        }
    }
}

pub(super) fn reply(writer: &FrameWriter, call: u64, method: u16, result: FsResult<Bytes>) -> FsResult<()> {
    let (kind, payload) = match result {
        Ok(payload) => (FrameKind::Reply, payload),
        Err(error) => (FrameKind::Error, error_to_wire(&error).encode_to_vec().into()),
    };
    let frame = Frame {
        call,
        method,
        kind,
        payload,
    };
    match writer.send(&frame) {
        Err(error) if error.kind() == ErrorKind::TooBig => writer.send(&Frame {
            kind: FrameKind::Error,
            payload: error_to_wire(&error).encode_to_vec().into(),
            ..frame
        }),
        sent => sent,
    }
}
