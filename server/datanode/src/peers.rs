//! The other datanodes, as the cluster state says. Chunks are forwarded to them and to nobody else: an address that a client made up
//! gets neither content nor capability.

use dfs_common::NodeId;
use dfs_common::cluster::{ClusterUpdate, NodeInfo};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// A forward that failed after at least this long is not tried again for as long: its datanode does not answer at all, and every
/// write would wait for that.
const SLOW_FAILURE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Known {
    version: u64,
    nodes: HashMap<NodeId, NodeInfo>,
    addresses: HashSet<String>,
    /// Addresses that failed slowly, and until when they are left alone.
    resting: HashMap<String, Instant>,
}

/// What is known of the cluster.
pub struct Peers {
    known: Mutex<Known>,
    changed: watch::Sender<u64>,
    asked: Notify,
}

impl Default for Peers {
    /// Nothing is known yet.
    fn default() -> Self {
        Peers {
            known: Mutex::default(),
            changed: watch::channel(0).0,
            asked: Notify::new(),
        }
    }
}

impl Peers {
    /// Version of the known cluster state; 0 is none.
    pub fn version(&self) -> u64 {
        self.known.lock().version
    }

    /// Takes what changed. Answers whether it was everything although something was known: the coordinator restarted, or this node
    /// fell far behind.
    pub fn apply(&self, update: ClusterUpdate) -> bool {
        let version = update.version;
        let anew = {
            let mut known = self.known.lock();
            let anew = update.full && known.version != 0;
            if update.full {
                known.nodes.clear();
            }
            for node in update.nodes {
                known.nodes.insert(node.id, node);
            }
            for id in &update.removed_nodes {
                known.nodes.remove(id);
            }
            known.version = version;
            known.addresses = known.nodes.values().map(|node| node.address.clone()).collect();
            let Known {
                addresses, resting, ..
            } = &mut *known;
            resting.retain(|address, _| addresses.contains(address));
            anew
        };
        self.changed.send_replace(version);
        anew
    }

    /// Whether `address` is a datanode of this cluster. If it is not known, asks the coordinator and waits up to `patience`: a new
    /// node's clients may know of it before we do.
    pub async fn has(&self, address: &str, patience: Duration) -> bool {
        let mut changed = self.changed.subscribe();
        let known = || self.known.lock().addresses.contains(address);
        if known() {
            return true;
        }
        self.asked.notify_one();
        let learnt = async {
            while changed.changed().await.is_ok() {
                if known() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, learnt).await;
        known()
    }

    /// Resolves when somebody wants to know more than the state has.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// A forward to `address`, begun at `since`, failed.
    pub fn failed(&self, address: &str, since: Instant) {
        let now = Instant::now();
        if now - since < SLOW_FAILURE {
            return;
        }
        let mut known = self.known.lock();
        if known.addresses.contains(address) {
            known.resting.insert(address.to_owned(), now + SLOW_FAILURE);
        }
    }

    /// Whether `address` failed slowly just now and should be left alone.
    pub fn is_resting(&self, address: &str) -> bool {
        let mut known = self.known.lock();
        match known.resting.get(address) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                known.resting.remove(address);
                false
            }
            None => false,
        }
    }
}
