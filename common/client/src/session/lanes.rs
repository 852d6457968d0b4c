//! Gathers mutations that wait at the same time into one batch.
//!
//! A mutation that finds a free lane is sent at once, alone. While all lanes are busy further ones queue, and the first of
//! them sends all of them when a lane becomes free. No task is spawned: a caller sends its own batch and hands the lane on.
//! A sender that goes away loses nothing: those that waited for it find their channel closed and queue again. A batch that
//! takes long (it may wait for another client to give up a lease) holds nobody up: its lane no longer counts.

use dfs_common::extent::ExtentData;
use dfs_common::lease::Access;
use dfs_common::limits::BATCH_OPS_MAX;
use dfs_common::op::{NumberedOp, OpResult, Operation};
use dfs_common::{Attr, CommitPoint, ErrorKind, FsError, FsResult};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Batches in flight. Two keep the coordinator busy: one is being made durable while it gathers the other.
const LANES: usize = 2;
/// A batch in flight for longer than this is slow.
const SLOW: Duration = Duration::from_millis(10);
/// Estimated bytes of one batch, well below the largest message.
const BATCH_BYTES_MAX: usize = 1 << 20;

struct Waiting {
    op: NumberedOp,
    generation: u64,
    turn: oneshot::Sender<Turn>,
}

/// What is known of an operation of a batch.
pub(crate) struct Answered {
    pub(crate) result: OpResult,
    /// The inodes of its batch that the session has leases on now, as they are.
    pub(crate) leased: Arc<[Attr]>,
    /// What the session may do with the files that its batch opened or wrote.
    pub(crate) access: Arc<[Access]>,
    /// Whether the batch is durable.
    pub(crate) point: CommitPoint,
}

enum Turn {
    Answered(FsResult<Answered>),
    Lead(Vec<Waiting>, Lane),
}

#[derive(Default)]
struct Inner {
    /// Batches in flight: a number of their own, and since when.
    busy: Vec<(u64, Instant)>,
    next: u64,
    queue: VecDeque<Waiting>,
}

impl Inner {
    /// Takes a lane if one is free.
    fn take_lane(&mut self, lanes: &Arc<Lanes>) -> Option<Lane> {
        let now = Instant::now();
        if self.busy.len() >= LANES {
            let quick = self.busy.iter().filter(|(_, since)| now - *since < SLOW);
            if quick.count() >= LANES {
                return None;
            }
        }
        self.next += 1;
        self.busy.push((self.next, now));
        Some(Lane {
            lanes: Some(lanes.clone()),
            id: self.next,
        })
    }

    fn give_back(&mut self, id: u64) {
        self.busy.retain(|(busy, _)| *busy != id);
    }

    /// The longest waiting operations that fit in a batch.
    fn take_batch(&mut self) -> Option<(Waiting, Vec<Waiting>)> {
        let first = self.queue.pop_front()?;
        let mut bytes = estimate(&first.op);
        let mut rest = Vec::new();
        while rest.len() + 1 < BATCH_OPS_MAX
            && let Some(next) = self.queue.front()
            && next.generation == first.generation
        {
            bytes += estimate(&next.op);
            if bytes > BATCH_BYTES_MAX {
                break;
            }
            rest.extend(self.queue.pop_front());
        }
        Some((first, rest))
    }
}

/// The lanes of a client.
#[derive(Default)]
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
}

/// The right to have one batch in flight; handed on when dropped.
struct Lane {
    lanes: Option<Arc<Lanes>>,
    id: u64,
}

impl Drop for Lane {
    fn drop(&mut self) {
        let Some(lanes) = self.lanes.take() else {
            return;
        };
        lanes.inner.lock().give_back(self.id);
        loop {
            let mut inner = lanes.inner.lock();
            if inner.queue.is_empty() {
                return;
            }
            let Some(lane) = inner.take_lane(&lanes) else {
                return;
            };
            let batch = inner.take_batch();
            drop(inner);
            let Some((first, rest)) = batch else {
                return;
            };
            let Err(refused) = first.turn.send(Turn::Lead(rest, lane)) else {
                return;
            };
            // The first went away: the rest queue again in front, and the next leads.
            if let Turn::Lead(rest, mut lane) = refused {
                lane.lanes = None;
                let mut inner = lanes.inner.lock();
                inner.give_back(lane.id);
                for waiting in rest.into_iter().rev() {
                    inner.queue.push_front(waiting);
                }
            }
        }
    }
}

fn estimate(op: &NumberedOp) -> usize {
    let body = match &op.op {
        Operation::CommitWrite(commit) => {
            let inline = |data: &ExtentData| match data {
                ExtentData::Inline(bytes) => bytes.len(),
                ExtentData::Chunk { .. } => 0,
            };
            let extents = commit.extents.iter().map(|extent| 64 + inline(&extent.data));
            extents.sum::<usize>() + commit.chunks.len() * 512
        }
        Operation::Setxattr { value, .. } => value.len(),
        Operation::Symlink { target, .. } => target.len(),
        _ => 0,
    };
    512 + op.caller.groups.len() * 5 + body
}

impl Lanes {
    /// Lets those who wait go on if every lane is slow.
    fn pass_slow_lanes(self: &Arc<Self>) {
        let lane = self.inner.lock().take_lane(self);
        // It is handed on to the longest waiting.
        drop(lane);
    }

    /// Sends `op`, alone or with others, by `send`, which answers one result per operation.
    ///
    /// # Errors
    /// The outer error of the batch that it travelled in: nothing is known of the operation.
    pub(crate) async fn send<S, F>(
        self: &Arc<Self>,
        op: NumberedOp,
        generation: u64,
        send: S,
    ) -> FsResult<Answered>
    where
        S: FnOnce(Vec<NumberedOp>) -> F,
        F: Future<Output = FsResult<Vec<Answered>>>,
    {
        let (others, _lane) = loop {
            let mut answer = {
                let mut inner = self.inner.lock();
                if let Some(lane) = inner.take_lane(self) {
                    break (Vec::new(), lane);
                }
                let (turn, answer) = oneshot::channel();
                inner.queue.push_back(Waiting {
                    op: op.clone(),
                    generation,
                    turn,
                });
                answer
            };
            let turn = loop {
                match tokio::time::timeout(SLOW, &mut answer).await {
                    Ok(turn) => break turn,
                    // All lanes may have become slow meanwhile: then whoever waits longest goes on.
                    Err(_) => self.pass_slow_lanes(),
                }
            };
            match turn {
                Ok(Turn::Answered(result)) => return result,
                Ok(Turn::Lead(others, lane)) => break (others, lane),
                // Whoever was to send it went away.
                Err(_) => continue,
            }
        };
        if others.is_empty() {
            let results = send(vec![op]).await?;
            return results.into_iter().next().ok_or_else(short);
        }
        // Numbers of a batch increase.
        let mut turns: Vec<(NumberedOp, Option<oneshot::Sender<Turn>>)> = others
            .into_iter()
            .map(|waiting| (waiting.op, Some(waiting.turn)))
            .collect();
        turns.push((op, None));
        turns.sort_by_key(|(op, _)| op.number);
        let (ops, turns): (Vec<_>, Vec<_>) = turns.into_iter().unzip();
        let outcome = send(ops).await.and_then(|results| {
            if results.len() == turns.len() {
                Ok(results)
            } else {
                Err(short())
            }
        });
        let mut own = None;
        match outcome {
            Ok(results) => {
                for (turn, result) in turns.into_iter().zip(results) {
                    match turn {
                        // A caller that went away does not want it.
                        Some(turn) => drop(turn.send(Turn::Answered(Ok(result)))),
                        None => own = Some(Ok(result)),
                    }
                }
            }
            Err(error) => {
                for turn in turns.into_iter().flatten() {
                    drop(turn.send(Turn::Answered(Err(error.clone()))));
                }
                own = Some(Err(error));
            }
        }
        own.unwrap_or_else(|| Err(short()))
    }
}

fn short() -> FsError {
    FsError::new(
        ErrorKind::Io,
        "the coordinator answered another number of operations than it was sent",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::op::OpReply;
    use dfs_common::session::Caller;
    use dfs_common::{Ino, OpNumber};
    use tokio::sync::Notify;

    fn op(number: u64) -> NumberedOp {
        NumberedOp {
            number: OpNumber(number),
            caller: Caller::root(),
            op: Operation::GrantChunks { count: 1 },
        }
    }

    fn answer(ops: &[NumberedOp]) -> FsResult<Vec<Answered>> {
        let reply = |op: &NumberedOp| {
            let reply = OpReply::Removed {
                ino: Ino(op.number.0),
                nlink: 0,
            };
            Answered {
                result: Ok(reply),
                leased: Arc::from([]),
                access: Arc::from([]),
                point: CommitPoint::default(),
            }
        };
        Ok(ops.iter().map(reply).collect())
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        tokio::time::timeout(std::time::Duration::from_secs(10), async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the condition holds in the end");
    }

    /// Fills the lanes with senders that wait for `open`.
    fn block(lanes: &Arc<Lanes>, open: &Arc<Notify>) -> Vec<tokio::task::JoinHandle<()>> {
        (0..LANES as u64)
            .map(|number| {
                let (lanes, open) = (lanes.clone(), open.clone());
                tokio::spawn(async move {
                    let send = |ops: Vec<NumberedOp>| async move {
                        open.notified().await;
                        answer(&ops)
                    };
                    lanes.send(op(number), 0, send).await.unwrap().result.unwrap();
                })
            })
            .collect()
    }

    #[tokio::test]
    async fn waiting_mutations_travel_together_in_the_order_of_their_numbers() {
        let lanes = Arc::new(Lanes::default());
        let open = Arc::new(Notify::new());
        let blockers = block(&lanes, &open);
        until(|| lanes.inner.lock().busy.len() == LANES).await;
        let batches = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in [12, 11, 10] {
            let (lanes_, batches) = (lanes.clone(), batches.clone());
            let queued = lanes.inner.lock().queue.len();
            tasks.push(tokio::spawn(async move {
                let send = |ops: Vec<NumberedOp>| async move {
                    batches
                        .lock()
                        .push(ops.iter().map(|op| op.number.0).collect::<Vec<_>>());
                    answer(&ops)
                };
                lanes_.send(op(number), 0, send).await.unwrap().result.unwrap()
            }));
            until(|| lanes.inner.lock().queue.len() > queued).await;
        }
        open.notify_waiters();
        for (task, number) in tasks.into_iter().zip([12, 11, 10]) {
            let reply = task.await.unwrap();
            assert_eq!(
                reply,
                OpReply::Removed {
                    ino: Ino(number),
                    nlink: 0
                }
            );
        }
        assert_eq!(*batches.lock(), [vec![10, 11, 12]]);
        for blocker in blockers {
            blocker.await.unwrap();
        }
        assert!(lanes.inner.lock().busy.is_empty());
    }

    #[tokio::test]
    async fn sender_that_goes_away_leaves_nobody_behind() {
        let lanes = Arc::new(Lanes::default());
        let open = Arc::new(Notify::new());
        let blockers = block(&lanes, &open);
        until(|| lanes.inner.lock().busy.len() == LANES).await;
        // The first of the queue would lead, and is gone before or after it is told to.
        let gone = tokio::spawn({
            let lanes = lanes.clone();
            async move { lanes.send(op(20), 0, |ops| async move { answer(&ops) }).await }
        });
        until(|| lanes.inner.lock().queue.len() == 1).await;
        let stays = tokio::spawn({
            let lanes = lanes.clone();
            async move { lanes.send(op(21), 0, |ops| async move { answer(&ops) }).await }
        });
        until(|| lanes.inner.lock().queue.len() == 2).await;
        gone.abort();
        assert!(gone.await.is_err());
        open.notify_waiters();
        stays.await.unwrap().unwrap().result.unwrap();
        for blocker in blockers {
            blocker.await.unwrap();
        }
        assert!(lanes.inner.lock().busy.is_empty());
    }

    #[tokio::test]
    async fn slow_batches_hold_nobody_up() {
        let lanes = Arc::new(Lanes::default());
        let open = Arc::new(Notify::new());
        let blockers = block(&lanes, &open);
        until(|| lanes.inner.lock().busy.len() == LANES).await;
        for number in 30..33 {
            let send = |ops: Vec<NumberedOp>| async move { answer(&ops) };
            let sent = lanes.send(op(number), 0, send);
            let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
            sent.expect("it is not held up").unwrap().result.unwrap();
        }
        assert!(blockers.iter().all(|blocker| !blocker.is_finished()));
        open.notify_waiters();
        for blocker in blockers {
            blocker.await.unwrap();
        }
        assert!(lanes.inner.lock().busy.is_empty());
    }
}
