//! Latency of small metadata calls over each transport and kind of socket, against a running coordinator on this machine, in turns in
//! one run:
//! `cargo run --release -p dfs-proto --example call_latency -- HOST:PORT`

use dfs_common::service::MetadataService;
use dfs_common::session::{Identity, OpenSession};
use dfs_common::{FsResult, Ino};
use dfs_proto::socket::{LocalSockets, Peer};
use dfs_proto::{Transport, connect_metadata};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const ALONE: usize = 3000;
const IN_FLIGHT: usize = 16;
const EACH: usize = 1000;

async fn alone(service: &dyn MetadataService, identity: Identity) -> FsResult<(f64, f64)> {
    let mut micros = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let start = Instant::now();
        service.getattr(identity, Ino::ROOT).await?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    micros.sort_by(f64::total_cmp);
    Ok((micros[ALONE / 2], micros[ALONE * 99 / 100]))
}

async fn together(service: &Arc<dyn MetadataService>, identity: Identity) -> FsResult<f64> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    service.getattr(identity, Ino::ROOT).await?;
                }
                FsResult::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a caller does not panic")?;
    }
    Ok((IN_FLIGHT * EACH) as f64 / start.elapsed().as_secs_f64())
}

#[tokio::main]
async fn main() -> FsResult<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7400".to_string());
    println!(
        "{:<12} {:>10} {:>10} {:>16}",
        "", "p50 us", "p99 us", "16 in flight /s"
    );
    for _ in 0..ROUNDS {
        for (transport, local_sockets) in [
            (Transport::Grpc, LocalSockets::Off),
            (Transport::Grpc, LocalSockets::Only),
            (Transport::Framed, LocalSockets::Off),
            (Transport::Framed, LocalSockets::Only),
        ] {
            let peer = Peer::new(&address, local_sockets);
            let service = connect_metadata(transport, peer, Duration::from_secs(10))?;
            let name = match local_sockets {
                LocalSockets::Off => transport.to_string(),
                _ => format!("{transport}, unix"),
            };
            let request = OpenSession {
                client_name: "call_latency".to_string(),
                resume: None,
                opened: Vec::new(),
                unsynced: None,
                locks: Default::default(),
                leases: false,
            };
            let identity = service.open_session(request).await?.identity;
            let (p50, p99) = alone(&*service, identity).await?;
            let rate = together(&service, identity).await?;
            println!("{name:<12} {p50:>10.0} {p99:>10.0} {rate:>16.0}");
            service.close_session(identity).await?;
        }
    }
    Ok(())
}
