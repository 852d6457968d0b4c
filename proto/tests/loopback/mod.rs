//! A server on a free port of the loopback interface that ends with the test, and waiting for a condition.

use dfs_proto::framed::{ServeFramed, split};
use dfs_proto::grpc::tuned_server;
use dfs_proto::socket::{Listener, LocalSockets};
use futures::StreamExt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::RoutesBuilder;

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server; its port is free again when it is stopped.
pub struct Server {
    pub address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves what `add` adds, on any free port.
    pub async fn start(add: impl FnOnce(&mut RoutesBuilder)) -> Server {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), add).await
    }

    /// Serves what `add` adds, on this port.
    pub async fn start_at(address: SocketAddr, add: impl FnOnce(&mut RoutesBuilder)) -> Server {
        Self::start_split(address, None, add).await
    }

    /// The same, and framed connections beside it.
    pub async fn start_split(
        address: SocketAddr,
        frames: Option<ServeFramed>,
        add: impl FnOnce(&mut RoutesBuilder),
    ) -> Server {
        let listener = Listener::bind(address, LocalSockets::Off).await.unwrap();
        let address = listener.address();
        let mut routes = RoutesBuilder::default();
        add(&mut routes);
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let incoming = match frames {
            Some(frames) => split(listener, frames, connections.clone(), stop.clone()).boxed(),
            None => listener.boxed(),
        };
        let serving = tuned_server()
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let task = tokio::spawn(async move {
            serving.await.unwrap();
            connections.close();
            connections.wait().await;
        });
        Server { address, stop, task }
    }

    /// Ends it, running calls finished.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
