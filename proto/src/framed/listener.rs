//! One port for two protocols: a connection's first byte tells HTTP/2 (`PRI * HTTP/2.0`) from frames (`DFS`).

use super::server::serve_connection;
use crate::framed::{FramedHandler, PREFACE_DEADLINE};
use crate::socket::{Listener, Socket};
use dfs_common::FsResult;
use dfs_common::limits::CONNECTIONS_MAX;
use futures::future::BoxFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Accepted connections that wait for the HTTP/2 server.
const ACCEPTED_MAX: usize = 64;
/// After a failed accept (too many open files): others may close some meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves one framed connection until it ends, or until the token says stop and nothing is under way on it any more.
pub type ServeFramed =
    Arc<dyn Fn(Socket, CancellationToken) -> BoxFuture<'static, FsResult<()>> + Send + Sync>;

/// Serves connections with calls to `handler`. Those that still run at the end of their connection are finished in `tasks`.
pub fn serve_calls(handler: Arc<dyn FramedHandler>, tasks: TaskTracker) -> ServeFramed {
    Arc::new(move |socket, stop| {
        let (handler, tasks) = (handler.clone(), tasks.clone());
        Box::pin(async move {
            tokio::select! {
                ended = serve_connection(socket, handler, &tasks) => ended,
                () = stop.cancelled() => Ok(()),
            }
        })
    })
}

/// Serves as `serve` does, but gives up what is under way when `end` is cancelled.
pub fn unless(end: CancellationToken, serve: ServeFramed) -> ServeFramed {
    Arc::new(move |socket, stop| {
        let (end, serving) = (end.clone(), serve(socket, stop));
        Box::pin(async move {
            tokio::select! {
                ended = serving => ended,
                () = end.cancelled() => Ok(()),
            }
        })
    })
}

/// Accepts connections until `stop`: serves the framed ones with `serve` in `tasks`, and answers the HTTP/2 ones as the
/// incoming stream of a tonic server. At most [`CONNECTIONS_MAX`] framed ones at a time; then none is accepted.
pub fn split(
    listener: Listener,
    serve: ServeFramed,
    tasks: TaskTracker,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Socket>> {
    let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &room) => accepted,
                () = stop.cancelled() => return,
            };
            let Some((socket, permit)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (serve, sender, stop) = (serve.clone(), sender.clone(), stop.clone());
            connections.spawn(async move {
                let _permit = permit;
                let protocol = tokio::select! {
                    protocol = protocol(&socket) => protocol,
                    () = stop.cancelled() => None,
                };
                match protocol {
                    Some(Protocol::Frames) => {
                        if let Err(error) = serve(socket, stop).await {
                            tracing::debug!(%error, "framed connection ended");
                        }
                    }
                    Some(Protocol::Http2) => {
                        let _ = sender.send(Ok(socket)).await;
                    }
                    None => {}
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept(listener: &Listener, room: &Arc<Semaphore>) -> Option<(Socket, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok(socket) => Some((socket, permit)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            None
        }
    }
}

enum Protocol {
    Frames,
    Http2,
}

/// What the peer begins with; `None` if it is nothing, or a stranger.
async fn protocol(socket: &Socket) -> Option<Protocol> {
    let mut first = [0];
    match tokio::time::timeout(PREFACE_DEADLINE, socket.peek(&mut first)).await {
        Ok(Ok(1)) if first == *b"D" => Some(Protocol::Frames),
        Ok(Ok(1)) if first == *b"P" => Some(Protocol::Http2),
        _ => None,
    }
}
