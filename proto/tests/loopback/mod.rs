//! A server on a free port of the loopback interface that ends with the test, and waiting for a condition.

use dfs_proto::grpc::tuned_server;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::RoutesBuilder;
use tonic::transport::server::TcpIncoming;

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server; its port is free again when it is stopped.
pub struct Server {
    pub address: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves what `add` adds, on any free port.
    pub async fn start(add: impl FnOnce(&mut RoutesBuilder)) -> Server {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), add).await
    }

    /// Serves what `add` adds, on this port.
    pub async fn start_at(address: SocketAddr, add: impl FnOnce(&mut RoutesBuilder)) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut routes = RoutesBuilder::default();
        add(&mut routes);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = tuned_server()
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(incoming, async {
                let _ = stopped.await;
            });
        let task = tokio::spawn(async { serving.await.unwrap() });
        Server { address, stop, task }
    }

    /// Ends it, running calls finished.
    pub async fn stop(self) {
        let _ = self.stop.send(());
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
