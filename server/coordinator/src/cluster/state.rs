//! The cluster as the coordinator sees it, with a version that readers follow by deltas.

use dfs_common::clock::Clock;
use dfs_common::cluster::{ClusterUpdate, NodeHealth, NodeInfo, PlacementGroup};
use dfs_common::limits::{CLUSTER_DELTAS_MAX, NODE_DOWN, NODE_SUSPECT};
use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult, NodeId, PgId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Secret that proves a datanode's heartbeats: 16 bytes, made with its data directory.
pub type NodeSecret = [u8; 16];

/// What a heartbeat says of a datanode's disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLoad {
    /// Incarnation.
    pub disk: DiskIncarnation,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Bytes of chunks.
    pub used_bytes: u64,
    /// Bytes that can still be written.
    pub available_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// False after a failed sync.
    pub writable: bool,
}

/// A registered datanode.
#[derive(Clone, Debug)]
pub struct Node {
    /// Made with its data directory.
    pub uuid: String,
    /// Proves its heartbeats.
    pub secret: NodeSecret,
    /// What others see of it.
    pub info: NodeInfo,
    heard: Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Last heartbeat or registration.
    At(Duration),
    /// None since this coordinator started, at this time: at best suspect.
    NotSince(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    Node(NodeId),
    Group(PgId),
}

struct Inner {
    nodes: BTreeMap<NodeId, Node>,
    groups: BTreeMap<PgId, PlacementGroup>,
    version: u64,
    /// What changed at each of the newest versions, oldest first.
    deltas: VecDeque<(u64, Changed)>,
    /// Readers of an older version need the full state.
    deltas_from: u64,
}

impl Inner {
    fn changed(&mut self, what: Changed) {
        self.version += 1;
        self.deltas.push_back((self.version, what));
        while self.deltas.len() > CLUSTER_DELTAS_MAX {
            if let Some((version, _)) = self.deltas.pop_front() {
                self.deltas_from = version;
            }
        }
    }
}

/// Nodes, groups and their version.
pub struct ClusterState {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

/// True if a reader should hear of the load: a change of writability or incarnation, or of a 64th of the disk.
fn is_notable(old: &NodeInfo, new: &NodeLoad) -> bool {
    old.writable != new.writable
        || old.disk != new.disk
        || old.capacity_bytes != new.capacity_bytes
        || old.available_bytes.abs_diff(new.available_bytes) > new.capacity_bytes / 64
        || (old.available_bytes == 0) != (new.available_bytes == 0)
}

impl ClusterState {
    /// An empty cluster. `epoch` grows with every opening of the data directory and is the upper half of all versions of
    /// this run, so they are above those of earlier runs.
    pub fn new(clock: Arc<dyn Clock>, epoch: u64) -> Self {
        let version = (epoch & u64::from(u32::MAX)) << 32;
        ClusterState {
            clock,
            inner: Mutex::new(Inner {
                nodes: BTreeMap::new(),
                groups: BTreeMap::new(),
                version,
                deltas: VecDeque::new(),
                deltas_from: version,
            }),
        }
    }

    /// A node found in the store at start: suspect until it is heard of.
    pub fn load_node(&self, uuid: String, secret: NodeSecret, info: NodeInfo) {
        let heard = Heard::NotSince(self.clock.monotonic());
        self.put_node(uuid, secret, info, heard);
    }

    /// A node whose registration was just made durable: up.
    pub fn registered(&self, uuid: String, secret: NodeSecret, info: NodeInfo) {
        let heard = Heard::At(self.clock.monotonic());
        self.put_node(uuid, secret, info, heard);
    }

    fn put_node(&self, uuid: String, secret: NodeSecret, mut info: NodeInfo, heard: Heard) {
        info.health = match heard {
            Heard::At(_) => NodeHealth::Up,
            Heard::NotSince(_) => NodeHealth::Suspect,
        };
        let id = info.id;
        let mut inner = self.inner.lock();
        inner.nodes.insert(
            id,
            Node {
                uuid,
                secret,
                info,
                heard,
            },
        );
        inner.changed(Changed::Node(id));
    }

    /// A placement group that is durable.
    pub fn put_group(&self, group: PlacementGroup) {
        let mut inner = self.inner.lock();
        let id = group.id;
        inner.groups.insert(id, group);
        inner.changed(Changed::Group(id));
    }

    /// Takes a heartbeat.
    ///
    /// # Errors
    /// `NotFound`: no such node, it must register; `Unauthenticated`: wrong secret.
    pub fn heartbeat(&self, id: NodeId, secret: &NodeSecret, load: NodeLoad) -> FsResult<()> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let node = inner.nodes.get_mut(&id).ok_or_else(|| {
            FsError::new(
                ErrorKind::NotFound,
                format!("node {id} is not registered: register again"),
            )
        })?;
        if node.secret != *secret {
            return Err(FsError::new(
                ErrorKind::Unauthenticated,
                format!("wrong secret for node {id}: its data directory is another one"),
            ));
        }
        node.heard = Heard::At(now);
        let notable = node.info.health != NodeHealth::Up || is_notable(&node.info, &load);
        if node.info.health != NodeHealth::Up {
            tracing::info!(node = %id, address = %node.info.address, "datanode is up");
        }
        // Small changes of the load are for status only: readers hear of them with the next notable one.
        node.info.health = NodeHealth::Up;
        node.info.disk = load.disk;
        node.info.writable = load.writable;
        node.info.used_bytes = load.used_bytes;
        node.info.chunks = load.chunks;
        node.info.capacity_bytes = load.capacity_bytes;
        node.info.available_bytes = load.available_bytes;
        if notable {
            inner.changed(Changed::Node(id));
        }
        Ok(())
    }

    /// Health from the time since the last heartbeats. Answers whether any changed.
    pub fn refresh_health(&self) -> bool {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let mut changed = Vec::new();
        for (id, node) in &mut inner.nodes {
            let (since, best) = match node.heard {
                Heard::At(at) => (at, NodeHealth::Up),
                Heard::NotSince(start) => (start, NodeHealth::Suspect),
            };
            let silent = now.saturating_sub(since);
            let health = if silent > NODE_DOWN {
                NodeHealth::Down
            } else if silent > NODE_SUSPECT {
                NodeHealth::Suspect
            } else {
                best
            };
            if health != node.info.health {
                tracing::warn!(node = %id, address = %node.info.address, ?health, ?silent, "datanode's health changed");
                node.info.health = health;
                changed.push(*id);
            }
        }
        for id in &changed {
            inner.changed(Changed::Node(*id));
        }
        !changed.is_empty()
    }

    /// What changed since `known_version`; everything if that is 0, too old, or of another run.
    pub fn update_since(&self, known_version: u64) -> ClusterUpdate {
        let inner = self.inner.lock();
        if known_version == 0 || known_version < inner.deltas_from || known_version > inner.version {
            return ClusterUpdate {
                version: inner.version,
                full: true,
                nodes: inner.nodes.values().map(|node| node.info.clone()).collect(),
                groups: inner.groups.values().cloned().collect(),
                removed_nodes: Vec::new(),
            };
        }
        let mut nodes = BTreeSet::new();
        let mut groups = BTreeSet::new();
        for (version, changed) in inner.deltas.iter().rev() {
            if *version <= known_version {
                break;
            }
            match changed {
                Changed::Node(id) => nodes.insert(*id),
                Changed::Group(id) => groups.insert(*id),
            };
        }
        ClusterUpdate {
            version: inner.version,
            full: false,
            nodes: nodes
                .iter()
                .filter_map(|id| inner.nodes.get(id))
                .map(|node| node.info.clone())
                .collect(),
            groups: groups
                .iter()
                .filter_map(|id| inner.groups.get(id))
                .cloned()
                .collect(),
            removed_nodes: Vec::new(),
        }
    }

    /// Version of the newest change.
    pub fn version(&self) -> u64 {
        self.inner.lock().version
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        self.inner
            .lock()
            .nodes
            .values()
            .map(|node| node.info.clone())
            .collect()
    }

    /// All placement groups.
    pub fn groups(&self) -> Vec<PlacementGroup> {
        self.inner.lock().groups.values().cloned().collect()
    }

    /// The members of a group.
    pub fn members(&self, group: PgId) -> Option<Vec<NodeId>> {
        self.inner
            .lock()
            .groups
            .get(&group)
            .map(|group| group.members.clone())
    }

    /// The node that registered with `uuid`: its number, secret and what others see of it.
    pub fn node_by_uuid(&self, uuid: &str) -> Option<Node> {
        self.inner
            .lock()
            .nodes
            .values()
            .find(|node| node.uuid == uuid)
            .cloned()
    }

    /// Runs `look` on nodes and groups, at one moment.
    pub fn with<T>(
        &self,
        look: impl FnOnce(&BTreeMap<NodeId, Node>, &BTreeMap<PgId, PlacementGroup>) -> T,
    ) -> T {
        let inner = self.inner.lock();
        look(&inner.nodes, &inner.groups)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dfs_common::clock::ManualClock;

    pub(crate) fn info(id: u32, available_bytes: u64) -> NodeInfo {
        NodeInfo {
            id: NodeId(id),
            address: format!("127.0.0.1:{}", 7000 + id),
            health: NodeHealth::Up,
            disk: DiskIncarnation(1),
            capacity_bytes: 100 << 30,
            used_bytes: 0,
            available_bytes,
            chunks: 0,
            writable: true,
        }
    }

    fn load(available_bytes: u64) -> NodeLoad {
        NodeLoad {
            disk: DiskIncarnation(1),
            capacity_bytes: 100 << 30,
            used_bytes: 0,
            available_bytes,
            chunks: 0,
            writable: true,
        }
    }

    fn cluster() -> (Arc<ManualClock>, ClusterState) {
        let clock = Arc::new(ManualClock::default());
        let state = ClusterState::new(clock.clone(), 3);
        for id in 1..=3 {
            state.registered(format!("uuid-{id}"), [id as u8; 16], info(id, 50 << 30));
        }
        (clock, state)
    }

    fn health(state: &ClusterState) -> Vec<NodeHealth> {
        state.nodes().iter().map(|node| node.health).collect()
    }

    #[test]
    fn health_follows_heartbeats() {
        let (clock, state) = cluster();
        use NodeHealth::{Down, Suspect, Up};
        clock.advance(NODE_SUSPECT);
        state.heartbeat(NodeId(1), &[1; 16], load(50 << 30)).unwrap();
        assert!(!state.refresh_health(), "not before the time is over");
        clock.advance(Duration::from_secs(1));
        assert!(state.refresh_health());
        assert_eq!(health(&state), [Up, Suspect, Suspect]);
        clock.advance(NODE_DOWN);
        state.refresh_health();
        state.heartbeat(NodeId(2), &[2; 16], load(50 << 30)).unwrap();
        assert_eq!(health(&state), [Down, Up, Down]);
    }

    #[test]
    fn heartbeat_needs_the_node_s_secret() {
        let (_, state) = cluster();
        let wrong = state.heartbeat(NodeId(1), &[2; 16], load(0)).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Unauthenticated);
        let unknown = state.heartbeat(NodeId(9), &[9; 16], load(0)).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::NotFound);
        assert_eq!(state.nodes()[0].available_bytes, 50 << 30);
    }

    #[test]
    fn readers_follow_by_deltas_and_old_ones_get_everything() {
        let (clock, state) = cluster();
        let full = state.update_since(0);
        assert!(full.full && full.nodes.len() == 3 && full.version >> 32 == 3);
        assert_eq!(
            state.update_since(full.version),
            ClusterUpdate {
                version: full.version,
                ..ClusterUpdate::default()
            }
        );
        // A small change of the load is no news, a large one is.
        state
            .heartbeat(NodeId(1), &[1; 16], load((50 << 30) - 1))
            .unwrap();
        assert_eq!(state.version(), full.version);
        state.heartbeat(NodeId(1), &[1; 16], load(10 << 30)).unwrap();
        state.put_group(PlacementGroup {
            id: PgId(1),
            version: 1,
            members: vec![NodeId(1)],
        });
        let delta = state.update_since(full.version);
        assert!(!delta.full);
        assert_eq!((delta.nodes.len(), delta.groups.len()), (1, 1));
        assert_eq!(delta.nodes[0].available_bytes, 10 << 30);
        assert!(
            state.update_since(delta.version + 1).full,
            "a version of another run"
        );
        assert!(state.update_since(5).full);
        for _ in 0..=CLUSTER_DELTAS_MAX {
            clock.advance(NODE_SUSPECT * 2);
            state.refresh_health();
            state.heartbeat(NodeId(1), &[1; 16], load(10 << 30)).unwrap();
        }
        assert!(state.update_since(delta.version).full);
        assert!(!state.update_since(state.version() - 1).full);
    }

    #[test]
    fn node_from_the_store_is_suspect_until_heard() {
        let clock = Arc::new(ManualClock::default());
        let state = ClusterState::new(clock.clone(), 1);
        state.load_node("uuid".to_string(), [1; 16], info(1, 1 << 30));
        assert_eq!(health(&state), [NodeHealth::Suspect]);
        state.refresh_health();
        assert_eq!(health(&state), [NodeHealth::Suspect]);
        clock.advance(NODE_DOWN * 2);
        state.refresh_health();
        assert_eq!(health(&state), [NodeHealth::Down]);
        state.heartbeat(NodeId(1), &[1; 16], load(1 << 30)).unwrap();
        assert_eq!(health(&state), [NodeHealth::Up]);
    }
}
