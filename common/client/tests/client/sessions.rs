//! Sessions: lost replies, servers that are away, fencing, patience, the end.

use crate::rig::*;
use dfs_common::attr::SetAttr;
use dfs_common::{ErrorKind, Ino};
use dfs_testkit::faults::Fault;
use std::time::Duration;

#[tokio::test]
async fn operation_whose_reply_was_lost_is_not_applied_twice() {
    let rig = Rig::new();
    let client = rig.client().await;
    rig.metadata_faults.replace(|attempt| match attempt.method {
        "mutate" if attempt.before % 2 == 0 => Fault::LoseReply,
        _ => Fault::None,
    });
    for i in 0..20 {
        let created = client
            .create(&root(), Ino::ROOT, &name(&format!("{i}")), 0o600, true, WRITE)
            .await
            .unwrap();
        assert!(!created.existed);
        client.release(created.handle).await;
    }
    client
        .mkdir(&root(), Ino::ROOT, &name("dir"), 0o755)
        .await
        .unwrap();
    client.rmdir(&root(), Ino::ROOT, &name("dir")).await.unwrap();
    let (ino, handle) = make(&client, "log", APPEND).await;
    for _ in 0..10 {
        put(&client, handle, 0, b"once ").await;
        client.fsync(handle).await.unwrap();
    }
    assert_eq!(saved(&rig, ino).await, b"once ".repeat(10));
    assert!(rig.metadata_faults.faults() > 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_operations_at_once_share_batches_and_all_get_their_own_reply() {
    let rig = Rig::new();
    let client = rig.client().await;
    let before = rig.metadata_faults.calls("mutate");
    rig.metadata_faults.replace(|attempt| match attempt.method {
        "mutate" if attempt.before % 7 == 3 => Fault::LoseReply,
        "mutate" => Fault::Delay(Duration::from_millis(1)),
        _ => Fault::None,
    });
    let tasks: Vec<_> = (0..200)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move {
                let made = client
                    .mkdir(&root(), Ino::ROOT, &name(&format!("dir {i}")), 0o755)
                    .await
                    .unwrap();
                (i, made.attr.ino)
            })
        })
        .collect();
    for task in tasks {
        let (i, ino) = task.await.unwrap();
        let found = client
            .lookup(&root(), Ino::ROOT, &name(&format!("dir {i}")))
            .await
            .unwrap();
        assert_eq!(found.attr.ino, ino);
    }
    let batches = rig.metadata_faults.calls("mutate") - before;
    assert!(batches < 150, "{batches} batches");
}

#[tokio::test]
async fn calls_wait_for_the_coordinator_say_so_and_go_on() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, b"data").await;
    rig.metadata_faults.replace(|_| Fault::LoseRequest);
    let stat = tokio::spawn({
        let client = client.clone();
        async move { client.getattr(ino).await }
    });
    let sync = tokio::spawn({
        let client = client.clone();
        async move { client.fsync(handle).await }
    });
    until("both wait", || {
        let waiting = client.waiting();
        let about = |verb: &str| waiting.iter().any(|line| line.contains(verb));
        about("getattr of inode") && about("saving of inode")
    })
    .await;
    assert!(!stat.is_finished() && !sync.is_finished());
    rig.metadata_faults.replace(|_| Fault::None);
    assert_eq!(stat.await.unwrap().unwrap().attr.ino, ino);
    sync.await.unwrap().unwrap();
    assert!(client.waiting().is_empty());
    assert_eq!(saved(&rig, ino).await, &b"data"[..]);
}

#[tokio::test]
async fn patience_ends_with_an_error_and_unsaved_data_stays() {
    let rig = Rig::new();
    let client = rig
        .client_with(|config| config.call_patience = Some(Duration::from_millis(200)))
        .await;
    let (ino, handle) = make(&client, "file", APPEND).await;
    put(&client, handle, 0, b"data").await;
    rig.metadata_faults.replace(|_| Fault::LoseReply);
    let kind = |error: dfs_common::FsError| error.kind();
    assert_eq!(
        client.getattr(ino).await.map_err(kind).unwrap_err(),
        ErrorKind::Unavailable
    );
    // The commit is applied, and only its reply is lost: it must not be applied again.
    assert_eq!(
        client.fsync(handle).await.map_err(kind).unwrap_err(),
        ErrorKind::Unavailable
    );
    assert!(!client.is_clean(handle));
    rig.metadata_faults.replace(|_| Fault::None);
    client.fsync(handle).await.unwrap();
    assert_eq!(saved(&rig, ino).await, &b"data"[..]);
}

#[tokio::test]
async fn cancelled_fsync_leaves_a_commit_that_is_finished_and_not_repeated() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "log", APPEND).await;
    for round in 0..10 {
        put(&client, handle, 0, b"record ").await;
        rig.metadata_faults.replace(|attempt| match attempt.method {
            "mutate" => Fault::LoseReply,
            _ => Fault::None,
        });
        let patience = Duration::from_millis(3 + round * 4);
        let cancelled = tokio::time::timeout(patience, client.fsync(handle)).await;
        assert!(cancelled.is_err());
        rig.metadata_faults.replace(|_| Fault::None);
        client.fsync(handle).await.unwrap();
    }
    assert_eq!(saved(&rig, ino).await, b"record ".repeat(10));
}

#[tokio::test]
async fn nobody_answers_within_the_connect_timeout() {
    let rig = Rig::new();
    rig.metadata_faults.replace(|_| Fault::LoseRequest);
    let mut config = dfs_client::ClientConfig::new("nowhere:1");
    config.connect_timeout = Duration::from_millis(100);
    let metadata =
        dfs_testkit::faults::FaultyMetadata::new(rig.cluster.metadata.clone(), rig.metadata_faults.clone());
    let outcome =
        dfs_client::Client::with_services(config, std::sync::Arc::new(metadata), rig.cluster.chunks.clone())
            .await;
    let error = outcome.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("nowhere:1"), "{error}");
}

#[tokio::test]
async fn lost_session_is_replaced_and_clean_files_stay_open() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, clean) = make(&client, "clean", WRITE).await;
    put(&client, clean, 0, b"saved").await;
    client.fsync(clean).await.unwrap();
    rig.cluster.metadata.fence_all();
    client
        .mkdir(&root(), Ino::ROOT, &name("dir"), 0o755)
        .await
        .unwrap();
    assert_eq!(get(&client, clean).await.unwrap(), &b"saved"[..]);
    put(&client, clean, 0, b"again").await;
    client.fsync(clean).await.unwrap();
    assert_eq!(saved(&rig, ino).await, &b"again"[..]);
    client.release(clean).await;
    until("opens are taken back", || rig.cluster.metadata.open_files() == 0).await;
}

#[tokio::test]
async fn unsaved_data_of_a_lost_session_is_reported_once_per_open_file() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let other = open(&client, ino, WRITE).await;
    put(&client, handle, 0, &pattern(200_000, 1)).await;
    client.fsync(handle).await.unwrap();
    put(&client, handle, 0, b"lost").await;
    rig.cluster.metadata.fence_all();
    for handle in [handle, other] {
        assert_eq!(client.fsync(handle).await.unwrap_err().kind(), ErrorKind::Io);
        client.fsync(handle).await.unwrap();
        assert!(client.is_clean(handle));
    }
    assert!(get(&client, handle).await.unwrap() == pattern(200_000, 1));
    let fresh = open(&client, ino, WRITE).await;
    client.flush(fresh).await.unwrap();
    put(&client, handle, 0, b"kept").await;
    client.fsync(handle).await.unwrap();
    assert_eq!(&saved(&rig, ino).await[..4], b"kept");
}

#[tokio::test]
async fn file_that_is_gone_with_its_session_is_stale() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (_, handle) = make(&client, "gone", WRITE).await;
    client.unlink(&root(), Ino::ROOT, &name("gone")).await.unwrap();
    rig.cluster.metadata.fence_all();
    client.statfs().await.unwrap();
    assert_eq!(get(&client, handle).await.unwrap_err().kind(), ErrorKind::Stale);
    client.release(handle).await;
}

#[tokio::test]
async fn shutdown_saves_everything_and_ends_the_session() {
    let rig = Rig::new();
    let client = rig.client().await;
    let mut files = Vec::new();
    for i in 0..30 {
        let (ino, handle) = make(&client, &format!("{i}"), WRITE).await;
        put(&client, handle, 0, &pattern(i * 10_000 + 1, i as u64)).await;
        files.push(ino);
    }
    client.shutdown(Duration::from_secs(10)).await.unwrap();
    client.shutdown(Duration::from_secs(10)).await.unwrap();
    assert_eq!(rig.cluster.metadata.open_files(), 0);
    for (i, ino) in files.into_iter().enumerate() {
        assert!(saved(&rig, ino).await == pattern(i * 10_000 + 1, i as u64));
    }
    let error = client.getattr(Ino::ROOT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn shutdown_that_cannot_save_says_so_in_time() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (_, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, b"data").await;
    rig.metadata_faults.replace(|_| Fault::LoseRequest);
    let error = client.shutdown(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn fsync_answered_by_a_coordinator_that_was_not_met_yet_confirms_nothing_that_is_lost() {
    let rig = Rig::new();
    let metadata = &rig.cluster.metadata;
    metadata.relax();
    let client = rig.client().await;
    let dir = |text: &'static str| {
        let client = client.clone();
        async move {
            let made = client.mkdir(&root(), Ino::ROOT, &name(text), 0o755).await;
            made.unwrap().attr.ino
        }
    };
    let kept = dir("kept").await;
    client.fsyncdir(Ino::ROOT).await.unwrap();
    let lost = dir("lost").await;

    // Another task's request has resumed the session there; this client has not heard yet.
    metadata.lose_power(1);
    client.fsyncdir(kept).await.unwrap();
    for ino in [lost, Ino::ROOT] {
        assert_eq!(client.fsyncdir(ino).await.unwrap_err().kind(), ErrorKind::Io);
    }

    // The same of an answer to a change, and of an fsync whose save is durable already.
    let (_, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, b"data").await;
    client.flush(handle).await.unwrap();
    metadata.lose_power(0);
    put(&client, handle, 4, b" more").await;
    let synced = client.fsync(handle).await;
    assert_eq!(synced.unwrap_err().kind(), ErrorKind::Io);
    client.fsync(handle).await.unwrap();
}

#[tokio::test]
async fn open_files_outlive_a_second_restart_while_the_client_looks_back() {
    let rig = Rig::new();
    let metadata = &rig.cluster.metadata;
    metadata.relax();
    let client = rig.client().await;
    let (_, handle) = make(&client, "file", WRITE).await;
    metadata.lose_power(0);
    // The look is refused once, as by a coordinator that was just restarted.
    let mut refused = false;
    rig.metadata_faults.replace(move |attempt| {
        if attempt.method != "getattr" || std::mem::replace(&mut refused, true) {
            return Fault::None;
        }
        Fault::Refuse(ErrorKind::SessionFenced)
    });
    let error = client.fsyncdir(Ino::ROOT).await.unwrap_err();
    assert_eq!(
        (error.kind(), rig.metadata_faults.faults()),
        (ErrorKind::SessionFenced, 1)
    );
    put(&client, handle, 0, b"data").await;
    let first = client.fsync(handle).await;
    assert_ne!(first.map_err(|error| error.kind()), Err(ErrorKind::Stale));
    client.fsync(handle).await.unwrap();
    assert_eq!(&get(&client, handle).await.unwrap()[..], b"data");
}

/// After the coordinator started again, this client has resumed its session, by a call of another kind.
async fn restart(rig: &Rig, client: &dfs_client::Client) {
    rig.cluster.metadata.restart();
    client.statfs().await.unwrap();
}

#[tokio::test]
async fn file_that_was_opened_while_the_coordinator_started_again_is_open() {
    let rig = Rig::new();
    let (client, other) = (rig.client().await, rig.client().await);
    let (ino, handle) = make(&other, "old", WRITE).await;
    other.release(handle).await;
    until("nothing is open", || rig.cluster.metadata.open_files() == 0).await;
    for method in ["open", "mutate"] {
        // The answer is on its way when the session is resumed.
        let before = rig.metadata_faults.calls(method);
        rig.metadata_faults.replace(move |attempt| match attempt.method {
            asked if asked == method && attempt.before == before => {
                Fault::DelayReply(Duration::from_millis(300))
            }
            _ => Fault::None,
        });
        let opening = tokio::spawn({
            let client = client.clone();
            async move {
                match method {
                    "open" => (ino, open(&client, ino, WRITE).await),
                    _ => make(&client, "new", WRITE).await,
                }
            }
        });
        until("it is open", || rig.cluster.metadata.open_files() == 1).await;
        restart(&rig, &client).await;
        let (ino, handle) = opening.await.unwrap();
        assert_eq!(rig.cluster.metadata.open_files(), 1, "{method}");
        let gone = if method == "open" { "old" } else { "new" };
        other.unlink(&root(), Ino::ROOT, &name(gone)).await.unwrap();
        let set = SetAttr {
            size: Some(7),
            ..SetAttr::default()
        };
        client
            .setattr(&root(), ino, set, Some(handle))
            .await
            .expect(method);
        client.release(handle).await;
        until("it is closed", || rig.cluster.metadata.open_files() == 0).await;
    }
}

#[tokio::test]
async fn client_that_is_shut_down_while_the_coordinator_starts_again_saves_everything() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    rig.metadata_faults.replace(|_| Fault::LoseRequest);
    put(&client, handle, 0, b"unsaved").await;
    let ending = tokio::spawn({
        let client = client.clone();
        async move { client.shutdown(Duration::from_secs(20)).await }
    });
    let before = rig.metadata_faults.faults();
    until("saving was tried", || rig.metadata_faults.faults() > before).await;
    rig.cluster.metadata.restart();
    rig.metadata_faults.replace(|_| Fault::None);
    ending.await.unwrap().unwrap();
    assert_eq!(&saved(&rig, ino).await[..], b"unsaved");
    let over = client.statfs().await.unwrap_err();
    assert_eq!(over.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn many_files_that_are_opened_meanwhile_are_declared_together() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    rig.metadata_faults.replace(move |attempt| match attempt.method {
        "open" => Fault::DelayReply(Duration::from_millis(300)),
        "open_session" => Fault::Delay(Duration::from_millis(20)),
        _ => Fault::None,
    });
    let opening: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { open(&client, ino, WRITE).await })
        })
        .collect();
    until("all are open", || rig.cluster.metadata.open_files() == 51).await;
    let before = rig.metadata_faults.calls("open_session");
    restart(&rig, &client).await;
    for opening in opening {
        client.release(opening.await.unwrap()).await;
    }
    client.release(handle).await;
    let resumed = rig.metadata_faults.calls("open_session") - before;
    assert!((2..=10).contains(&resumed), "{resumed}");
    until("all are closed", || rig.cluster.metadata.open_files() == 0).await;
}

#[tokio::test]
async fn opens_that_go_on_after_a_restart_declare_nothing_again() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    rig.metadata_faults.replace(|attempt| match attempt.method {
        "open" | "open_session" => Fault::Delay(Duration::from_millis(1)),
        _ => Fault::None,
    });
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    let handle = open(&client, ino, WRITE).await;
                    client.release(handle).await;
                }
            })
        })
        .collect();
    until("files are opened", || rig.metadata_faults.calls("open") > 100).await;
    let before = rig.metadata_faults.calls("open_session");
    restart(&rig, &client).await;
    for opening in opening {
        opening.await.unwrap();
    }
    let resumed = rig.metadata_faults.calls("open_session") - before;
    assert!((1..=10).contains(&resumed), "{resumed}");
    client.release(handle).await;
    until("all is closed", || rig.cluster.metadata.open_files() == 0).await;
}

#[tokio::test]
async fn release_under_way_at_a_restart_closes_nothing_else() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, first) = make(&client, "file", WRITE).await;
    let second = open(&client, ino, WRITE).await;
    rig.metadata_faults.replace(|attempt| match attempt.method {
        "release" if attempt.before == 0 => Fault::Delay(Duration::from_millis(300)),
        _ => Fault::None,
    });
    client.release(first).await;
    until("the release is under way", || {
        rig.metadata_faults.calls("release") == 1
    })
    .await;
    restart(&rig, &client).await;
    assert_eq!(
        rig.cluster.metadata.open_files(),
        1,
        "what is closed is not declared"
    );
    // Longer than the release was delayed.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(
        rig.cluster.metadata.open_files(),
        1,
        "it does not arrive any more"
    );
    client.unlink(&root(), Ino::ROOT, &name("file")).await.unwrap();
    put(&client, second, 0, b"still here").await;
    client.fsync(second).await.unwrap();
    assert_eq!(&get(&client, second).await.unwrap()[..], b"still here");
    client.release(second).await;
    until("all is closed", || rig.cluster.metadata.open_files() == 0).await;
}

#[tokio::test]
async fn close_while_files_are_opened_again_is_not_lost() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (_, handle) = make(&client, "file", WRITE).await;
    rig.metadata_faults.replace(|attempt| match attempt.method {
        "open" => Fault::Delay(Duration::from_millis(300)),
        _ => Fault::None,
    });
    let before = rig.metadata_faults.calls("open");
    rig.cluster.metadata.fence_all();
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.statfs().await }
    });
    until("it is opened again", || {
        rig.metadata_faults.calls("open") > before
    })
    .await;
    client.release(handle).await;
    asking.await.unwrap().unwrap();
    until("nothing is open", || rig.cluster.metadata.open_files() == 0).await;
}
