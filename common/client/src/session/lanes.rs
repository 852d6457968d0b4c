//! Gathers mutations that wait at the same time into one batch.
//!
//! A mutation that finds a free lane is sent at once, alone. While all lanes are busy further ones queue, and the first of
//! them sends all of them when a lane becomes free. No task is spawned: a caller sends its own batch and hands the lane on.
//! A sender that goes away loses nothing: those that waited for it find their channel closed and queue again.

use dfs_common::extent::ExtentData;
use dfs_common::limits::BATCH_OPS_MAX;
use dfs_common::op::{NumberedOp, OpResult, Operation};
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Batches in flight. Two keep the coordinator busy: one is being made durable while it gathers the other.
const LANES: usize = 2;
/// Estimated bytes of one batch, well below the largest message.
const BATCH_BYTES_MAX: usize = 1 << 20;

struct Waiting {
    op: NumberedOp,
    generation: u64,
    turn: oneshot::Sender<Turn>,
}

/// The result of an operation, and the inodes of its batch that the session has leases on now.
pub(crate) type Answered = (OpResult, Arc<[Ino]>);

enum Turn {
    Answered(FsResult<Answered>),
    Lead(Vec<Waiting>, Lane),
}

#[derive(Default)]
struct Inner {
    busy: usize,
    queue: VecDeque<Waiting>,
}

/// The lanes of a client.
#[derive(Default)]
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
}

/// The right to have one batch in flight; handed on when dropped.
struct Lane(Option<Arc<Lanes>>);

impl Drop for Lane {
    fn drop(&mut self) {
        let Some(lanes) = self.0.take() else {
            return;
        };
        loop {
            let mut inner = lanes.inner.lock();
            let Some(first) = inner.queue.pop_front() else {
                inner.busy -= 1;
                return;
            };
            let mut bytes = estimate(&first.op);
            let mut rest = Vec::new();
            while rest.len() + 1 < BATCH_OPS_MAX
                && let Some(next) = inner.queue.front()
                && next.generation == first.generation
            {
                bytes += estimate(&next.op);
                if bytes > BATCH_BYTES_MAX {
                    break;
                }
                rest.extend(inner.queue.pop_front());
            }
            drop(inner);
            let lane = Lane(Some(lanes.clone()));
            let Err(refused) = first.turn.send(Turn::Lead(rest, lane)) else {
                return;
            };
            // The first went away: the rest queue again in front, and the next leads.
            if let Turn::Lead(rest, mut lane) = refused {
                lane.0 = None;
                let mut inner = lanes.inner.lock();
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
            let queued = {
                let mut inner = self.inner.lock();
                if inner.busy < LANES {
                    inner.busy += 1;
                    None
                } else {
                    let (turn, answer) = oneshot::channel();
                    inner.queue.push_back(Waiting {
                        op: op.clone(),
                        generation,
                        turn,
                    });
                    Some(answer)
                }
            };
            match queued {
                None => break (Vec::new(), Lane(Some(self.clone()))),
                Some(answer) => match answer.await {
                    Ok(Turn::Answered(result)) => return result,
                    Ok(Turn::Lead(others, lane)) => break (others, lane),
                    // Whoever was to send it went away.
                    Err(_) => continue,
                },
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
    use dfs_common::OpNumber;
    use dfs_common::op::OpReply;
    use dfs_common::session::Caller;
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
            (Ok(reply), Arc::from([]))
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
                    lanes.send(op(number), 0, send).await.unwrap().0.unwrap();
                })
            })
            .collect()
    }

    #[tokio::test]
    async fn waiting_mutations_travel_together_in_the_order_of_their_numbers() {
        let lanes = Arc::new(Lanes::default());
        let open = Arc::new(Notify::new());
        let blockers = block(&lanes, &open);
        until(|| lanes.inner.lock().busy == LANES).await;
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
                lanes_.send(op(number), 0, send).await.unwrap().0.unwrap()
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
        assert_eq!(lanes.inner.lock().busy, 0);
    }

    #[tokio::test]
    async fn sender_that_goes_away_leaves_nobody_behind() {
        let lanes = Arc::new(Lanes::default());
        let open = Arc::new(Notify::new());
        let blockers = block(&lanes, &open);
        until(|| lanes.inner.lock().busy == LANES).await;
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
        stays.await.unwrap().unwrap().0.unwrap();
        for blocker in blockers {
            blocker.await.unwrap();
        }
        assert_eq!(lanes.inner.lock().busy, 0);
    }
}
