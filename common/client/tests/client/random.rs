//! Random operations on one file agree with an array of bytes, whatever the servers do.

use crate::rig::*;
use dfs_client::{Client, FileHandle};
use dfs_common::Ino;
use dfs_common::attr::SetAttr;
use dfs_testkit::faults::Fault;
use dfs_testkit::twin::TwinOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

const SIZE_MAX: usize = 400_000;

struct Run<'a> {
    client: &'a Client,
    ino: Ino,
    handles: Vec<FileHandle>,
    model: Vec<u8>,
    rng: StdRng,
}

impl Run<'_> {
    fn handle(&mut self) -> FileHandle {
        let index = self.rng.random_range(0..self.handles.len());
        self.handles[index]
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..40 => {
                let handle = self.handle();
                let small = self.rng.random_bool(0.7);
                let length = self.rng.random_range(1..if small { 5000 } else { 150_000 });
                let offset = self.rng.random_range(0..SIZE_MAX - length);
                let data = pattern(length, self.rng.random());
                if self.model.len() < offset + length {
                    self.model.resize(offset + length, 0);
                }
                self.model[offset..offset + length].copy_from_slice(&data);
                put(self.client, handle, offset as u64, &data).await;
            }
            40..75 => {
                let handle = self.handle();
                let offset = self.rng.random_range(0..SIZE_MAX);
                let length = self.rng.random_range(0..150_000);
                let read = self
                    .client
                    .read(handle, offset as u64, length as u32)
                    .await
                    .unwrap();
                let from = offset.min(self.model.len());
                let to = (offset + length).min(self.model.len());
                assert!(
                    read == self.model[from..to],
                    "read {offset}+{length} of {}",
                    self.model.len()
                );
            }
            75..83 => {
                let size = self.rng.random_range(0..SIZE_MAX);
                self.model.resize(size, 0);
                let set = SetAttr {
                    size: Some(size as u64),
                    ..SetAttr::default()
                };
                let entry = self.client.setattr(&root(), self.ino, set, None).await.unwrap();
                assert_eq!(entry.attr.size, size as u64);
            }
            83..90 => {
                let handle = self.handle();
                self.client.fsync(handle).await.unwrap();
            }
            90..95 => {
                let attr = self.client.getattr(self.ino).await.unwrap().attr;
                assert_eq!(attr.size, self.model.len() as u64);
            }
            _ => {
                let index = self.rng.random_range(0..self.handles.len());
                let new = open(self.client, self.ino, WRITE).await;
                let old = std::mem::replace(&mut self.handles[index], new);
                self.client.flush(old).await.unwrap();
                self.client.release(old).await;
            }
        }
    }
}

async fn run(rig: &Rig, seed: u64, steps: usize, small_memory: bool) {
    let client = rig
        .client_with(|config| {
            if small_memory {
                config.cache_bytes = 1 << 20;
                config.dirty_bytes_max = 1 << 20;
            }
        })
        .await;
    let (ino, first) = make(&client, &format!("file {seed}"), WRITE).await;
    let second = open(&client, ino, WRITE).await;
    let mut run = Run {
        client: &client,
        ino,
        handles: vec![first, second],
        model: Vec::new(),
        rng: StdRng::seed_from_u64(seed),
    };
    for _ in 0..steps {
        run.step().await;
    }
    client.flush(run.handles[0]).await.unwrap();
    assert!(saved(rig, ino).await == run.model);
    client.shutdown(Duration::from_secs(20)).await.unwrap();
    assert!(saved(rig, ino).await == run.model);
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let chosen = std::env::var("DFS_SEED").ok().and_then(|seed| seed.parse().ok());
    let random = chosen.unwrap_or_else(rand::random::<u64>);
    println!("random seed: DFS_SEED={random}");
    (0..count).chain([random])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_agree_with_an_array() {
    for seed in seeds(6) {
        for chunk_bytes in [4096, 64 << 10, 8 << 20] {
            let rig = Rig::with(TwinOptions {
                chunk_bytes,
                ..TwinOptions::default()
            });
            run(&rig, seed, 150, seed % 2 == 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_agree_with_an_array_while_calls_get_lost() {
    for seed in seeds(4) {
        let rig = Rig::with(TwinOptions {
            chunk_bytes: 32 << 10,
            ..TwinOptions::default()
        });
        let faults = vec![
            Fault::LoseRequest,
            Fault::LoseReply,
            Fault::TimeOut,
            Fault::Delay(Duration::from_millis(3)),
        ];
        rig.metadata_faults.replace(decider(seed, 6, faults.clone()));
        rig.chunk_faults.replace(decider(
            seed + 1,
            6,
            [faults, vec![Fault::CutStream, Fault::CutStream]].concat(),
        ));
        run(&rig, seed, 120, seed % 2 == 0).await;
        assert!(rig.metadata_faults.faults() + rig.chunk_faults.faults() > 5);
    }
}

fn decider(
    seed: u64,
    n: u32,
    faults: Vec<Fault>,
) -> impl FnMut(dfs_testkit::faults::Attempt) -> Fault + Send {
    let mut rng = StdRng::seed_from_u64(seed);
    move |_| match rng.random_ratio(1, n) {
        true => faults[rng.random_range(0..faults.len())],
        false => Fault::None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_writers_of_one_file_leave_what_each_wrote() {
    let rig = Rig::new();
    rig.metadata_faults
        .replace(decider(3, 20, vec![Fault::LoseReply, Fault::LoseRequest]));
    let client = rig.client().await;
    let (ino, _first) = make(&client, "parallel", WRITE).await;
    let mut tasks = Vec::new();
    for worker in 0..8u64 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let handle = open(&client, ino, WRITE).await;
            for round in 0..20 {
                let offset = worker * 100_000 + round * 5000;
                put(&client, handle, offset, &pattern(5000, offset)).await;
                if round % 5 == worker % 5 {
                    client.fsync(handle).await.unwrap();
                }
                let back = client.read(handle, offset, 5000).await.unwrap();
                assert!(back == pattern(5000, offset));
            }
            client.flush(handle).await.unwrap();
            client.release(handle).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let bytes = saved(&rig, ino).await;
    assert_eq!(bytes.len(), 800_000);
    for (i, piece) in bytes.chunks(5000).enumerate() {
        assert!(piece == pattern(5000, i as u64 * 5000));
    }
}
