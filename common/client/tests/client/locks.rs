//! Advisory locks: lost replies, interrupted and crowded waits, lost sessions.

use crate::rig::*;
use dfs_client::{Client, FileHandle};
use dfs_common::limits::{LOCK_POLLS_MAX, SESSION_LOCK_REQUESTS_MAX};
use dfs_common::lock::{LockKind, LockOwner, LockRange, LockSpec, LockStyle};
use dfs_common::{ErrorKind, FsResult, Ino};
use dfs_testkit::faults::Fault;
use std::future::pending;

fn exclusive(number: u64) -> LockSpec {
    LockSpec {
        owner: LockOwner {
            style: LockStyle::Process,
            number,
        },
        kind: LockKind::Exclusive,
        range: LockRange::WHOLE,
        pid: 1,
    }
}

async fn try_lock(client: &Client, handle: FileHandle, number: u64) -> FsResult<()> {
    client.lock(handle, exclusive(number), false, pending()).await
}

async fn lock(client: &Client, handle: FileHandle, number: u64) -> FsResult<()> {
    client.lock(handle, exclusive(number), true, pending()).await
}

async fn unlock(client: &Client, handle: FileHandle, number: u64) -> FsResult<()> {
    client
        .unlock(handle, exclusive(number).owner, LockRange::WHOLE)
        .await
}

fn kind<T>(outcome: FsResult<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

/// Two clients with the file open.
async fn two(rig: &Rig) -> [(Client, FileHandle); 2] {
    let (one, two) = (rig.client().await, rig.client().await);
    let (ino, first) = make(&one, "file", WRITE).await;
    let second = open(&two, ino, WRITE).await;
    [(one, first), (two, second)]
}

fn lose_every_second_reply(rig: &Rig) {
    rig.metadata_faults.replace(|attempt| match attempt.method {
        "lock" | "unlock" | "cancel_lock" if attempt.before % 2 == 0 => Fault::LoseReply,
        _ => Fault::None,
    });
}

#[tokio::test]
async fn lock_whose_reply_was_lost_is_held_once_and_given_up_once() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    lose_every_second_reply(&rig);
    for _ in 0..20 {
        try_lock(&one, first, 1).await.unwrap();
        assert_eq!(kind(try_lock(&two, second, 1).await), Some(ErrorKind::WouldBlock));
        unlock(&one, first, 1).await.unwrap();
        lock(&two, second, 1).await.unwrap();
        unlock(&two, second, 1).await.unwrap();
    }
    assert!(rig.metadata_faults.faults() > 40);
}

#[tokio::test]
async fn wait_that_is_interrupted_holds_nothing_and_one_that_is_granted_just_before_holds() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    lose_every_second_reply(&rig);
    for _ in 0..10 {
        lock(&one, first, 1).await.unwrap();
        let (interrupt, interrupted) = tokio::sync::oneshot::channel::<()>();
        let before = rig.metadata_faults.calls("lock");
        let waiting = tokio::spawn({
            let two = two.clone();
            async move {
                let interrupted = async { drop(interrupted.await) };
                two.lock(second, exclusive(1), true, interrupted).await
            }
        });
        until("it waits", || rig.metadata_faults.calls("lock") > before).await;
        let unlocking = tokio::spawn({
            let one = one.clone();
            async move { unlock(&one, first, 1).await }
        });
        interrupt.send(()).unwrap();
        let outcome = waiting.await.unwrap();
        unlocking.await.unwrap().unwrap();
        match kind(outcome) {
            None => {
                assert_eq!(kind(try_lock(&one, first, 1).await), Some(ErrorKind::WouldBlock));
                unlock(&two, second, 1).await.unwrap();
            }
            Some(error) => assert_eq!(error, ErrorKind::Interrupted),
        }
        try_lock(&one, first, 1).await.expect("nobody has it");
        unlock(&one, first, 1).await.unwrap();
    }
}

#[tokio::test]
async fn flock_that_was_to_be_converted_is_held_by_nobody_if_that_was_never_asked() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    let flock = |number, kind| {
        let mut lock = exclusive(number);
        lock.owner.style = LockStyle::Flock;
        LockSpec { kind, ..lock }
    };
    one.lock(first, flock(1, LockKind::Shared), false, pending())
        .await
        .unwrap();
    // The conversion never arrives, and the program is interrupted.
    rig.metadata_faults.replace(|attempt| match attempt.method {
        "lock" => Fault::LoseRequest,
        _ => Fault::None,
    });
    let before = rig.metadata_faults.calls("lock");
    let faults = rig.metadata_faults.clone();
    let interrupted = async move { until("it was asked", || faults.calls("lock") > before).await };
    let outcome = one
        .lock(first, flock(1, LockKind::Exclusive), true, interrupted)
        .await;
    assert_eq!(kind(outcome), Some(ErrorKind::Interrupted));
    rig.metadata_faults.replace(|_| Fault::None);
    two.lock(second, flock(2, LockKind::Exclusive), false, pending())
        .await
        .expect("the old one was given up");
}

#[tokio::test]
async fn more_waits_than_polls_all_get_their_turn() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    lock(&one, first, 1).await.unwrap();
    let waiting: Vec<_> = (0..2 * LOCK_POLLS_MAX as u64 + 10)
        .map(|number| {
            let two = two.clone();
            tokio::spawn(async move {
                lock(&two, second, number).await?;
                unlock(&two, second, number).await
            })
        })
        .collect();
    let all = waiting.len() as u64;
    until("all have asked", || rig.metadata_faults.calls("lock") > all).await;
    // Others are not held up by those who wait.
    try_lock(&one, make(&one, "other", WRITE).await.1, 1)
        .await
        .unwrap();
    unlock(&one, first, 1).await.unwrap();
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    try_lock(&one, first, 1).await.expect("all have given it up");
}

#[tokio::test]
async fn outcomes_of_short_waits_are_not_kept_for_ever() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    // Each waits for the other nearly every time.
    let takes_turns = |client: Client, handle| async move {
        for _ in 0..SESSION_LOCK_REQUESTS_MAX + 100 {
            lock(&client, handle, 1).await.unwrap();
            tokio::task::yield_now().await;
            unlock(&client, handle, 1).await.unwrap();
        }
    };
    tokio::join!(takes_turns(one, first), takes_turns(two, second));
}

#[tokio::test]
async fn nobody_who_locks_goes_on_before_older_pages_are_gone() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    let mut above = one.invalidations().unwrap();
    put(&two, second, 0, b"new").await;
    two.fsync(second).await.unwrap();
    let locking: Vec<_> = (1..=3)
        .map(|number| {
            let one = one.clone();
            let shared = LockSpec {
                kind: LockKind::Shared,
                ..exclusive(number)
            };
            tokio::spawn(async move { one.lock(first, shared, true, pending()).await })
        })
        .collect();
    let mut barriers = Vec::new();
    until("all are granted, and pages are to be dropped", || {
        while let Ok(invalidation) = above.try_recv() {
            barriers.extend(invalidation.done);
        }
        !barriers.is_empty() && rig.metadata_faults.calls("lock") >= 3
    })
    .await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(locking.iter().all(|locking| !locking.is_finished()));
    drop(barriers);
    let answering = tokio::spawn(async move { while above.recv().await.is_some() {} });
    for locking in locking {
        locking.await.unwrap().unwrap();
    }
    answering.abort();
}

#[tokio::test]
async fn open_file_whose_lock_was_lost_fails_until_it_is_given_up() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    put(&one, first, 0, b"before").await;
    one.fsync(first).await.unwrap();
    lock(&one, first, 1).await.unwrap();
    let part = LockRange::new(5, 9).unwrap();
    let bystander = one.open(&root(), ino_of(&one).await, READ).await.unwrap().handle;
    rig.cluster.metadata.fence_all();
    one.statfs().await.unwrap();
    lock(&two, second, 1)
        .await
        .expect("the lock went with the session");
    assert_eq!(kind(get(&one, first).await), Some(ErrorKind::Io));
    assert_eq!(
        kind(one.write(&root(), first, 0, b"x").await),
        Some(ErrorKind::Io)
    );
    assert_eq!(&get(&one, bystander).await.unwrap()[..], b"before");
    one.unlock(first, exclusive(1).owner, part).await.unwrap();
    assert_eq!(
        kind(get(&one, first).await),
        Some(ErrorKind::Io),
        "the rest is lost still"
    );
    // Through another open file of the process, too.
    one.unlock(bystander, exclusive(1).owner, LockRange::WHOLE)
        .await
        .unwrap();
    assert_eq!(&get(&one, first).await.unwrap()[..], b"before");
    assert_eq!(kind(try_lock(&one, first, 1).await), Some(ErrorKind::WouldBlock));
}

async fn ino_of(client: &Client) -> Ino {
    let found = client.lookup(&root(), Ino::ROOT, &name("file")).await;
    found.unwrap().attr.ino
}

#[tokio::test]
async fn closing_gives_up_what_was_locked() {
    let rig = Rig::new();
    let [(one, first), (two, second)] = two(&rig).await;
    let ino = ino_of(&one).await;
    // Of a process: with any descriptor of the file.
    lock(&one, first, 7).await.unwrap();
    let other = open(&one, ino, READ).await;
    assert!(one.has_locks(other, 7) && !one.has_locks(other, 8));
    one.unlock_closed(other, 8).await.unwrap();
    assert_eq!(kind(try_lock(&two, second, 1).await), Some(ErrorKind::WouldBlock));
    one.unlock_closed(other, 7).await.unwrap();
    try_lock(&two, second, 1).await.unwrap();
    unlock(&two, second, 1).await.unwrap();
    // Of an open file: with its last descriptor, and only with that.
    let mut of_file = exclusive(9);
    of_file.owner.style = LockStyle::OpenFile;
    one.lock(first, of_file, false, pending()).await.unwrap();
    one.release(other).await;
    assert_eq!(kind(try_lock(&two, second, 1).await), Some(ErrorKind::WouldBlock));
    one.release(first).await;
    lock(&two, second, 1).await.unwrap();
}
