//! Where new chunks go: which placement groups exist, and which of them a grant gets.
//!
//! Chunk ids name a placement group, so a group's members never change once chunks refer to it; new circumstances get new
//! groups. Their number is bounded: at most one per writing order of a set of nodes, and about [`GROUPS_PER_NODE`] per node,
//! so that few combinations of nodes hold common data and losing any few nodes rarely loses a chunk (copysets).

use super::state::{ClusterState, Node};
use crate::namespace::ChunkPlacement;
use dfs_common::cluster::{NodeHealth, PlacementGroup};
use dfs_common::limits::PLACEMENT_GROUPS_MAX;
use dfs_common::{ErrorKind, FsError, FsResult, NodeId, PgId};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Groups in which a node is first in writing order.
pub const GROUPS_PER_NODE: usize = 4;

/// How many replicas chunks shall have.
#[derive(Clone, Copy, Debug)]
pub struct Replication {
    /// Replicas of a new chunk.
    pub factor: u32,
    /// Receipts without which a commit is refused.
    pub floor: u32,
    /// Free bytes without which a node gets no new chunks: the size of a chunk.
    pub chunk_bytes: u64,
}

impl Replication {
    fn is_up(&self, node: &Node) -> bool {
        node.info.health == NodeHealth::Up && node.info.writable
    }
    fn has_room(&self, node: &Node) -> bool {
        node.info.available_bytes >= self.chunk_bytes
    }
    fn is_eligible(&self, node: &Node) -> bool {
        self.is_up(node) && self.has_room(node)
    }
}

/// Picks groups for new chunks from the cluster's state.
pub struct Placement {
    state: Arc<ClusterState>,
    replication: Replication,
}

impl Placement {
    /// Placement over `state`.
    pub fn new(state: Arc<ClusterState>, replication: Replication) -> Self {
        Placement { state, replication }
    }

    /// Groups that should exist and do not: member lists in writing order. Empty when nothing is to be done.
    pub fn missing_groups(&self) -> Vec<Vec<NodeId>> {
        self.state
            .with(|nodes, groups| missing(&self.replication, nodes, groups))
    }
}

impl ChunkPlacement for Placement {
    /// Groups for `count` new chunks, at random, weighted by the free space of their fullest member. Groups with
    /// `replication` members that can all take data are preferred; else those with the most members that can, at least the
    /// floor: their chunks are degraded.
    ///
    /// # Errors
    /// `NoSpace` if enough nodes are up but full; `Unavailable` if too few are up (the caller waits and tries again).
    fn choose(&self, count: u32) -> FsResult<Vec<PgId>> {
        let candidates = self
            .state
            .with(|nodes, groups| candidates(&self.replication, nodes, groups))?;
        let mut rng = rand::rng();
        Ok((0..count).map(|_| pick(&candidates, &mut rng)).collect())
    }

    fn members(&self, group: PgId) -> Option<Vec<NodeId>> {
        self.state.members(group)
    }
}

/// A group and its weight, at least 1.
type Candidate = (PgId, u64);

fn pick(candidates: &[Candidate], rng: &mut impl Rng) -> PgId {
    let total: u128 = candidates.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let mut point = rng.random_range(0..total.max(1));
    for (group, weight) in candidates {
        if point < u128::from(*weight) {
            return *group;
        }
        point -= u128::from(*weight);
    }
    candidates[candidates.len() - 1].0
}

fn candidates(
    replication: &Replication,
    nodes: &BTreeMap<NodeId, Node>,
    groups: &BTreeMap<PgId, PlacementGroup>,
) -> FsResult<Vec<Candidate>> {
    let factor = replication.factor as usize;
    let floor = replication.floor as usize;
    let mut best: Vec<Candidate> = Vec::new();
    let mut best_members = floor;
    for group in groups.values() {
        let members = group.members.iter().filter_map(|id| nodes.get(id));
        let eligible: Vec<&Node> = members.filter(|node| replication.is_eligible(node)).collect();
        let count = eligible.len().min(factor);
        if count < best_members {
            continue;
        }
        if count > best_members {
            best.clear();
            best_members = count;
        }
        let room = eligible
            .iter()
            .map(|node| node.info.available_bytes)
            .min()
            .unwrap_or(0);
        best.push((group.id, room.max(1)));
    }
    if !best.is_empty() {
        return Ok(best);
    }
    let up = nodes.values().filter(|node| replication.is_up(node)).count();
    let eligible = nodes
        .values()
        .filter(|node| replication.is_eligible(node))
        .count();
    if up >= floor && eligible < floor {
        return Err(FsError::new(
            ErrorKind::NoSpace,
            format!(
                "only {eligible} datanodes have space left, {floor} are needed: add datanodes or delete files"
            ),
        ));
    }
    Err(FsError::new(
        ErrorKind::Unavailable,
        format!(
            "{up} of {} registered datanodes are up and writable, {floor} are needed for new data",
            nodes.len()
        ),
    ))
}

fn missing(
    replication: &Replication,
    nodes: &BTreeMap<NodeId, Node>,
    groups: &BTreeMap<PgId, PlacementGroup>,
) -> Vec<Vec<NodeId>> {
    let usable: Vec<&Node> = nodes
        .values()
        .filter(|node| replication.is_eligible(node))
        .collect();
    let size = usable.len().min(replication.factor as usize);
    if size < replication.floor.max(1) as usize || groups.len() >= PLACEMENT_GROUPS_MAX {
        return Vec::new();
    }
    let usable_ids: BTreeSet<NodeId> = usable.iter().map(|node| node.info.id).collect();
    let existing: BTreeSet<&[NodeId]> = groups.values().map(|group| &group.members[..]).collect();
    let mut wanted: Vec<Vec<NodeId>> = Vec::new();
    for first in &usable_ids {
        // Groups of this size that the node is first of and that can be used now.
        let has = groups
            .values()
            .filter(|group| {
                group.members.len() == size
                    && group.members[0] == *first
                    && group.members.iter().all(|id| usable_ids.contains(id))
            })
            .count();
        let others = usable_ids.len() - 1;
        // With just enough nodes there is one set; a second writing order of its tail spreads nothing.
        let target = if others + 1 == size {
            1
        } else {
            GROUPS_PER_NODE.min(others)
        };
        let mut made = 0;
        for round in 0..GROUPS_PER_NODE as u64 * 4 {
            if has + made >= target {
                break;
            }
            let members = members_of(*first, round, size, &usable_ids);
            let same_set = |other: &[NodeId]| {
                other[0] == *first && other.len() == size && members.iter().all(|id| other.contains(id))
            };
            let known = existing.contains(&members[..])
                || existing.iter().any(|other| !other.is_empty() && same_set(other))
                || wanted.iter().any(|other| same_set(other));
            if !known {
                wanted.push(members);
                made += 1;
            }
        }
    }
    wanted.truncate(PLACEMENT_GROUPS_MAX - groups.len());
    wanted
}

/// The group of `size` nodes that begins with `first`: the others by rendezvous hashing, so that a set of nodes gives the
/// same groups wherever and whenever it is computed.
fn members_of(first: NodeId, round: u64, size: usize, nodes: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let mut others: Vec<(u64, NodeId)> = nodes
        .iter()
        .filter(|id| **id != first)
        .map(|id| (mix(u64::from(first.0) << 32 | u64::from(id.0), round), *id))
        .collect();
    others.sort();
    let mut members = vec![first];
    members.extend(others.into_iter().take(size - 1).map(|(_, id)| id));
    members
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn mix(value: u64, round: u64) -> u64 {
    let mut z = value.wrapping_add((round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::state::NodeLoad;
    use super::super::state::tests::info;
    use super::*;
    use dfs_common::DiskIncarnation;
    use dfs_common::clock::ManualClock;
    use dfs_common::limits::NODE_SUSPECT;

    const ROOM: u64 = 50 << 30;

    struct Rig {
        clock: Arc<ManualClock>,
        state: Arc<ClusterState>,
        placement: Placement,
    }

    fn rig(nodes: u32, factor: u32, floor: u32) -> Rig {
        let clock = Arc::new(ManualClock::default());
        let state = Arc::new(ClusterState::new(clock.clone(), 1));
        let replication = Replication {
            factor,
            floor,
            chunk_bytes: 8 << 20,
        };
        let rig = Rig {
            clock,
            placement: Placement::new(state.clone(), replication),
            state,
        };
        for id in 1..=nodes {
            rig.add(id);
        }
        rig
    }

    impl Rig {
        fn add(&self, id: u32) {
            self.state
                .registered(format!("uuid-{id}"), [id as u8; 16], info(id, ROOM));
        }
        fn make_groups(&self) -> usize {
            let missing = self.placement.missing_groups();
            let made = missing.len();
            let next = self.state.groups().len() as u32 + 1;
            for (index, members) in missing.into_iter().enumerate() {
                self.state.put_group(PlacementGroup {
                    id: PgId(next + index as u32),
                    version: 1,
                    members,
                });
            }
            assert!(
                self.placement.missing_groups().is_empty(),
                "making groups settles"
            );
            made
        }
        fn only_up(&self, up: &[u32], available_bytes: u64) {
            self.clock.advance(NODE_SUSPECT * 2);
            for id in up {
                let load = NodeLoad {
                    disk: DiskIncarnation(1),
                    capacity_bytes: 100 << 30,
                    used_bytes: 0,
                    available_bytes,
                    chunks: 0,
                    writable: true,
                };
                self.state.heartbeat(NodeId(*id), &[*id as u8; 16], load).unwrap();
            }
            self.state.refresh_health();
        }
        fn choose(&self) -> FsResult<Vec<Vec<NodeId>>> {
            let groups = self.placement.choose(50)?;
            assert_eq!(groups.len(), 50);
            Ok(groups
                .iter()
                .map(|id| self.placement.members(*id).unwrap())
                .collect())
        }
    }

    #[test]
    fn three_nodes_get_one_group_per_writing_order() {
        let rig = rig(3, 3, 2);
        assert_eq!(rig.make_groups(), 3);
        let chosen = rig.choose().unwrap();
        assert!(chosen.iter().all(|members| members.len() == 3));
        let first: BTreeSet<NodeId> = chosen.iter().map(|members| members[0]).collect();
        assert_eq!(first.len(), 3, "writing starts at every node");
    }

    #[test]
    fn many_nodes_get_a_bounded_number_of_groups() {
        let rig = rig(20, 3, 2);
        let made = rig.make_groups();
        assert!((20..=20 * GROUPS_PER_NODE).contains(&made), "{made}");
        for group in rig.state.groups() {
            let distinct: BTreeSet<_> = group.members.iter().collect();
            assert_eq!(distinct.len(), 3);
        }
    }

    #[test]
    fn too_few_nodes_make_a_partial_group_and_full_ones_replace_it() {
        let rig = rig(1, 3, 2);
        assert_eq!(rig.make_groups(), 0);
        assert_eq!(rig.choose().unwrap_err().kind(), ErrorKind::Unavailable);
        rig.add(2);
        assert_eq!(rig.make_groups(), 2);
        assert!(rig.choose().unwrap().iter().all(|members| members.len() == 2));
        rig.add(3);
        rig.make_groups();
        assert!(rig.choose().unwrap().iter().all(|members| members.len() == 3));
    }

    #[test]
    fn degraded_group_is_chosen_down_to_the_floor() {
        let rig = rig(3, 3, 2);
        rig.make_groups();
        rig.only_up(&[1, 2], ROOM);
        for members in rig.choose().unwrap() {
            let up = members.iter().filter(|id| id.0 != 3).count();
            assert_eq!(up, 2);
        }
        rig.only_up(&[1], ROOM);
        assert_eq!(rig.choose().unwrap_err().kind(), ErrorKind::Unavailable);
        rig.only_up(&[1, 2, 3], ROOM);
        assert!(rig.choose().is_ok());
    }

    #[test]
    fn full_nodes_are_no_space_and_not_unavailable() {
        let rig = rig(3, 3, 2);
        rig.make_groups();
        rig.only_up(&[1, 2, 3], 1 << 20);
        assert_eq!(rig.choose().unwrap_err().kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn fourth_node_takes_the_place_of_a_lost_one() {
        let rig = rig(3, 3, 2);
        rig.make_groups();
        rig.add(4);
        rig.only_up(&[1, 2, 4], ROOM);
        rig.make_groups();
        for mut members in rig.choose().unwrap() {
            members.sort();
            assert_eq!(members, [NodeId(1), NodeId(2), NodeId(4)]);
        }
    }

    #[test]
    fn emptier_nodes_get_more() {
        let candidates = [(PgId(1), 1), (PgId(2), 9)];
        let mut rng = rand::rng();
        let second = (0..2000)
            .filter(|_| pick(&candidates, &mut rng) == PgId(2))
            .count();
        assert!((1600..2000).contains(&second), "{second}");
    }
}
