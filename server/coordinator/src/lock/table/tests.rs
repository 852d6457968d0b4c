use super::*;
use dfs_common::limits::{SESSION_LOCK_OUTCOMES_MAX, SESSION_LOCK_REQUESTS_MAX};
use dfs_common::lock::LockKind::{self, Exclusive, Shared};
use dfs_common::lock::LockStyle;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);
const FILE: Ino = Ino(7);
const OTHER: Ino = Ino(8);
const LONG: Duration = Duration::from_secs(60);

fn table() -> LockTable {
    let table = LockTable::default();
    [A, B, C].into_iter().for_each(|session| table.begin(session));
    table
}

fn range(first: u64, last: u64) -> LockRange {
    LockRange::new(first, last).unwrap()
}

fn owner(session: SessionId, style: LockStyle) -> Owner {
    Owner {
        session,
        style,
        number: 1,
    }
}

fn posix(session: SessionId, kind: LockKind, first: u64, last: u64) -> Ask {
    Ask {
        owner: owner(session, LockStyle::Process),
        kind,
        range: range(first, last),
        pid: 100,
    }
}

fn flock(session: SessionId, kind: LockKind) -> Ask {
    Ask {
        owner: owner(session, LockStyle::Flock),
        kind,
        range: LockRange::WHOLE,
        pid: 100,
    }
}

/// `None`: it waits.
fn ask(table: &LockTable, ino: Ino, number: u64, ask: Ask, wait: bool) -> Option<LockOutcome> {
    match table.inner.lock().lock(ino, number, 0, ask, wait).unwrap() {
        Answer::Done(outcome) => Some(outcome),
        Answer::Waits(_) => None,
    }
}

fn take(table: &LockTable, number: u64, wanted: Ask) {
    assert_eq!(
        ask(table, FILE, number, wanted, false),
        Some(LockOutcome::Granted)
    );
}

fn unlock(table: &LockTable, number: u64, of: Owner, range: LockRange) {
    assert_eq!(
        table.unlock(FILE, number, 0, of, range).unwrap(),
        LockOutcome::Granted
    );
}

/// Ranges held of FILE, with kinds, in order.
fn held(table: &LockTable) -> Vec<(u64, u64, LockKind)> {
    let lock = |lock: &Held| (lock.ask.range.first(), lock.ask.range.last(), lock.ask.kind);
    let mut held: Vec<_> = table.of_inode(FILE).0.iter().map(lock).collect();
    held.sort();
    held
}

#[test]
fn ranges_split_merge_and_change_their_kind() {
    let table = table();
    take(&table, 1, posix(A, Shared, 0, 9));
    take(&table, 2, posix(A, Shared, 10, 19));
    assert_eq!(held(&table), [(0, 19, Shared)], "neighbours of one kind are one");
    take(&table, 3, posix(A, Exclusive, 5, 9));
    assert_eq!(
        held(&table),
        [(0, 4, Shared), (5, 9, Exclusive), (10, 19, Shared)]
    );
    unlock(&table, 4, owner(A, LockStyle::Process), range(7, 14));
    assert_eq!(
        held(&table),
        [(0, 4, Shared), (5, 6, Exclusive), (15, 19, Shared)]
    );
    take(&table, 5, posix(A, Exclusive, 0, u64::MAX));
    assert_eq!(held(&table), [(0, u64::MAX, Exclusive)]);
    unlock(&table, 6, owner(A, LockStyle::Process), LockRange::WHOLE);
    assert!(
        table.inodes(Ino(0), 10).is_empty(),
        "an inode without locks is forgotten"
    );
}

#[test]
fn exclusive_excludes_and_shared_shares() {
    let table = table();
    take(&table, 1, posix(A, Shared, 0, 9));
    take(&table, 1, posix(B, Shared, 5, 14));
    assert_eq!(
        ask(&table, FILE, 1, posix(C, Exclusive, 9, 9), false),
        Some(LockOutcome::Conflict)
    );
    assert_eq!(
        ask(&table, FILE, 2, posix(A, Exclusive, 0, 9), false),
        Some(LockOutcome::Conflict),
        "no upgrade past a reader"
    );
    take(&table, 2, posix(C, Exclusive, 15, 20));
    let in_the_way = table.test(FILE, &posix(A, Exclusive, 0, 99)).unwrap();
    assert_eq!(in_the_way.unwrap().ask.owner.session, B);
}

#[test]
fn flock_and_fcntl_do_not_conflict_but_fcntl_styles_do() {
    let table = table();
    take(&table, 1, flock(A, Exclusive));
    take(&table, 1, posix(B, Exclusive, 0, u64::MAX));
    let mut open_file = posix(C, Shared, 0, 0);
    open_file.owner.style = LockStyle::OpenFile;
    assert_eq!(
        ask(&table, FILE, 1, open_file, false),
        Some(LockOutcome::Conflict)
    );
    assert_eq!(
        ask(&table, FILE, 2, flock(C, Shared), false),
        Some(LockOutcome::Conflict)
    );
}

#[test]
fn waiters_are_served_in_order_and_a_writer_is_not_starved() {
    let table = table();
    take(&table, 1, posix(A, Shared, 0, 9));
    assert_eq!(ask(&table, FILE, 1, posix(B, Exclusive, 0, 9), true), None);
    assert_eq!(
        ask(&table, FILE, 1, posix(C, Shared, 0, 9), true),
        None,
        "a reader does not pass a writer that waits"
    );
    unlock(&table, 2, owner(A, LockStyle::Process), LockRange::WHOLE);
    assert_eq!(held(&table), [(0, 9, Exclusive)]);
    unlock(&table, 2, owner(B, LockStyle::Process), LockRange::WHOLE);
    assert_eq!(held(&table), [(0, 9, Shared)]);
    assert_eq!(
        ask(&table, FILE, 1, posix(C, Shared, 0, 9), true),
        Some(LockOutcome::Granted)
    );
}

#[test]
fn deadlock_of_processes_is_refused_across_inodes() {
    let table = table();
    take(&table, 1, posix(A, Exclusive, 0, 0));
    assert_eq!(
        ask(&table, OTHER, 1, posix(B, Exclusive, 0, 0), false),
        Some(LockOutcome::Granted)
    );
    assert_eq!(ask(&table, FILE, 2, posix(B, Exclusive, 0, 0), true), None);
    assert_eq!(
        ask(&table, OTHER, 2, posix(A, Exclusive, 0, 0), true),
        Some(LockOutcome::Deadlock)
    );
    unlock(&table, 3, owner(A, LockStyle::Process), LockRange::WHOLE);
    assert_eq!(
        ask(&table, FILE, 2, posix(B, Exclusive, 0, 0), true),
        Some(LockOutcome::Granted)
    );
}

#[test]
fn the_order_of_a_queue_makes_no_deadlock() {
    let table = table();
    take(&table, 1, posix(A, Shared, 0, 0));
    assert_eq!(
        ask(&table, OTHER, 1, posix(C, Exclusive, 0, 0), false),
        Some(LockOutcome::Granted)
    );
    assert_eq!(ask(&table, FILE, 1, posix(B, Exclusive, 0, 0), true), None);
    assert_eq!(ask(&table, FILE, 2, posix(C, Shared, 0, 0), true), None);
    // A waits for C, which stands behind B only, which waits for A: C is let pass.
    assert_eq!(ask(&table, OTHER, 2, posix(A, Exclusive, 0, 0), true), None);
    assert_eq!(
        ask(&table, FILE, 2, posix(C, Shared, 0, 0), true),
        Some(LockOutcome::Granted)
    );
    // And a holder that upgrades does not wait behind somebody who waits for it.
    take(&table, 3, posix(A, Shared, 0, 0));
}

#[test]
fn two_flocks_that_upgrade_do_not_wait_for_each_other() {
    let table = table();
    take(&table, 1, flock(A, Shared));
    take(&table, 1, flock(B, Shared));
    assert_eq!(ask(&table, FILE, 2, flock(A, Exclusive), true), None);
    assert_eq!(ask(&table, FILE, 2, flock(B, Exclusive), true), None);
    assert_eq!(
        ask(&table, FILE, 2, flock(A, Exclusive), true),
        Some(LockOutcome::Granted)
    );
}

#[test]
fn two_flocks_that_upgrade_during_the_grace_do_not_wait_for_each_other() {
    let table = LockTable::default();
    [A, B, C]
        .into_iter()
        .for_each(|session| table.begin_grace(session));
    for session in [A, B] {
        let declared = [(FILE, flock(session, Shared))];
        assert!(table.declare(session, 1, &declared, true).unwrap().is_empty());
    }
    assert_eq!(ask(&table, FILE, 1, flock(A, Exclusive), true), None);
    assert_eq!(ask(&table, FILE, 1, flock(B, Exclusive), true), None);
    assert!(table.declare(C, 1, &[], true).unwrap().is_empty());
    assert_eq!(
        ask(&table, FILE, 1, flock(A, Exclusive), true),
        Some(LockOutcome::Granted)
    );
    unlock(&table, 2, owner(A, LockStyle::Flock), LockRange::WHOLE);
    assert_eq!(
        ask(&table, FILE, 1, flock(B, Exclusive), true),
        Some(LockOutcome::Granted)
    );
}

#[test]
fn flock_of_another_kind_gives_up_the_old_one_whatever_the_outcome() {
    let table = table();
    take(&table, 1, flock(B, Shared));
    take(&table, 1, flock(A, Shared));
    assert_eq!(
        ask(&table, FILE, 2, flock(A, Exclusive), false),
        Some(LockOutcome::Conflict)
    );
    assert_eq!(table.of_inode(FILE).0.len(), 1, "after a conflict");
    take(&table, 3, flock(A, Shared));
    assert_eq!(ask(&table, FILE, 4, flock(A, Exclusive), true), None);
    assert_eq!(table.of_inode(FILE).0.len(), 1, "while it waits");
    assert_eq!(table.cancel(A, 4, 0).unwrap(), LockOutcome::Cancelled);
    assert_eq!(table.of_inode(FILE).0.len(), 1, "after a cancellation");
    take(&table, 5, flock(A, Shared));
    crowd(&table, 10, SESSION_LOCK_REQUESTS_MAX as u64 - 1);
    assert_eq!(
        ask(&table, FILE, 6, flock(A, Exclusive), true),
        Some(LockOutcome::TooMany)
    );
    assert_eq!(
        table.of_inode(FILE).0.len(),
        1,
        "when too many of its session wait"
    );
}

#[test]
fn flock_made_weaker_is_given_up_first_too() {
    let table = table();
    take(&table, 1, flock(A, Exclusive));
    assert_eq!(ask(&table, FILE, 1, flock(B, Exclusive), true), None);
    assert_eq!(
        ask(&table, FILE, 2, flock(A, Shared), false),
        Some(LockOutcome::Conflict),
        "the one who waits comes in between"
    );
    assert_eq!(
        ask(&table, FILE, 1, flock(B, Exclusive), true),
        Some(LockOutcome::Granted)
    );
}

#[test]
fn flock_of_another_kind_gives_up_the_old_one_during_the_grace() {
    let table = LockTable::default();
    [A, C].into_iter().for_each(|session| table.begin_grace(session));
    let declared = [(FILE, flock(A, Exclusive))];
    assert!(table.declare(A, 0, &declared, true).unwrap().is_empty());
    take(&table, 1, flock(A, Shared));
    assert_eq!(
        held(&table),
        [(0, u64::MAX, Shared)],
        "a weaker one takes its place at once"
    );
    let refused = table.inner.lock().lock(FILE, 2, 0, flock(A, Exclusive), false);
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Unavailable);
    assert!(held(&table).is_empty());
    table.end(C);
    take(&table, 2, flock(A, Exclusive));
    assert_eq!(held(&table), [(0, u64::MAX, Exclusive)]);
}

/// Has so many other owners of A wait for bytes of OTHER that B has, under numbers from `number` on.
fn crowd(table: &LockTable, number: u64, size: u64) {
    assert_eq!(
        ask(table, OTHER, 1_000_000, posix(B, Exclusive, 0, 0), false),
        Some(LockOutcome::Granted)
    );
    for number in number..number + size {
        let mut wanted = posix(A, Exclusive, 0, 0);
        wanted.owner.number = number;
        assert_eq!(ask(table, OTHER, number, wanted, true), None);
    }
}

#[test]
fn session_with_as_many_waits_as_it_may_have_goes_on_otherwise() {
    let table = table();
    let size = SESSION_LOCK_REQUESTS_MAX as u64;
    take(&table, 1, posix(A, Exclusive, 0, 9));
    crowd(&table, 10, size);
    let next = 10 + size;
    assert_eq!(
        ask(&table, OTHER, next, posix(A, Exclusive, 0, 0), true),
        Some(LockOutcome::TooMany)
    );
    assert_eq!(
        ask(&table, OTHER, next + 1, posix(A, Exclusive, 0, 0), false),
        Some(LockOutcome::Conflict)
    );
    take(&table, next + 2, posix(A, Exclusive, 20, 29));
    unlock(&table, next + 3, owner(A, LockStyle::Process), LockRange::WHOLE);
    assert!(held(&table).is_empty());
    // The outcome of a wait counts until it is said to be known.
    assert_eq!(table.cancel(A, 10, 0).unwrap(), LockOutcome::Cancelled);
    let again = |number| ask(&table, OTHER, number, posix(A, Exclusive, 0, 0), true);
    assert_eq!(again(next + 4), Some(LockOutcome::TooMany));
    table.settle(A, next, &[10]).unwrap();
    assert_eq!(again(next + 5), None);
}

#[test]
fn session_that_settles_nothing_gets_no_new_locks_but_unlocks() {
    let table = table();
    let of = owner(A, LockStyle::Process);
    let half = SESSION_LOCK_OUTCOMES_MAX as u64 / 2;
    take(&table, 0, posix(A, Exclusive, 0, 9));
    for number in 1..half {
        take(&table, number, posix(A, Exclusive, 0, 9));
    }
    let refused = ask(&table, FILE, half, posix(A, Exclusive, 0, 9), false);
    assert_eq!(refused, Some(LockOutcome::TooMany));
    for number in half + 1..2 * half {
        unlock(&table, number, of, LockRange::WHOLE);
    }
    assert!(held(&table).is_empty());
    let refused = table.unlock(FILE, 2 * half, 0, of, LockRange::WHOLE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "memory is bounded");
    table.settle(A, 2 * half, &[]).unwrap();
    take(&table, 2 * half, posix(A, Exclusive, 0, 9));
}

#[test]
fn a_request_sent_again_or_late_changes_nothing() {
    let table = table();
    let of = owner(A, LockStyle::Process);
    take(&table, 1, posix(A, Exclusive, 0, 9));
    unlock(&table, 2, of, LockRange::WHOLE);
    take(&table, 1, posix(A, Exclusive, 0, 9));
    assert!(
        held(&table).is_empty(),
        "the first outcome is answered, nothing is locked"
    );
    take(&table, 3, posix(A, Exclusive, 0, 9));
    unlock(&table, 2, of, LockRange::WHOLE);
    assert_eq!(held(&table), [(0, 9, Exclusive)], "nor unlocked");
    table.unlock(FILE, 5, 5, of, range(5, 9)).unwrap();
    let late = table.unlock(FILE, 4, 0, of, LockRange::WHOLE).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::StaleOperation);
    assert_eq!(held(&table), [(0, 4, Exclusive)]);
}

#[test]
fn a_long_wait_does_not_use_up_what_a_session_may_ask() {
    let table = table();
    take(&table, 1, flock(A, Exclusive));
    assert_eq!(ask(&table, FILE, 1, flock(B, Exclusive), true), None);
    let of = owner(B, LockStyle::Process);
    for number in (2..2 * SESSION_LOCK_REQUESTS_MAX as u64).step_by(2) {
        let wanted = table
            .inner
            .lock()
            .lock(OTHER, number, number, posix(B, Shared, number, number), false);
        assert!(
            matches!(wanted, Ok(Answer::Done(LockOutcome::Granted))),
            "request {number}"
        );
        table
            .unlock(OTHER, number + 1, number, of, LockRange::WHOLE)
            .unwrap();
    }
    unlock(&table, 2, owner(A, LockStyle::Flock), LockRange::WHOLE);
    assert_eq!(
        ask(&table, FILE, 1, flock(B, Exclusive), true),
        Some(LockOutcome::Granted)
    );
    assert_eq!(
        ask(&table, FILE, 1, flock(B, Exclusive), true),
        Some(LockOutcome::Granted),
        "the reply was lost"
    );
    table.settle(B, 0, &[1]).unwrap();
    let late = table.inner.lock().lock(FILE, 1, 0, flock(B, Exclusive), true);
    assert_eq!(late.err().unwrap().kind(), ErrorKind::StaleOperation);
}

#[test]
fn a_crowd_that_waits_for_one_file_is_served_in_order() {
    let table = table();
    let crowd = SESSION_LOCK_REQUESTS_MAX as u64 / 2;
    let of = |number: u64| Owner {
        number,
        ..owner(B, LockStyle::Process)
    };
    take(&table, 1, posix(A, Exclusive, 0, 9));
    for number in 1..=crowd {
        let wanted = Ask {
            owner: of(number),
            ..posix(B, Exclusive, 0, 9)
        };
        assert_eq!(ask(&table, FILE, number, wanted, true), None);
    }
    unlock(&table, 2, owner(A, LockStyle::Process), LockRange::WHOLE);
    for number in 1..=20 {
        assert_eq!(table.of_inode(FILE).0[0].ask.owner, of(number));
        table
            .unlock(FILE, crowd + number, 0, of(number), LockRange::WHOLE)
            .unwrap();
    }
}

#[test]
fn a_cancelled_wait_leaves_nothing_whenever_it_arrives() {
    let table = table();
    take(&table, 1, posix(A, Exclusive, 0, 9));
    assert_eq!(ask(&table, FILE, 1, posix(B, Exclusive, 0, 9), true), None);
    assert_eq!(ask(&table, FILE, 1, posix(C, Shared, 0, 9), true), None);
    assert_eq!(table.cancel(B, 1, 0).unwrap(), LockOutcome::Cancelled);
    assert_eq!(
        table.cancel(B, 2, 0).unwrap(),
        LockOutcome::Cancelled,
        "before it arrives"
    );
    unlock(&table, 2, owner(A, LockStyle::Process), LockRange::WHOLE);
    assert_eq!(held(&table), [(0, 9, Shared)]);
    assert_eq!(
        ask(&table, FILE, 2, posix(B, Shared, 0, 9), true),
        Some(LockOutcome::Cancelled)
    );
    assert_eq!(
        table.cancel(C, 1, 0).unwrap(),
        LockOutcome::Granted,
        "too late: it is held"
    );
    assert_eq!(held(&table), [(0, 9, Shared)]);
}

#[test]
fn the_end_of_a_session_frees_its_locks_and_waits() {
    let table = table();
    take(&table, 1, posix(A, Exclusive, 0, 9));
    assert_eq!(ask(&table, FILE, 1, posix(B, Exclusive, 0, 9), true), None);
    assert_eq!(ask(&table, FILE, 1, posix(C, Exclusive, 0, 9), true), None);
    table.end(B);
    table.end(A);
    assert_eq!(
        ask(&table, FILE, 1, posix(C, Exclusive, 0, 9), true),
        Some(LockOutcome::Granted)
    );
    let late = table
        .inner
        .lock()
        .lock(FILE, 2, 0, posix(A, Shared, 90, 99), false);
    assert_eq!(late.err().unwrap().kind(), ErrorKind::SessionFenced);
}

#[test]
fn after_a_restart_nothing_new_is_granted_until_all_have_declared() {
    let table = LockTable::default();
    table.begin_grace(A);
    table.begin_grace(B);
    table.begin(C);
    let refused = table
        .inner
        .lock()
        .lock(FILE, 1, 0, posix(C, Exclusive, 0, 9), false);
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(ask(&table, FILE, 1, posix(C, Exclusive, 0, 9), true), None);
    assert_eq!(ask(&table, OTHER, 2, posix(C, Exclusive, 0, 9), true), None);
    let mine = (FILE, posix(A, Exclusive, 5, 9));
    assert!(table.declare(A, 0, &[mine], true).unwrap().is_empty());
    assert!(
        table.declare(A, 0, &[mine], true).unwrap().is_empty(),
        "declared twice"
    );
    take(&table, 1, posix(A, Shared, 6, 7));
    assert_eq!(
        table
            .declare(B, 0, &[(FILE, posix(B, Shared, 9, 9))], true)
            .unwrap()
            .len(),
        1,
        "what conflicts is lost"
    );
    assert_eq!(
        ask(&table, OTHER, 2, posix(C, Exclusive, 0, 9), true),
        Some(LockOutcome::Granted)
    );
    assert_eq!(
        ask(&table, FILE, 1, posix(C, Exclusive, 0, 9), true),
        None,
        "A has it"
    );
    unlock(&table, 2, owner(A, LockStyle::Process), LockRange::WHOLE);
    assert_eq!(
        ask(&table, FILE, 1, posix(C, Exclusive, 0, 9), true),
        Some(LockOutcome::Granted)
    );
}

#[test]
fn the_last_awaited_session_may_end_instead() {
    let table = LockTable::default();
    table.begin_grace(A);
    table.begin(B);
    assert_eq!(ask(&table, FILE, 1, posix(B, Exclusive, 0, 9), true), None);
    table.end(A);
    assert_eq!(
        ask(&table, FILE, 1, posix(B, Exclusive, 0, 9), true),
        Some(LockOutcome::Granted)
    );
}

#[test]
fn a_session_holds_a_bounded_number_of_locks() {
    let table = table();
    let mut number = 0;
    let end = loop {
        number += 1;
        let wanted = posix(A, Exclusive, number * 2, number * 2);
        match table
            .inner
            .lock()
            .lock(Ino(number), number, number, wanted, false)
            .unwrap()
        {
            Answer::Done(LockOutcome::Granted) => {}
            Answer::Done(outcome) => break outcome,
            Answer::Waits(_) => panic!("nobody else is there"),
        }
    };
    assert_eq!(end, LockOutcome::TooMany);
    assert_eq!(number as usize - 1, SESSION_LOCKS_MAX, "locks it has");
}

#[test]
fn full_session_may_do_what_adds_no_lock() {
    let table = table();
    let mut mine = posix(A, Exclusive, 0, 9);
    mine.owner.number = 77;
    take(&table, 1, mine);
    take(&table, 2, flock(A, Shared));
    // Another program of the mount, on files of its own.
    let mut number = 2;
    let lock = |number: u64, place: u64| {
        let wanted = posix(A, Shared, 2 * (place % 64), 2 * (place % 64));
        let ino = Ino(100 + place / 64);
        match table.inner.lock().lock(ino, number, number, wanted, false) {
            Ok(Answer::Done(outcome)) => outcome,
            _ => panic!("nobody else is there"),
        }
    };
    loop {
        number += 1;
        if lock(number, number) != LockOutcome::Granted {
            break;
        }
    }
    assert_eq!(
        number,
        SESSION_LOCKS_MAX as u64 + 1,
        "all that a session may have"
    );
    let unlock = |number, first, last| {
        table
            .unlock(FILE, number, 0, mine.owner, range(first, last))
            .unwrap()
    };
    assert_eq!(unlock(100_001, 4, 5), LockOutcome::TooMany, "it would split");
    assert_eq!(unlock(100_002, 8, 9), LockOutcome::Granted, "what is left is one");
    assert_eq!(lock(100_003, 70), LockOutcome::Granted, "held already");
    take(&table, 100_004, flock(A, Exclusive));
    assert_eq!(unlock(100_005, 0, 7), LockOutcome::Granted, "all of it");
    assert_eq!(lock(100_006, 1_000_000), LockOutcome::Granted);
}

#[test]
fn flock_of_a_part_is_not_declared() {
    let table = LockTable::default();
    table.begin_grace(A);
    let part = Ask {
        range: range(0, 9),
        ..flock(A, Shared)
    };
    let declared = [(OTHER, flock(A, Shared)), (FILE, part)];
    let refused = table.declare(A, 0, &declared, true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(table.inodes(Ino(0), 10).is_empty(), "nothing of it is taken");
    assert!(table.declare(A, 0, &declared[..1], true).unwrap().is_empty());
}

#[tokio::test]
async fn a_wait_ends_with_the_grant_or_is_asked_again() {
    let table = Arc::new(table());
    take(&table, 1, flock(A, Exclusive));
    let short = Duration::from_millis(1);
    assert_eq!(
        table.lock(FILE, 1, 0, flock(B, Exclusive), short).await.unwrap(),
        LockOutcome::Waiting
    );
    let waiter = {
        let table = table.clone();
        tokio::spawn(async move { table.lock(FILE, 1, 0, flock(B, Exclusive), LONG).await })
    };
    unlock(&table, 2, owner(A, LockStyle::Flock), LockRange::WHOLE);
    assert_eq!(waiter.await.unwrap().unwrap(), LockOutcome::Granted);
}

/// Random requests of three processes, compared with a table that has an entry for every byte.
#[test]
fn random_requests_agree_with_a_table_of_bytes() {
    const BYTES: usize = 24;
    let mut rng = StdRng::seed_from_u64(42);
    let mut next = |below: u64| rng.random_range(0..below);
    let table = table();
    let mut bytes: Vec<BTreeMap<SessionId, LockKind>> = vec![BTreeMap::new(); BYTES];
    for number in 1..20_000 {
        let session = [A, B, C][next(3) as usize];
        let (one, two) = (next(BYTES as u64), next(BYTES as u64));
        let (first, last) = (one.min(two), one.max(two));
        let kind = if next(2) == 0 { Shared } else { Exclusive };
        let part = &mut bytes[first as usize..=last as usize];
        if next(3) == 0 {
            table
                .unlock(
                    FILE,
                    number,
                    number,
                    owner(session, LockStyle::Process),
                    range(first, last),
                )
                .unwrap();
            for byte in part.iter_mut() {
                byte.remove(&session);
            }
        } else {
            let against = |(other, theirs): (&SessionId, &LockKind)| {
                *other != session && (kind == Exclusive || *theirs == Exclusive)
            };
            let free = !part.iter().any(|byte| byte.iter().any(against));
            let got = table
                .inner
                .lock()
                .lock(FILE, number, number, posix(session, kind, first, last), false)
                .unwrap();
            assert_eq!(
                matches!(got, Answer::Done(LockOutcome::Granted)),
                free,
                "request {number}"
            );
            if free {
                for byte in part.iter_mut() {
                    byte.insert(session, kind);
                }
            }
        }
        let mut seen: Vec<BTreeMap<SessionId, LockKind>> = vec![BTreeMap::new(); BYTES];
        for lock in table.of_inode(FILE).0 {
            for byte in lock.ask.range.first()..=lock.ask.range.last() {
                let before = seen[byte as usize].insert(lock.ask.owner.session, lock.ask.kind);
                assert!(before.is_none(), "ranges of one owner overlap");
            }
        }
        assert_eq!(seen, bytes, "after request {number}");
    }
}

/// Random declarations of three sessions after a restart, compared with a table that has an entry for every byte.
#[test]
fn random_declarations_agree_with_a_table_of_bytes() {
    const BYTES: usize = 24;
    let mut rng = StdRng::seed_from_u64(43);
    let mut next = |below: u64| rng.random_range(0..below);
    for round in 0..500 {
        let table = LockTable::default();
        [A, B, C]
            .into_iter()
            .for_each(|session| table.begin_grace(session));
        let mut bytes: Vec<BTreeMap<SessionId, LockKind>> = vec![BTreeMap::new(); BYTES];
        for part in 0..6 {
            let session = [A, B, C][next(3) as usize];
            let (mut declared, mut lost) = (Vec::new(), Vec::new());
            for _ in 0..1 + next(8) {
                let (one, two) = (next(BYTES as u64), next(BYTES as u64));
                let (first, last) = (one.min(two), one.max(two));
                let kind = if next(2) == 0 { Shared } else { Exclusive };
                let ask = (FILE, posix(session, kind, first, last));
                declared.push(ask);
                let part = &mut bytes[first as usize..=last as usize];
                let has = |byte: &BTreeMap<_, LockKind>| byte.get(&session).is_some_and(|had| *had >= kind);
                let against = |(other, theirs): (&SessionId, &LockKind)| {
                    *other != session && (kind == Exclusive || *theirs == Exclusive)
                };
                match part.iter().any(|byte| byte.iter().any(against)) {
                    _ if part.iter().all(has) => {}
                    true => lost.push(ask),
                    false => part.iter_mut().for_each(|byte| {
                        byte.insert(session, kind);
                    }),
                }
            }
            assert_eq!(
                table.declare(session, 0, &declared, false).unwrap(),
                lost,
                "{round}, {part}"
            );
            let mut seen: Vec<BTreeMap<SessionId, LockKind>> = vec![BTreeMap::new(); BYTES];
            let mut counts: BTreeMap<SessionId, usize> = BTreeMap::new();
            for lock in table.of_inode(FILE).0 {
                let session = lock.ask.owner.session;
                *counts.entry(session).or_default() += 1;
                for byte in lock.ask.range.first()..=lock.ask.range.last() {
                    let before = seen[byte as usize].insert(session, lock.ask.kind);
                    assert!(before.is_none(), "ranges of one owner overlap");
                }
            }
            assert_eq!(seen, bytes, "{round}, {part}");
            let inner = table.inner.lock();
            for (session, count) in counts {
                assert_eq!(inner.by_session[&session].held, count, "{round}, {part}");
                let runs = |kind: LockKind| {
                    let is = |at: usize| bytes[at].get(&session) == Some(&kind);
                    (0..BYTES)
                        .filter(|at| is(*at) && (*at == 0 || !is(at - 1)))
                        .count()
                };
                assert_eq!(
                    count,
                    runs(Shared) + runs(Exclusive),
                    "neighbours of one kind are one"
                );
            }
        }
    }
}

/// A part that is sent again adds nothing, so it is not too much however near the bound.
#[test]
fn a_part_sent_again_is_not_counted_twice() {
    let table = LockTable::default();
    table.begin_grace(A);
    let range = |index: u64| (FILE, posix(A, Exclusive, index * 2, index * 2));
    let declared: Vec<_> = (0..dfs_common::limits::SESSION_LOCKS_MAX as u64)
        .map(range)
        .collect();
    for part in declared.chunks(16_384) {
        for _ in 0..2 {
            assert!(table.declare(A, 0, part, false).unwrap().is_empty());
        }
    }
    let beyond = [range(declared.len() as u64)];
    let refused = table.declare(A, 0, &beyond, false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert_eq!(table.of_inode(FILE).0.len(), declared.len(), "nothing came of it");
}
