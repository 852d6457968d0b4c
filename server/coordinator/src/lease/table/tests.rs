use super::*;
use dfs_common::limits::{LEASES_RECALLED_AT_ONCE, RECALLS_PENDING_MAX, SESSION_LEASES_MAX};
use tokio::sync::oneshot::error::TryRecvError;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const FILE: Ino = Ino(7);

fn inos(list: &[u64]) -> BTreeSet<Lease> {
    list.iter().map(|ino| Lease::attributes(Ino(*ino))).collect()
}

/// All recalls up to this one were received and obeyed.
fn up_to(sequence: u64) -> Obeyed {
    Obeyed {
        received: sequence,
        below: sequence,
        beside: Vec::new(),
    }
}

fn ask(table: &LeaseTable, session: SessionId, stream: u64, obeyed: &Obeyed) -> Vec<Recall> {
    let poll = table.begin_poll(session, stream).unwrap();
    match table.pending(session, stream, poll, obeyed).unwrap() {
        Recalls::Now(recalls) => recalls,
        Recalls::Later(_) | Recalls::Superseded => Vec::new(),
    }
}

fn recalls(table: &LeaseTable, session: SessionId, stream: u64, obeyed: u64) -> Vec<Recall> {
    ask(table, session, stream, &up_to(obeyed))
}

fn poll_error(table: &LeaseTable, session: SessionId, stream: u64) -> Option<ErrorKind> {
    table.begin_poll(session, stream).err().map(|error| error.kind())
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
    table.end_change(A, &inos(&[7, 9]));
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
    table.end_change(B, &inos(&[7]));
    assert!(!table.grant(B, FILE));
    assert!(
        !table.grant_to_changer(A, FILE),
        "its own is older than one that ended"
    );
    table.end_change(A, &inos(&[7]));
    assert!(table.grant(B, FILE));
}

#[test]
fn inode_that_was_recalled_a_moment_ago_is_not_leased_again() {
    let table = LeaseTable::default();
    table.attach(B);
    assert!(table.grant(B, FILE));
    table.begin_change(A, &inos(&[7]));
    table.end_change(A, &inos(&[7]));
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
    assert_eq!(poll_error(&table, A, stream), Some(ErrorKind::Stale));
    assert_eq!(poll_error(&table, A, again), None);
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
        table.end_change(A, &inos(&[ino]));
    }
    assert!(!table.grant(B, Ino(1 << 40)), "it did not hear of everything");
    assert_eq!(poll_error(&table, B, stream), Some(ErrorKind::Stale));
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

    let mut waits = table.begin_change(B, &[Lease::attributes(oldest[1])].into());
    assert!(is_waiting(&mut waits[0]));
    assert!(recalls(&table, A, stream, recall.sequence).is_empty());
    assert!(!is_waiting(&mut waits[0]), "the recall on its way was enough");
    assert!(table.grant(A, oldest[0]), "given up, it is as any other");
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
        table
            .begin_change(B, &[Lease::attributes(oldest[5]), Lease::attributes(FILE)].into())
            .is_empty(),
        "nothing is left of it"
    );
}

#[test]
fn whoever_changes_while_a_recall_is_on_its_way_waits_for_it_too() {
    let table = LeaseTable::default();
    let stream = table.attach(A);
    assert!(table.grant(A, FILE));
    let mut first = table.begin_change(B, &inos(&[7]));
    let mut second = table.begin_change(SessionId(3), &inos(&[7]));
    assert_eq!((first.len(), second.len()), (1, 1));
    let recall = recalls(&table, A, stream, 0).remove(0);
    assert!(is_waiting(&mut first[0]) && is_waiting(&mut second[0]));
    assert!(recalls(&table, A, stream, recall.sequence).is_empty());
    assert!(!is_waiting(&mut first[0]) && !is_waiting(&mut second[0]));
    assert!(table.begin_change(B, &inos(&[7])).is_empty());
}

#[test]
fn recalls_are_obeyed_in_any_order() {
    let table = LeaseTable::default();
    let stream = table.attach(A);
    let mut waits = Vec::new();
    for ino in [7, 8] {
        assert!(table.grant(A, Ino(ino)));
        waits.extend(table.begin_change(B, &inos(&[ino])));
    }
    assert_eq!(recalls(&table, A, stream, 0).len(), 2);
    let second = Obeyed {
        received: 2,
        below: 0,
        beside: vec![2],
    };
    assert!(ask(&table, A, stream, &second).is_empty(), "received");
    assert!(is_waiting(&mut waits[0]) && !is_waiting(&mut waits[1]));
    assert!(recalls(&table, A, stream, 2).is_empty());
    assert!(!is_waiting(&mut waits[0]));
}

#[test]
fn later_call_for_recalls_is_the_one_that_is_answered() {
    let table = LeaseTable::default();
    let stream = table.attach(A);
    let first = table.begin_poll(A, stream).unwrap();
    let second = table.begin_poll(A, stream).unwrap();
    assert!(matches!(
        table.pending(A, stream, first, &up_to(0)).unwrap(),
        Recalls::Superseded
    ));
    assert!(matches!(
        table.pending(A, stream, second, &up_to(0)).unwrap(),
        Recalls::Later(_)
    ));
}

fn parts(parts: &[Part]) -> BTreeSet<Lease> {
    parts
        .iter()
        .map(|part| Lease {
            ino: FILE,
            part: *part,
        })
        .collect()
}

#[test]
fn writes_are_buffered_by_one_session_that_is_alone_with_the_file() {
    let (table, opens) = (LeaseTable::default(), OpenTable::default());
    let (a, b) = (table.attach(A), table.attach(B));
    assert!(table.grant(A, FILE) && table.grant_buffer(A, FILE, &opens));
    assert!(!table.grant(B, FILE), "its attributes may change unseen");
    assert_eq!(table.grant_content(B, FILE), Grant::Later);
    assert!(!table.grant_buffer(B, FILE, &opens));
    assert!(table.is_buffered_beside(B, [FILE]) && !table.is_buffered_beside(A, [FILE]));

    // To read it is to recall it; who reads at the same time waits, too.
    let mut one = table.begin_change(B, &parts(&[Part::Buffer]));
    let mut two = table.begin_change(SessionId(3), &parts(&[Part::Buffer]));
    assert!(is_waiting(&mut one[0]) && is_waiting(&mut two[0]));
    assert!(!table.grant_buffer(A, FILE, &opens) && !table.grant(B, FILE));
    let recall = recalls(&table, A, a, 0).remove(0);
    assert_eq!((recall.buffers, recall.inos), (vec![FILE], vec![]));
    assert!(recalls(&table, A, a, recall.sequence).is_empty());
    assert!(!is_waiting(&mut one[0]) && !is_waiting(&mut two[0]));
    assert!(!table.grant_buffer(A, FILE, &opens), "it is being read");
    table.end_change(B, &parts(&[Part::Buffer]));
    table.end_change(SessionId(3), &parts(&[Part::Buffer]));
    assert!(table.grant_buffer(A, FILE, &opens));

    // Not beside a lease of somebody else, nor while somebody else has it open.
    table.end(A);
    table.attach(A);
    assert!(table.grant(B, FILE));
    assert!(!table.grant_buffer(A, FILE, &opens));
    table.begin_change(A, &parts(&[Part::Attributes]));
    assert!(recalls(&table, B, b, 1).is_empty());
    opens.open(B, FILE, true, false).unwrap();
    assert!(!table.grant_buffer(A, FILE, &opens));
    opens.release(B, FILE).unwrap();
    assert!(table.grant_buffer(A, FILE, &opens));
}

#[test]
fn content_is_leased_to_many_and_to_nobody_while_somebody_else_changes_it() {
    let table = LeaseTable::default();
    let (a, _) = (table.attach(A), table.attach(B));
    assert_eq!(table.grant_content(A, FILE), Grant::Granted);
    assert_eq!(table.grant_content(B, FILE), Grant::Granted);
    assert_eq!(
        table.grant_content(SessionId(3), FILE),
        Grant::Refused,
        "no stream"
    );
    let mut waits = table.begin_change(B, &parts(&[Part::Content]));
    assert_eq!(table.grant_content(B, FILE), Grant::Granted, "its own change");
    assert_eq!(table.grant_content(A, FILE), Grant::Later);
    assert!(is_waiting(&mut waits[0]));
    table.end_change(B, &parts(&[Part::Content]));
    assert_eq!(
        table.grant_content(A, FILE),
        Grant::Later,
        "it has not given up the old one"
    );
    let recall = recalls(&table, A, a, 0).remove(0);
    assert_eq!(recall.contents, [FILE]);
    recalls(&table, A, a, recall.sequence);
    assert_eq!(table.grant_content(A, FILE), Grant::Granted);
}

#[test]
fn right_to_buffer_outlives_the_stream_and_the_start_of_the_coordinator() {
    let (table, opens) = (LeaseTable::default(), OpenTable::default());
    table.declare_buffers(A, [FILE]);
    assert!(table.is_buffered_beside(B, [FILE]));
    assert!(!table.grant(A, Ino(8)), "it has no stream yet");
    let mut waits = table.begin_change(B, &parts(&[Part::Buffer]));
    let stream = table.attach(A);
    assert!(is_waiting(&mut waits[0]), "it is told in the new stream");
    let recall = recalls(&table, A, stream, 0).remove(0);
    assert_eq!(recall.buffers, [FILE]);
    recalls(&table, A, stream, recall.sequence);
    assert!(!is_waiting(&mut waits[0]));
    table.end_change(B, &parts(&[Part::Buffer]));

    assert!(table.grant_buffer(A, FILE, &opens) && table.grant(A, FILE));
    table.attach(A);
    assert!(table.is_buffered_beside(B, [FILE]));
    opens.open(A, FILE, true, true).unwrap();
    table.closed(A, FILE, &opens);
    assert!(
        table.is_buffered_beside(B, [FILE]),
        "it was opened again meanwhile"
    );
    opens.release(A, FILE).unwrap();
    table.closed(A, FILE, &opens);
    assert!(!table.is_buffered_beside(B, [FILE]));
}
