//! Requests and replies are lost, in both directions and under load, between real clients and the real coordinator: everything happens exactly once (I6).

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_client::{Client, OpenFlags};
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, OpResult, Operation, RenameMode};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{ErrorKind, Ino, Name, OpNumber};
use dfs_proto::socket::LocalSockets;
use dfs_proto::{ChunkChannels, Transport};
use dfs_testkit::cluster::InProcessCluster;
use dfs_testkit::faults::{Fault, FaultPlan, FaultyConnector, FaultyMetadata};
use std::collections::BTreeSet;
use std::sync::Arc;

const CLIENTS: usize = 4;
const ROUNDS: usize = 12;
const RECORD: usize = 32;
const APPEND: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: true,
    truncate: false,
};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

/// Of every `n` calls of each method one request is lost, and one reply.
fn lossy(n: u64) -> FaultPlan {
    FaultPlan::new(move |attempt| match attempt.before % n {
        at if at == n - 1 => Fault::LoseRequest,
        at if at == n / 2 => Fault::LoseReply,
        _ => Fault::None,
    })
}

async fn client(cluster: &InProcessCluster, plan: &FaultPlan) -> Client {
    let metadata = FaultyMetadata::new(cluster.metadata_over_frames(), plan.clone());
    let chunks = ChunkChannels::new(Transport::default(), CALL_DEADLINE, LocalSockets::default());
    let chunks = FaultyConnector::new(Arc::new(chunks), plan.clone());
    let config = cluster.client_config();
    Client::with_services(config, Arc::new(metadata), Arc::new(chunks))
        .await
        .unwrap()
}

fn record(client: usize, round: usize) -> String {
    format!(
        "{:<width$}\n",
        format!("client {client} round {round}"),
        width = RECORD - 1
    )
}

/// What would fail, or show, if it were done twice, or not at all. Answers the races that this client won.
async fn work(client: Client, number: usize) -> Vec<String> {
    let root = Caller::root();
    let own = format!("client-{number}");
    let dir = client.mkdir(&root, Ino::ROOT, &name(&own), 0o755).await.unwrap();
    let dir = dir.attr.ino;
    let log = client
        .lookup(&root, Ino::ROOT, &name("log"))
        .await
        .unwrap()
        .attr
        .ino;
    let mut won = Vec::new();
    for round in 0..ROUNDS {
        let made = name(&format!("made-{round}"));
        let moved = name(&format!("moved-{round}"));
        let flags = OpenFlags {
            append: false,
            ..APPEND
        };
        let created = client
            .create(&root, dir, &made, 0o644, true, flags)
            .await
            .unwrap();
        let ino = created.entry.attr.ino;
        // Large enough for a chunk now and then.
        let content = vec![number as u8 + 1; if round % 4 == 0 { 100_000 } else { 300 }];
        let written = client.write(&root, created.handle, 0, &content).await.unwrap();
        assert_eq!(written as usize, content.len());
        client.fsync(created.handle).await.unwrap();
        client.release(created.handle).await;
        client
            .rename(&root, dir, &made, dir, &moved, RenameMode::NoReplace)
            .await
            .unwrap();
        assert_eq!(client.lookup(&root, dir, &moved).await.unwrap().attr.ino, ino);
        let linked = name(&format!("linked-{round}"));
        assert_eq!(client.link(&root, ino, dir, &linked).await.unwrap().attr.nlink, 2);
        client.unlink(&root, dir, &moved).await.unwrap();
        let empty = name("empty");
        client.mkdir(&root, dir, &empty, 0o755).await.unwrap();
        client.rmdir(&root, dir, &empty).await.unwrap();

        let handle = client.open(&root, log, APPEND).await.unwrap().handle;
        client
            .write(&root, handle, 0, record(number, round).as_bytes())
            .await
            .unwrap();
        client.fsync(handle).await.unwrap();
        client.release(handle).await;

        let race = format!("race-{round}");
        match client.mkdir(&root, Ino::ROOT, &name(&race), 0o755).await {
            Ok(_) => won.push(race),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Exists, "{error}"),
        }
    }
    won
}

async fn everything_happens_once(n: u64) {
    let cluster = InProcessCluster::start(3).await;
    let root = Caller::root();
    let quiet = cluster.client().await;
    let log = quiet
        .create(&root, Ino::ROOT, &name("log"), 0o644, true, APPEND)
        .await
        .unwrap();
    quiet.release(log.handle).await;
    let plans: Vec<FaultPlan> = (0..CLIENTS).map(|_| lossy(n)).collect();
    let mut working = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        working.push(tokio::spawn(work(client(&cluster, plan).await, number)));
    }
    let mut won = Vec::new();
    for work in working {
        won.extend(work.await.unwrap());
    }
    // Each race was won by one.
    assert_eq!(won.len(), ROUNDS, "{won:?}");
    assert_eq!(won.iter().collect::<BTreeSet<_>>().len(), ROUNDS);
    for plan in &plans {
        let (faults, calls) = (plan.faults(), plan.calls("mutate"));
        assert!(faults >= calls / n, "{faults} faults in {calls} calls");
        assert!(calls > ROUNDS as u64 * 8);
    }
    // Each record once.
    let handle = quiet
        .open(&root, log.entry.attr.ino, APPEND)
        .await
        .unwrap()
        .handle;
    let bytes = quiet.read(handle, 0, 1 << 20).await.unwrap();
    quiet.release(handle).await;
    let mut found: Vec<&[u8]> = bytes.chunks(RECORD).collect();
    found.sort();
    let each = (0..CLIENTS).flat_map(|client| (0..ROUNDS).map(move |round| record(client, round)));
    let mut expected: Vec<String> = each.collect();
    expected.sort();
    let expected: Vec<&[u8]> = expected.iter().map(String::as_bytes).collect();
    assert!(found == expected, "n {n}: {}", String::from_utf8_lossy(&bytes));
    for number in 0..CLIENTS {
        let dir = quiet
            .lookup(&root, Ino::ROOT, &name(&format!("client-{number}")))
            .await
            .unwrap();
        assert_eq!(dir.attr.size, ROUNDS as u64, "a linked name of each round");
        for round in 0..ROUNDS {
            let found = quiet
                .lookup(&root, dir.attr.ino, &name(&format!("linked-{round}")))
                .await
                .unwrap();
            assert_eq!(found.attr.nlink, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_happens_once_when_every_third_request_and_reply_is_lost() {
    everything_happens_once(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_happens_once_when_every_fifth_request_and_reply_is_lost() {
    everything_happens_once(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_happens_once_when_every_eleventh_request_and_reply_is_lost() {
    everything_happens_once(11).await;
}

async fn send(
    service: &dyn MetadataService,
    who: Identity,
    number: u64,
    below: u64,
    op: Operation,
) -> OpResult {
    let batch = MutationBatch {
        acknowledged_below: OpNumber(below),
        stop_on_error: false,
        durable: false,
        ops: vec![NumberedOp {
            number: OpNumber(number),
            caller: Caller::root(),
            op,
        }],
    };
    service.mutate(who, batch).await.unwrap().results.remove(0)
}

fn create(text: &str) -> Operation {
    Operation::Create {
        parent: Ino::ROOT,
        name: name(text),
        mode: 0o644,
        exclusive: true,
        read: true,
        write: true,
    }
}

/// The first answer comes again, also from the next coordinator, and though the file has another name by now; once acknowledged, the number is refused for
/// ever and nothing is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retried_create_gets_its_first_answer_until_it_is_acknowledged_and_is_refused_then() {
    let mut cluster = InProcessCluster::start(1).await;
    let service = cluster.metadata_over_frames();
    let request = |resume| OpenSession {
        client_name: "test".to_owned(),
        resume,
        opened: Vec::new(),
        unsynced: None,
        locks: Default::default(),
        leases: false,
    };
    let who = service.open_session(request(None)).await.unwrap().identity;
    let first = send(&*service, who, 1, 1, create("made")).await;
    let ino = match &first {
        Ok(OpReply::Created { entry, .. }) => entry.attr.ino,
        other => panic!("not the answer of a create: {other:?}"),
    };
    let rename = Operation::Rename {
        parent: Ino::ROOT,
        name: name("made"),
        new_parent: Ino::ROOT,
        new_name: name("moved"),
        mode: RenameMode::NoReplace,
    };
    send(&*service, who, 2, 1, rename).await.unwrap();
    assert_eq!(send(&*service, who, 1, 1, create("made")).await, first);
    cluster.restart_coordinator().await;
    let service = cluster.metadata_over_frames();
    service.open_session(request(Some(who))).await.unwrap();
    assert_eq!(send(&*service, who, 1, 1, create("made")).await, first);
    let missing = |result: OpResult| assert_eq!(result.unwrap_err().kind(), ErrorKind::StaleOperation);
    // 200 operations later the first ones are acknowledged, and trimmed.
    for number in 3..203 {
        send(&*service, who, number, number, create(&format!("{number}")))
            .await
            .unwrap();
    }
    missing(send(&*service, who, 1, 203, create("made")).await);
    cluster.restart_coordinator().await;
    let service = cluster.metadata_over_frames();
    service.open_session(request(Some(who))).await.unwrap();
    missing(send(&*service, who, 1, 1, create("made")).await);
    let quiet = cluster.client().await;
    let root = Caller::root();
    let error = quiet.lookup(&root, Ino::ROOT, &name("made")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        quiet
            .lookup(&root, Ino::ROOT, &name("moved"))
            .await
            .unwrap()
            .attr
            .ino,
        ino
    );
}
