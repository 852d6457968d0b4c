//! What the coordinator does per second, at its interface to clients, and what a million inodes cost it: memory, disk, time to start.
//!
//! `cargo run --release -p dfs-testkit --example metadata_rates -- [FILES [COORDINATOR ARGUMENTS]]` (1,000,000 unless given), with `DFS_BIN_DIR`
//! where the release binaries are. Coordinator and clients are processes of one machine and share its processors. The time of a sync of the disk
//! is measured beside the creates, in the same run and place.

#![allow(clippy::unwrap_used)] // a measurement ends at the first thing that goes wrong

use bytes::Bytes;
use dfs_client::AdminClient;
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, Operation};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{FileKind, FsResult, Ino, Name, OpNumber};
use dfs_proto::{Transport, connect_metadata};
use dfs_testkit::process::{ClusterOptions, ProcessCluster};
use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
/// Creates of one client in the measurements of rates.
const CREATES: usize = 5000;
/// Lookups of all clients together.
const LOOKUPS: usize = 300_000;
const CLIENTS: usize = 16;
/// Operations of one batch of a load, and batches under way: below what a session may leave unacknowledged.
const BATCH_OPS: usize = 512;
const BATCHES: usize = 4;
/// Directories of the tree.
const DIRECTORIES: usize = 1000;

/// A session on a connection of its own.
struct Client {
    service: Arc<dyn MetadataService>,
    identity: Identity,
    next: AtomicU64,
}

fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn file(parent: Ino, text: &str) -> Operation {
    Operation::Mknod {
        parent,
        name: name(text),
        kind: FileKind::File,
        mode: 0o644,
        rdev: 0,
    }
}

impl Client {
    async fn connect(address: &str) -> Arc<Client> {
        let service = connect_metadata(Transport::Framed, address, DEADLINE).unwrap();
        let request = OpenSession {
            client_name: "metadata_rates".into(),
            resume: None,
            opened: Vec::new(),
            unsynced: None,
            locks: Default::default(),
            leases: false,
        };
        let identity = service.open_session(request).await.unwrap().identity;
        let client = Arc::new(Client {
            service,
            identity,
            next: AtomicU64::new(1),
        });
        let kept = Arc::downgrade(&client);
        tokio::spawn(async move {
            while let Some(client) = kept.upgrade() {
                let _ = client.service.keep_alive(client.identity).await;
                drop(client);
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        client
    }

    async fn apply(&self, ops: Vec<Operation>) -> FsResult<Vec<OpReply>> {
        let first = self.next.fetch_add(ops.len() as u64, Ordering::Relaxed);
        let numbered = |(at, op)| NumberedOp {
            number: OpNumber(first + at as u64),
            caller: Caller::root(),
            op,
        };
        let batch = MutationBatch {
            ops: ops.into_iter().enumerate().map(numbered).collect(),
            acknowledged_below: OpNumber(first.saturating_sub((BATCHES * BATCH_OPS) as u64).max(1)),
            stop_on_error: true,
            durable: false,
        };
        let mutated = self.service.mutate(self.identity, batch).await?;
        mutated.results.into_iter().collect()
    }

    async fn mkdir(&self, parent: Ino, text: &str) -> Ino {
        let op = Operation::Mkdir {
            parent,
            name: name(text),
            mode: 0o755,
        };
        match self.apply(vec![op]).await.unwrap().remove(0) {
            OpReply::Entry(entry) => entry.attr.ino,
            other => panic!("not the reply of a mkdir: {other:?}"),
        }
    }

    /// A coordinator that starts again waits for the sessions that it had.
    async fn close(&self) {
        self.service.close_session(self.identity).await.unwrap();
    }

    async fn lookup(&self, parent: Ino, text: &str) -> FsResult<Ino> {
        let found = self
            .service
            .lookup(self.identity, Caller::root(), parent, name(text))
            .await?;
        Ok(found.attr.ino)
    }

    /// Applies these operations in full batches, some at a time.
    async fn load(self: &Arc<Self>, ops: impl Iterator<Item = Operation>) {
        let mut ops = ops.peekable();
        let mut running = tokio::task::JoinSet::new();
        while ops.peek().is_some() {
            if running.len() == BATCHES {
                running.join_next().await.unwrap().unwrap();
            }
            let batch: Vec<Operation> = ops.by_ref().take(BATCH_OPS).collect();
            let client = self.clone();
            running.spawn(async move {
                client.apply(batch).await.unwrap();
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
    }
}

fn percentile(sorted: &[f64], of_hundred: usize) -> f64 {
    sorted[(sorted.len() - 1) * of_hundred / 100]
}

/// p50 and p99 in µs of an append of 4 KiB with fdatasync.
fn disk_sync(dir: &Path) -> (f64, f64) {
    let path = dir.join("sync-probe");
    let mut file = File::create(&path).unwrap();
    let mut micros: Vec<f64> = (0..2000)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[7; 4096]).unwrap();
            file.sync_data().unwrap();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    fs::remove_file(path).unwrap();
    micros.sort_by(f64::total_cmp);
    (percentile(&micros, 50), percentile(&micros, 99))
}

/// Runs `work` for each client at once; all their latencies in µs, sorted, and how long everything took.
async fn at_once<F>(clients: &[Arc<Client>], work: impl Fn(Arc<Client>, usize) -> F) -> (Vec<f64>, Duration)
where
    F: Future<Output = Vec<f64>> + Send + 'static,
{
    let start = Instant::now();
    let tasks: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(number, client)| tokio::spawn(work(client.clone(), number)))
        .collect();
    let mut micros = Vec::new();
    for task in tasks {
        micros.extend(task.await.unwrap());
    }
    let took = start.elapsed();
    micros.sort_by(f64::total_cmp);
    (micros, took)
}

fn report(what: &str, micros: &[f64], took: Duration) -> f64 {
    let rate = micros.len() as f64 / took.as_secs_f64();
    println!(
        "{what:<44} {rate:>10.0} /s   p50 {:>7.0} us   p99 {:>7.0} us",
        percentile(micros, 50),
        percentile(micros, 99)
    );
    rate
}

async fn creates(clients: &[Arc<Client>], round: &str) -> (Vec<f64>, Duration) {
    let mut parents = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        parents.push(client.mkdir(Ino::ROOT, &format!("{round} {number}")).await);
    }
    at_once(clients, move |client, number| {
        let parent = parents[number];
        async move {
            let mut micros = Vec::with_capacity(CREATES);
            for at in 0..CREATES {
                let start = Instant::now();
                client
                    .apply(vec![file(parent, &format!("f{at:06}"))])
                    .await
                    .unwrap();
                micros.push(start.elapsed().as_secs_f64() * 1e6);
            }
            micros
        }
    })
    .await
}

async fn lookups(clients: &[Arc<Client>], round: &str, in_flight: usize) -> (Vec<f64>, Duration) {
    let mut parents = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        parents.push(
            client
                .lookup(Ino::ROOT, &format!("{round} {number}"))
                .await
                .unwrap(),
        );
    }
    let each = LOOKUPS / clients.len() / in_flight;
    at_once(clients, move |client, number| {
        let parent = parents[number];
        async move {
            let streams = (0..in_flight).map(|stream| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut micros = Vec::with_capacity(each);
                    for at in 0..each {
                        let text = format!("f{:06}", (stream * 37 + at * 11) % CREATES);
                        let start = Instant::now();
                        client.lookup(parent, &text).await.unwrap();
                        micros.push(start.elapsed().as_secs_f64() * 1e6);
                    }
                    micros
                })
            });
            let mut micros = Vec::new();
            for stream in streams.collect::<Vec<_>>() {
                micros.extend(stream.await.unwrap());
            }
            micros
        }
    })
    .await
}

/// Resident memory in MiB: now, and at its highest.
fn memory(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    (field("VmRSS"), field("VmHWM"))
}

fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            match entry.metadata() {
                Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
                Ok(found) => found.blocks() * 512,
                // Removed meanwhile.
                Err(_) => 0,
            }
        })
        .sum()
}

async fn list(client: &Client, dir: Ino) -> usize {
    let (mut cursor, mut seen) = (0, 0);
    loop {
        let page = client
            .service
            .readdir(client.identity, Caller::root(), dir, cursor, 1024, false)
            .await
            .unwrap();
        seen += page.entries.len();
        match page.entries.last() {
            Some(last) if !page.end => cursor = last.cursor,
            _ => return seen,
        }
    }
}

fn say(what: &str, count: usize, start: Instant, pid: u32) {
    let (now, highest) = memory(pid);
    println!(
        "{what:<44} {:>10.0} /s   coordinator {now:.0} MiB, highest {highest:.0}",
        count as f64 / start.elapsed().as_secs_f64()
    );
}

/// `files` in one directory and as many in a tree, and what they cost.
async fn millions(cluster: &mut ProcessCluster, files: usize) {
    let pid = |cluster: &mut ProcessCluster| cluster.node("coordinator").pid().unwrap();
    let client = Client::connect(cluster.coordinator()).await;
    let before = disk_bytes(cluster.node("coordinator").data());
    let dir = client.mkdir(Ino::ROOT, "one directory").await;
    let start = Instant::now();
    client
        .load((0..files).map(|at| file(dir, &format!("f{at:09}"))))
        .await;
    say("create in one directory", files, start, pid(cluster));
    let tree = client.mkdir(Ino::ROOT, "tree").await;
    let mut dirs = Vec::new();
    for at in 0..DIRECTORIES {
        dirs.push(client.mkdir(tree, &format!("d{at:04}")).await);
    }
    let start = Instant::now();
    let per_directory = files / DIRECTORIES;
    let parents = dirs.clone();
    client
        .load(
            parents
                .into_iter()
                .flat_map(|parent| (0..per_directory).map(move |at| file(parent, &format!("f{at:06}")))),
        )
        .await;
    say(
        "create in a tree of 1,000 directories",
        files,
        start,
        pid(cluster),
    );
    let start = Instant::now();
    assert_eq!(list(&client, dir).await, files);
    say("list the directory", files, start, pid(cluster));
    let start = Instant::now();
    let count = 20_000;
    for at in 0..count {
        let text = format!("f{:09}", at * 7919 % files);
        client.lookup(dir, &text).await.unwrap();
    }
    say(
        "look up names at random, one at a time",
        count,
        start,
        pid(cluster),
    );

    let inodes = (2 * files) as f64;
    client.close().await;
    cluster.node("coordinator").kill();
    let start = Instant::now();
    cluster.node("coordinator").start();
    println!(
        "start after kill -9 with {inodes:.0} inodes {:>21.2} s (ready line)",
        start.elapsed().as_secs_f64()
    );
    let used = disk_bytes(cluster.node("coordinator").data()) - before;
    println!(
        "disk per inode, journal included {:>21.0} bytes",
        used as f64 / inodes
    );
    let client = Client::connect(cluster.coordinator()).await;
    let start = Instant::now();
    let unlink = |parent: Ino, text: String| Operation::Unlink {
        parent,
        name: name(&text),
    };
    client
        .load((0..files).map(|at| unlink(dir, format!("f{at:09}"))))
        .await;
    say("remove from the directory", files, start, pid(cluster));
    assert_eq!(list(&client, dir).await, 0);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let files = arguments
        .first()
        .map_or(1_000_000, |text| text.parse().expect("a number of files"));
    let mut options = ClusterOptions::with_datanodes(1);
    options.coordinator_args.extend(arguments.into_iter().skip(1));
    let mut cluster = ProcessCluster::start(options);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let data = cluster.node("coordinator").data().to_owned();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Client::connect(cluster.coordinator()).await);
        }
        let status = AdminClient::connect_lazy(cluster.coordinator(), DEADLINE)
            .unwrap()
            .status()
            .await;
        assert!(status.is_ok_and(|status| status.healthy));
        for round in ["first", "second"] {
            let (p50, p99) = disk_sync(&data);
            println!(
                "append 4 KiB + fdatasync {:>34}   p50 {p50:>7.0} us   p99 {p99:>7.0} us",
                ""
            );
            let (micros, took) = creates(&clients[..1], &format!("{round} alone")).await;
            report("create, sync, 1 client", &micros, took);
            println!(
                "{:<44} {:>10.1}",
                "  p99 of a create / p99 of the disk's sync",
                percentile(&micros, 99) / p99
            );
            let (micros, took) = creates(&clients, &format!("{round} together")).await;
            report("create, sync, 16 clients", &micros, took);
            let (micros, took) = lookups(&clients[..1], &format!("{round} alone"), 1).await;
            report("lookup, 1 client", &micros, took);
            let (micros, took) = lookups(&clients, &format!("{round} together"), 1).await;
            report("lookup, 16 clients", &micros, took);
            let (micros, took) = lookups(&clients, &format!("{round} together"), 8).await;
            report("lookup, 16 clients, 8 in flight each", &micros, took);
        }
        for client in clients {
            client.close().await;
        }
        millions(&mut cluster, files).await;
    });
}
