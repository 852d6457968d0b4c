//! A coordinator and three datanodes in one process: a whole cluster for one machine.
//!
//! They speak gRPC over sockets exactly as separate processes do; only their lives are tied together. Invariant:
//! the data directory holds these four and nothing else, so that it is never mistaken for the directory of a single server.

use crate::args::StandaloneArgs;
use dfs_common::{ErrorKind, FsError, FsResult};
use dfs_coordinator::{Coordinator, CoordinatorConfig};
use dfs_datanode::{Datanode, DatanodeConfig};
use futures::FutureExt;
use futures::future::{join_all, select_all};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// As many as the default replication factor.
const DATANODES: usize = 3;
/// How long the datanodes may take to register with the coordinator beside them.
const REGISTRATION: Duration = Duration::from_secs(30);
const COORDINATOR_DIR: &str = "coordinator";

/// A running cluster.
pub struct Standalone {
    coordinator: Coordinator,
    datanodes: Vec<Datanode>,
}

impl Standalone {
    /// Starts all four; returns when every datanode is registered.
    ///
    /// # Errors
    /// `Invalid` if the data directory is the one of something else, or what kept one of the four from starting; those that had
    /// started are shut down.
    pub async fn start(args: &StandaloneArgs) -> FsResult<Self> {
        check_directory(&args.data)?;
        let mut config = CoordinatorConfig::new(args.data.join(COORDINATOR_DIR), args.listen);
        config.local_sockets = args.local_sockets;
        config.store = args.store.into();
        let coordinator = Coordinator::start(config).await?;
        let mut standalone = Standalone {
            coordinator,
            datanodes: Vec::with_capacity(DATANODES),
        };
        match standalone.start_datanodes(args).await {
            Ok(()) => Ok(standalone),
            Err(error) => {
                standalone.shutdown().await;
                Err(error)
            }
        }
    }

    async fn start_datanodes(&mut self, args: &StandaloneArgs) -> FsResult<()> {
        for number in 1..=DATANODES {
            let config = DatanodeConfig {
                data_dir: args.data.join(datanode_dir(number)),
                listen: SocketAddr::new(args.listen.ip(), 0),
                local_sockets: args.local_sockets,
                advertise: None,
                coordinator: self.coordinator.address().to_string(),
            };
            let datanode = Datanode::start(config)
                .await
                .map_err(|error| error.context(format_args!("starting datanode {number}")))?;
            self.datanodes.push(datanode);
        }
        let waiting = self
            .datanodes
            .iter()
            .map(|node| node.wait_registered(REGISTRATION));
        for (index, outcome) in join_all(waiting).await.into_iter().enumerate() {
            outcome.map_err(|error| error.context(format_args!("registering datanode {}", index + 1)))?;
        }
        Ok(())
    }

    /// Address of the coordinator.
    pub fn address(&self) -> SocketAddr {
        self.coordinator.address()
    }

    /// Resolves when one of the datanodes cannot go on.
    pub async fn failed(&self) -> FsError {
        let failing = self.datanodes.iter().map(|node| node.failed().boxed());
        let (error, index, _) = select_all(failing).await;
        error.context(format_args!("datanode {}", index + 1))
    }

    /// Datanodes first: the coordinator hears of no failure that is none.
    pub async fn shutdown(self) {
        join_all(self.datanodes.into_iter().map(Datanode::shutdown)).await;
        self.coordinator.shutdown().await;
    }
}

fn datanode_dir(number: usize) -> String {
    format!("datanode-{number}")
}

fn check_directory(data: &Path) -> FsResult<()> {
    dfs_common::durable::create_dir_all(data).map_err(|error| {
        FsError::from(error).context(format_args!("making the data directory {}", data.display()))
    })?;
    let ours: Vec<String> = (1..=DATANODES)
        .map(datanode_dir)
        .chain([COORDINATOR_DIR.to_owned(), "lost+found".to_owned()])
        .collect();
    let reading = |error: std::io::Error| {
        FsError::from(error).context(format_args!("reading the data directory {}", data.display()))
    };
    for entry in std::fs::read_dir(data).map_err(reading)? {
        let name = entry.map_err(reading)?.file_name();
        if !ours.iter().any(|known| name == known.as_str()) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "{} is not the data directory of a standalone cluster (it has {:?}): use an empty or new directory",
                    data.display(),
                    name.to_string_lossy()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_something_else_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        check_directory(dir.path()).unwrap();
        check_directory(&dir.path().join("new")).unwrap();
        std::fs::remove_dir(dir.path().join("new")).unwrap();
        std::fs::create_dir(dir.path().join("coordinator")).unwrap();
        check_directory(dir.path()).unwrap();
        std::fs::write(dir.path().join("coordinator.json"), b"{}").unwrap();
        let error = check_directory(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("coordinator.json"), "{error}");
    }
}
