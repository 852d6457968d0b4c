use super::*;
use tokio::sync::oneshot::error::TryRecvError;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const FILE: Ino = Ino(7);

fn inos(list: &[u64]) -> BTreeSet<Ino> {
    list.iter().map(|ino| Ino(*ino)).collect()
}

fn recalls(table: &LeaseTable, session: SessionId, stream: u64, acknowledged: u64) -> Vec<Recall> {
    match table.pending(session, stream, acknowledged).unwrap() {
        Pending::Recalls(recalls) => recalls,
        Pending::None(_) => Vec::new(),
    }
}

fn is_waiting(wait: &mut GivenUp) -> bool {
    wait.try_recv() == Err(TryRecvError::Empty)
}

#[test]
fn others_are_recalled_and_waited_for_and_the_changer_is_not() {
    let table = LeaseTable::default();
    let (a, b) = (table.attach(A), table.attach(B));
    assert!(table.grant(A, FILE) && table.grant(B, FILE) && table.grant(B, Ino(8)));
    let mut waits = table.begin_change(A, &inos(&[7, 9]));
    assert_eq!(waits.len(), 1);
    let recall = recalls(&table, B, b, 0).remove(0);
    assert_eq!(recall.inos, [FILE]);
    assert!(recalls(&table, A, a, 0).is_empty());
    assert!(is_waiting(&mut waits[0]));
    assert_eq!(recalls(&table, B, b, 0).len(), 1, "a lost reply is sent again");
    assert!(recalls(&table, B, b, recall.sequence).is_empty());
    assert!(!is_waiting(&mut waits[0]));
    table.end_change(&inos(&[7, 9]));
    assert_eq!(table.counts(), (2, 2), "A keeps its lease, B the other one");
    assert!(table.begin_change(A, &inos(&[7])).is_empty());
}

#[test]
fn nothing_is_granted_while_an_inode_changes() {
    let table = LeaseTable::default();
    table.attach(A);
    table.attach(B);
    table.begin_change(A, &inos(&[7]));
    assert!(!table.grant(B, FILE) && !table.grant(A, FILE));
    assert!(table.grant_to_changer(A, FILE), "its own change");
    table.end(A);
    table.attach(A);
    table.begin_change(B, &inos(&[7]));
    assert!(!table.grant_to_changer(B, FILE), "somebody else's too");
    table.end_change(&inos(&[7]));
    assert!(!table.grant(B, FILE));
    assert!(
        !table.grant_to_changer(A, FILE),
        "its own is older than one that ended"
    );
    table.end_change(&inos(&[7]));
    assert!(table.grant(B, FILE));
}

#[test]
fn inode_that_was_recalled_a_moment_ago_is_not_leased_again() {
    let table = LeaseTable::default();
    table.attach(B);
    assert!(table.grant(B, FILE));
    table.begin_change(A, &inos(&[7]));
    table.end_change(&inos(&[7]));
    assert!(!table.grant(B, FILE));
    assert!(table.grant(B, Ino(8)));
}

#[test]
fn session_without_a_stream_gets_no_lease_and_a_silent_one_is_waited_for() {
    let table = LeaseTable::default();
    assert!(!table.grant(A, FILE));
    let stream = table.attach(A);
    assert!(table.grant(A, FILE) && table.grant(A, Ino(8)));
    let mut waits = table.begin_change(B, &inos(&[7]));
    assert!(is_waiting(&mut waits[0]));
    let again = table.attach(A);
    assert!(
        !is_waiting(&mut waits[0]),
        "it forgot everything before it attached"
    );
    assert_eq!(table.counts(), (1, 0));
    assert_eq!(
        table.pending(A, stream, 0).err().unwrap().kind(),
        ErrorKind::Stale
    );
    assert!(table.pending(A, again, 0).is_ok());
    assert!(table.grant(A, Ino(9)));
    let mut waits = table.begin_change(B, &inos(&[9]));
    table.end(A);
    assert!(!is_waiting(&mut waits[0]));
    assert_eq!(table.counts(), (0, 0));
}

#[test]
fn client_that_does_not_ask_for_its_recalls_is_cut_off() {
    let table = LeaseTable::default();
    let stream = table.attach(B);
    let mut waits = Vec::new();
    for ino in 0..=RECALLS_PENDING_MAX as u64 {
        assert!(table.grant(B, Ino(ino)));
        waits.extend(table.begin_change(A, &inos(&[ino])));
        table.end_change(&inos(&[ino]));
    }
    assert!(!table.grant(B, Ino(1 << 40)), "it did not hear of everything");
    assert_eq!(
        table.pending(B, stream, 0).err().unwrap().kind(),
        ErrorKind::Stale
    );
    assert!(waits.iter_mut().all(is_waiting));
    table.attach(B);
    assert!(!waits.iter_mut().any(is_waiting));
}

#[test]
fn oldest_leases_are_recalled_to_make_room_and_respected_until_that_is_obeyed() {
    let table = LeaseTable::default();
    let stream = table.attach(A);
    let first = 1_000_000;
    for number in 0..SESSION_LEASES_MAX as u64 {
        assert!(table.grant(A, Ino(first + number)));
    }
    assert!(
        table.grant(A, Ino(first)),
        "asked for again, it is not the oldest any more"
    );
    assert!(recalls(&table, A, stream, 0).is_empty());
    assert!(table.grant(A, FILE), "one too many");
    let recall = recalls(&table, A, stream, 0).remove(0);
    let oldest: Vec<Ino> = (1..=LEASES_RECALLED_AT_ONCE as u64)
        .map(|number| Ino(first + number))
        .collect();
    assert_eq!(recall.inos, oldest);
    assert!(!table.grant(A, oldest[0]), "it may not have been given up yet");

    let mut waits = table.begin_change(B, &[oldest[1]].into());
    assert!(is_waiting(&mut waits[0]));
    let change = recalls(&table, A, stream, recall.sequence).remove(0);
    assert_eq!(change.inos, [oldest[1]]);
    assert!(is_waiting(&mut waits[0]));
    assert!(table.grant(A, oldest[0]), "given up, it is as any other");
    assert!(recalls(&table, A, stream, change.sequence).is_empty());
    assert!(!is_waiting(&mut waits[0]));
    assert!(table.counts().1 <= SESSION_LEASES_MAX);

    // One that does not obey gets no more than there is room for.
    let more = |number: u64| table.grant(A, Ino(2 * first + number));
    let granted = (0..2 * SESSION_LEASES_MAX as u64)
        .filter(|number| more(*number))
        .count();
    assert!((1..=2 * LEASES_RECALLED_AT_ONCE).contains(&granted), "{granted}");
    assert!(table.counts().1 <= SESSION_LEASES_MAX);
    table.end(A);
    assert!(
        table.begin_change(B, &[oldest[5], FILE].into()).is_empty(),
        "nothing is left of it"
    );
}
