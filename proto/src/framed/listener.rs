//! One port for two protocols: a connection's first byte tells HTTP/2 (`PRI * HTTP/2.0`) from frames (`DFS`).

use super::server::serve_connection;
use crate::framed::{FramedHandler, PREFACE_DEADLINE};
use crate::socket::{Listener, Socket};
use dfs_common::limits::CONNECTIONS_MAX;
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

/// Accepts connections until `stop`: serves the framed ones with `handler` in `tasks`, and answers the HTTP/2 ones as the
/// incoming stream of a tonic server. At most [`CONNECTIONS_MAX`] framed ones at a time.
pub fn split(
    listener: Listener,
    handler: Arc<dyn FramedHandler>,
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
            let (handler, sender, calls, stop) =
                (handler.clone(), sender.clone(), connections.clone(), stop.clone());
            connections.spawn(async move {
                let _permit = permit;
                tokio::select! {
                    () = serve(socket, handler, sender, &calls) => {}
                    () = stop.cancelled() => {}
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

async fn serve(
    socket: Socket,
    handler: Arc<dyn FramedHandler>,
    grpc: mpsc::Sender<io::Result<Socket>>,
    calls: &TaskTracker,
) {
    let mut first = [0];
    match tokio::time::timeout(PREFACE_DEADLINE, socket.peek(&mut first)).await {
        Ok(Ok(1)) if first == *b"D" => {
            if let Err(error) = serve_connection(socket, handler, calls).await {
                tracing::debug!(%error, "framed connection ended");
            }
        }
        Ok(Ok(1)) if first == *b"P" => {
            let _ = grpc.send(Ok(socket)).await;
        }
        // Nothing, or a stranger.
        _ => {}
    }
}
