//! Background work: one trait, so that an administrator can list it and shutdown can stop it between steps.

use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Work that goes on in the background, in steps.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// Its name, for status and logs.
    fn name(&self) -> &'static str;
    /// One line on what it does just now, for administrators.
    fn status(&self) -> String;
    /// One step: short, and complete in itself (the worker may be stopped after it). Answers when to take the next.
    async fn step(&self) -> Duration;
}

type Running = (Arc<dyn Worker>, JoinHandle<()>);

/// The running workers of a coordinator.
#[derive(Default)]
pub struct Workers {
    stop: CancellationToken,
    running: Mutex<Vec<Running>>,
}

impl Workers {
    /// Runs `worker` until [`Workers::stop`].
    pub fn spawn(&self, worker: Arc<dyn Worker>) {
        let stop = self.stop.clone();
        let stepping = worker.clone();
        let task = tokio::spawn(async move {
            while !stop.is_cancelled() {
                let pause = stepping.step().await;
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
        self.running.lock().push((worker, task));
    }

    /// Name and status of each worker.
    pub fn list(&self) -> Vec<(&'static str, String)> {
        let running = self.running.lock();
        running
            .iter()
            .map(|(worker, _)| (worker.name(), worker.status()))
            .collect()
    }

    /// Stops all workers, each after its current step.
    pub async fn stop(&self) {
        self.stop.cancel();
        let running = std::mem::take(&mut *self.running.lock());
        for (worker, task) in running {
            if let Err(error) = task.await {
                tracing::error!(worker = worker.name(), %error, "worker failed");
            }
        }
    }
}
