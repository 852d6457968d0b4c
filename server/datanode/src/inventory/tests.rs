//! The inventory as a coordinator would learn it, through lost heartbeats and overflow.

use super::*;
use crate::store::{Durable, HashSource, StoreLoad, StoredChunk};
use async_trait::async_trait;
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::piece::Piece;
use dfs_common::{ErrorKind, FsError};
use futures::stream::BoxStream;

/// A store that only lists.
#[derive(Default)]
struct Listed(Mutex<BTreeSet<ChunkId>>);

fn unused() -> FsError {
    FsError::from(ErrorKind::NotSupported)
}

#[async_trait]
impl ChunkStore for Listed {
    async fn store(
        &self,
        _: ChunkLabel,
        _: BoxStream<'static, FsResult<Piece>>,
        _: HashSource,
    ) -> FsResult<Durable> {
        Err(unused())
    }
    async fn read(&self, _: ChunkId, _: u64, _: u64) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        Err(unused())
    }
    async fn stat(&self, _: ChunkId) -> FsResult<ChunkDescription> {
        Err(unused())
    }
    async fn delete(&self, _: ChunkId) -> FsResult<()> {
        Err(unused())
    }
    async fn list(&self, after: Option<ChunkId>, limit: usize) -> FsResult<Vec<StoredChunk>> {
        let chunks = self.0.lock();
        let behind = chunks
            .iter()
            .filter(|chunk| after.is_none_or(|after| **chunk > after));
        let page = behind.take(limit).map(|chunk| StoredChunk {
            chunk: *chunk,
            length: 1,
            sha256: [0; 32],
        });
        Ok(page.collect())
    }
    async fn load(&self) -> FsResult<StoreLoad> {
        Err(unused())
    }
    async fn close(&self) {}
}

/// A node's chunks and what its coordinator believes of them.
#[derive(Default)]
struct Rig {
    store: Listed,
    inventory: Inventory,
    believed: BTreeSet<ChunkId>,
}

impl Rig {
    fn add(&self, number: u128) {
        self.store.0.lock().insert(ChunkId(number));
        self.inventory.push(Change::Added(ChunkId(number)));
    }
    fn remove(&self, number: u128) {
        self.store.0.lock().remove(&ChunkId(number));
        self.inventory.push(Change::Removed(ChunkId(number)));
    }
    /// One heartbeat; what a lost one said may have arrived all the same.
    async fn heartbeat(&mut self, arrives: bool, answered: bool) {
        let report = self.inventory.report(&self.store).await.unwrap();
        assert!(report.added.len() <= HEARTBEAT_INVENTORY_MAX);
        assert!(report.removed.len() <= HEARTBEAT_INVENTORY_MAX);
        if arrives {
            self.believed.extend(&report.added);
            for chunk in &report.removed {
                self.believed.remove(chunk);
            }
        }
        if answered {
            self.inventory.acknowledge(&report);
        }
    }
    async fn settle(&mut self) {
        for _ in 0..1000 {
            if self.inventory.is_settled() {
                break;
            }
            self.heartbeat(true, true).await;
        }
        assert!(self.inventory.is_settled());
        assert!(
            self.believed == *self.store.0.lock(),
            "the coordinator knows what is here"
        );
    }
}

#[tokio::test]
async fn coordinator_knows_the_truth_whatever_heartbeats_are_lost() {
    let mut rig = Rig::default();
    for number in 0..10_000 {
        rig.store.0.lock().insert(ChunkId(number));
    }
    rig.settle().await;
    let mut random = 1_u64;
    for step in 0..20_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let number = u128::from(random >> 33) % 50;
        match (random >> 20) % 16 {
            0 => rig.heartbeat(true, true).await,
            1 => rig.heartbeat(false, false).await,
            2 => rig.heartbeat(true, false).await,
            3 if step % 97 == 0 => rig.inventory.restart(),
            at if at % 2 == 0 => rig.add(number),
            _ => rig.remove(number),
        }
        if step % 1000 == 0 {
            rig.settle().await;
        }
    }
    rig.settle().await;
}

#[tokio::test]
async fn queue_is_bounded_and_overflow_loses_no_change() {
    let mut rig = Rig::default();
    rig.settle().await;
    rig.add(1);
    let taken_before = rig.inventory.report(&rig.store).await.unwrap();
    for number in 2..INVENTORY_PENDING_MAX as u128 + 10 {
        rig.add(number);
    }
    rig.remove(2);
    assert!(rig.inventory.queue.lock().changes.len() <= INVENTORY_PENDING_MAX);
    // An answer to a report of before says nothing of the queue of now.
    rig.inventory.acknowledge(&taken_before);
    rig.settle().await;
    assert_eq!(rig.believed.len(), INVENTORY_PENDING_MAX + 8);
}
