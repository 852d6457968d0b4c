//! The checker and the models on histories that are known to be right or wrong.

use super::super::*;
use std::time::Duration;

/// A record of `worker` from `begin` to `end`, in milliseconds; `end` 0 with an unknown reply.
fn record<M: Model>(worker: &str, begin: u64, end: u64, call: M::Call, reply: Option<M::Reply>) -> Record<M> {
    Record {
        worker: worker.to_owned(),
        object: 0,
        call,
        reply,
        invoked: Duration::from_millis(begin),
        returned: Duration::from_millis(end),
    }
}

fn wrong<M: Model>(model: &M, records: &[Record<M>]) -> String {
    check(model, records)
        .expect_err("it is not linearizable")
        .to_string()
}

fn write(begin: u64, end: u64, value: u64) -> Record<Register> {
    let call = RegisterCall::Write { mount: 0, value };
    record("writer", begin, end, call, Some(RegisterReply::Done))
}

fn read_by(mount: usize, begin: u64, end: u64, value: u64) -> Record<Register> {
    let call = RegisterCall::Read { mount, how: "" };
    record("reader", begin, end, call, Some(RegisterReply::Value(value)))
}

fn read(begin: u64, end: u64, value: u64) -> Record<Register> {
    read_by(1, begin, end, value)
}

fn register() -> Register {
    Register::default()
}

#[test]
fn nothing_and_calls_one_after_the_other_are_linearizable() {
    check(&register(), &[]).unwrap();
    check(&register(), &[read(1, 2, 0), write(3, 4, 7), read(5, 6, 7)]).unwrap();
}

#[test]
fn concurrent_calls_may_take_effect_in_either_order() {
    check(&register(), &[write(1, 10, 7), read(2, 3, 0), read(4, 5, 7)]).unwrap();
    check(&register(), &[write(1, 10, 7), write(1, 10, 8), read(11, 12, 7)]).unwrap();
    check(&register(), &[write(1, 10, 7), write(1, 10, 8), read(11, 12, 8)]).unwrap();
}

#[test]
fn read_of_an_older_value_is_found() {
    let text = wrong(&register(), &[write(1, 2, 7), read(3, 4, 0)]);
    assert!(text.contains("Value(0)"), "{text}");
    // One reader sees the new value while the write is under way, a later one the old.
    wrong(&register(), &[write(1, 10, 7), read(2, 3, 7), read(4, 5, 0)]);
    // A value that was never written.
    wrong(&register(), &[write(1, 10, 7), read(2, 3, 8)]);
    // Two readers see two concurrent writes in different orders.
    let calls = [
        write(1, 20, 7),
        write(1, 20, 8),
        read(2, 3, 7),
        read(4, 5, 8),
        read(6, 7, 7),
    ];
    wrong(&register(), &calls);
}

#[test]
fn calls_of_the_same_moment_count_as_concurrent() {
    check(&register(), &[write(1, 2, 7), read(2, 3, 0)]).unwrap();
    check(&register(), &[write(1, 2, 7), read(2, 3, 7)]).unwrap();
}

#[test]
fn write_of_unknown_end_takes_effect_late_or_never_but_once() {
    let maybe = |value| record("lost", 1, 0, RegisterCall::Write { mount: 0, value }, None);
    check(&register(), &[maybe(9), read(2, 3, 0), read(4, 5, 0)]).unwrap();
    check(&register(), &[maybe(9), read(2, 3, 0), read(4, 5, 9)]).unwrap();
    check(
        &register(),
        &[maybe(9), write(2, 3, 7), read(4, 5, 7), read(6, 7, 9)],
    )
    .unwrap();
    let twice = [
        maybe(9),
        read(2, 3, 9),
        write(4, 5, 7),
        read(6, 7, 7),
        read(8, 9, 9),
    ];
    wrong(&register(), &twice);
}

#[test]
fn counterexample_is_the_shortest_prefix_without_the_reads_that_do_not_matter() {
    let mut calls = Vec::new();
    for number in 0..20 {
        calls.push(write(number * 10, number * 10 + 2, number + 1));
        calls.push(read(number * 10 + 3, number * 10 + 4, number + 1));
    }
    // Two writes with reads about them, of which the last is of neither; then more that is right.
    calls.extend([
        write(300, 310, 70),
        read(301, 302, 20),
        read(303, 309, 70),
        read(304, 312, 3),
    ]);
    calls.extend([write(320, 330, 80), read(340, 341, 80)]);
    let text = wrong(&register(), &calls);
    assert!(text.starts_with("not linearizable, 2 calls"), "{text}");
    assert!(text.contains("before them: Value { saved: 20,"), "{text}");
    assert!(text.contains("!    304.000 ..    312.000 ms  reader"), "{text}");
    assert!(!text.contains("80"), "what came later is not shown: {text}");
}

#[test]
fn search_that_has_too_many_ways_says_so() {
    let maybes = (0..70).map(|value| {
        let call = RegisterCall::Write { mount: 0, value };
        record("lost", value, 0, call, None)
    });
    let text = wrong(&register(), &maybes.collect::<Vec<_>>());
    assert!(text.starts_with("not decided"), "{text}");
    let maybes = (0..30).map(|value| {
        let call = RegisterCall::Write { mount: 0, value };
        record("lost", value, 0, call, None)
    });
    let mut calls: Vec<_> = maybes.collect();
    calls.push(read(100, 101, 555));
    let text = wrong(&register(), &calls);
    assert!(text.starts_with("not decided"), "{text}");
}

#[test]
fn mount_that_ends_loses_what_nobody_else_saw() {
    let model = Register { may_end: vec![0] };
    let sync = |at| {
        record(
            "writer",
            at,
            at + 1,
            RegisterCall::Sync { mount: 0 },
            Some(RegisterReply::Done),
        )
    };
    let end = |at| {
        record(
            "fault",
            at,
            at + 5,
            RegisterCall::SessionEnd { mount: 0 },
            Some(RegisterReply::Done),
        )
    };
    for value in [0, 7, 8] {
        check(
            &model,
            &[write(1, 2, 7), write(3, 4, 8), end(5), read(20, 21, value)],
        )
        .unwrap();
    }
    wrong(&model, &[write(1, 2, 7), end(5), read(20, 21, 5)]);
    // Synced.
    wrong(&model, &[write(1, 2, 7), sync(3), end(5), read(20, 21, 0)]);
    check(&model, &[write(1, 2, 7), sync(3), end(5), read(20, 21, 7)]).unwrap();
    // Seen by another mount, overwritten by another mount.
    wrong(&model, &[write(1, 2, 7), read(3, 4, 7), end(5), read(20, 21, 0)]);
    let other = record(
        "other",
        3,
        4,
        RegisterCall::Write { mount: 1, value: 9 },
        Some(RegisterReply::Done),
    );
    check(&model, &[write(1, 2, 7), other.clone(), end(5), read(20, 21, 9)]).unwrap();
    wrong(&model, &[write(1, 2, 7), other, end(5), read(20, 21, 0)]);
    // Seen by itself only.
    check(
        &model,
        &[write(1, 2, 7), read_by(0, 3, 4, 7), end(5), read(20, 21, 0)],
    )
    .unwrap();
    // Lost while the session goes on.
    wrong(&model, &[write(1, 2, 7), read(20, 21, 0)]);
    // Another mount's loss is no excuse.
    wrong(
        &Register { may_end: vec![2] },
        &[write(1, 2, 7), end(5), read(20, 21, 0)],
    );
}

fn name(begin: u64, end: u64, call: NameCall, reply: NameReply) -> Record<Names> {
    record("worker", begin, end, call, Some(reply))
}

#[test]
fn names_are_of_files() {
    let names = Names { places: 2 };
    let create = |begin, end, file, reply| name(begin, end, NameCall::Create { place: 0, file }, reply);
    let moved = |begin, end, reply| name(begin, end, NameCall::Rename { from: 0, to: 1 }, reply);
    let stat = |begin, end, place, reply| name(begin, end, NameCall::Stat { place }, reply);
    check(
        &names,
        &[
            create(1, 2, 7, NameReply::Done),
            create(3, 4, 8, NameReply::Exists),
            moved(5, 6, NameReply::Done),
            stat(7, 8, 0, NameReply::Missing),
            stat(9, 10, 1, NameReply::File(7)),
            name(11, 12, NameCall::List { place: 1 }, NameReply::Listed(true)),
            name(13, 14, NameCall::Unlink { place: 1 }, NameReply::Done),
            name(15, 16, NameCall::Unlink { place: 1 }, NameReply::Missing),
        ],
    )
    .unwrap();
    // Both creations succeed; one finds a name that was removed; the old file is found under the name.
    wrong(
        &names,
        &[
            create(1, 10, 7, NameReply::Done),
            create(2, 11, 8, NameReply::Done),
        ],
    );
    wrong(
        &names,
        &[
            create(1, 2, 7, NameReply::Done),
            stat(3, 4, 0, NameReply::Missing),
        ],
    );
    wrong(
        &names,
        &[
            create(1, 2, 7, NameReply::Done),
            stat(3, 4, 0, NameReply::File(6)),
        ],
    );
    wrong(&names, &[create(1, 2, 7, NameReply::Exists)]);
    // A rename seen halfway: in neither place, then in the new one, and then in the old one again.
    let halfway = [
        create(1, 2, 7, NameReply::Done),
        moved(3, 20, NameReply::Done),
        stat(4, 5, 1, NameReply::File(7)),
        stat(6, 7, 0, NameReply::File(7)),
    ];
    wrong(&names, &halfway);
    // Replaced, not removed in between: somebody always finds a file.
    let replaced = [
        create(1, 2, 7, NameReply::Done),
        name(3, 4, NameCall::Create { place: 1, file: 8 }, NameReply::Done),
        moved(5, 20, NameReply::Done),
        stat(6, 7, 1, NameReply::Missing),
    ];
    wrong(&names, &replaced);
}

#[test]
fn size_is_one_number() {
    let call = |begin, end, call, reply| record::<FileSize>("worker", begin, end, call, Some(reply));
    let stat = |begin, end, size| call(begin, end, SizeCall::Stat { how: "" }, SizeReply::Bytes(size));
    let truncate = |begin, end, size| call(begin, end, SizeCall::Truncate(size), SizeReply::Done);
    let write = |begin, end, to| call(begin, end, SizeCall::WriteTo(to), SizeReply::Done);
    let read = |begin, end, size| {
        let made = SizeCall::Read {
            offset: 10,
            length: 20,
        };
        call(begin, end, made, SizeReply::Bytes(size))
    };
    check(
        &FileSize,
        &[truncate(1, 2, 100), write(3, 4, 50), stat(5, 6, 100)],
    )
    .unwrap();
    check(
        &FileSize,
        &[
            truncate(1, 2, 20),
            read(3, 4, 10),
            write(5, 6, 90),
            read(7, 8, 20),
        ],
    )
    .unwrap();
    check(
        &FileSize,
        &[truncate(1, 10, 5), write(2, 9, 50), stat(11, 12, 50)],
    )
    .unwrap();
    check(&FileSize, &[truncate(1, 10, 5), write(2, 9, 50), stat(11, 12, 5)]).unwrap();
    wrong(&FileSize, &[truncate(1, 10, 5), write(2, 9, 50), stat(11, 12, 0)]);
    wrong(&FileSize, &[write(1, 2, 50), stat(3, 4, 0)]);
    wrong(&FileSize, &[write(1, 2, 50), truncate(3, 4, 0), read(5, 6, 20)]);
}

#[test]
fn lock_excludes_and_what_is_written_under_it_is_read_under_the_next() {
    let call = |begin, end, call, reply| record::<LockedCounter>("worker", begin, end, call, Some(reply));
    let lock = |begin, end, owner| {
        let made = LockedCall::TryLock {
            owner,
            mount: owner,
            shared: false,
        };
        call(begin, end, made, LockedReply::Done)
    };
    let unlock = |begin, end, owner| call(begin, end, LockedCall::Unlock { owner }, LockedReply::Done);
    let read =
        |begin, end, owner, value| call(begin, end, LockedCall::Read { owner }, LockedReply::Value(value));
    let write =
        |begin, end, owner, value| call(begin, end, LockedCall::Write { owner, value }, LockedReply::Done);
    let section = |begin, owner, value| {
        let section = [
            lock(begin, begin + 1, owner),
            read(begin + 2, begin + 3, owner, value),
            write(begin + 4, begin + 5, owner, value + 1),
            unlock(begin + 6, begin + 7, owner),
        ];
        section.to_vec()
    };
    check(&LockedCounter, &[section(10, 0, 0), section(20, 1, 1)].concat()).unwrap();
    wrong(&LockedCounter, &[section(10, 0, 0), section(20, 1, 0)].concat());
    wrong(&LockedCounter, &[lock(1, 2, 0), lock(3, 4, 1)]);
    let busy = LockedCall::TryLock {
        owner: 1,
        mount: 1,
        shared: true,
    };
    check(
        &LockedCounter,
        &[lock(1, 2, 0), call(3, 4, busy.clone(), LockedReply::Busy)],
    )
    .unwrap();
    wrong(
        &LockedCounter,
        &[
            lock(1, 2, 0),
            unlock(3, 4, 0),
            call(5, 6, busy, LockedReply::Busy),
        ],
    );
    // A mount that was cut off in its section, and what it may not do afterwards.
    let end = call(20, 30, LockedCall::SessionEnd { mount: 0 }, LockedReply::Done);
    let cut = vec![lock(10, 11, 0), read(12, 13, 0, 0), write(14, 15, 0, 1), end];
    for value in [0, 1] {
        check(&LockedCounter, &[cut.clone(), section(40, 1, value)].concat()).unwrap();
    }
    wrong(&LockedCounter, &[cut.clone(), section(40, 1, 2)].concat());
    let late = vec![lock(40, 41, 1), write(42, 43, 0, 5)];
    wrong(&LockedCounter, &[cut.clone(), late].concat());
    // Synced by the unlock.
    let unlocked = [section(1, 0, 0), vec![cut[3].clone()], section(40, 1, 0)].concat();
    wrong(&LockedCounter, &unlocked);
}

#[test]
fn appended_file_is_taken_apart_and_placed() {
    let text = |writer, number, length| RecordText {
        writer,
        number,
        length,
    };
    let append = |begin: u64, record_text| {
        let call = AppendCall::Append {
            record: record_text,
            at: None,
        };
        record::<Appends>("writer", begin, begin + 1, call, Some(AppendReply::Done))
    };
    let texts = [text(1, 0, 40), text(2, 0, 1), text(1, 1, 5000), text(2, 1, 16)];
    let content: Vec<u8> = texts.iter().flat_map(RecordText::bytes).collect();
    let history = || {
        texts
            .iter()
            .zip(1..)
            .map(|(text, at)| append(at * 10, *text))
            .collect::<Vec<_>>()
    };
    let mut placed = history();
    AppendedFile::new(&content).unwrap().place(&mut placed).unwrap();
    check(&Appends, &placed).unwrap();
    let size = |begin: u64, size| {
        let call = AppendCall::Size { how: "stat" };
        record::<Appends>("reader", begin, begin + 1, call, Some(AppendReply::Bytes(size)))
    };
    check(&Appends, &[placed.clone(), vec![size(22, 41)]].concat()).unwrap();
    wrong(&Appends, &[placed.clone(), vec![size(22, 40)]].concat());
    // Not in the order of time.
    let mut swapped = history();
    (swapped[0].invoked, swapped[0].returned) = (Duration::from_millis(24), Duration::from_millis(25));
    AppendedFile::new(&content).unwrap().place(&mut swapped).unwrap();
    wrong(&Appends, &swapped);
    // Lost, overwritten, divided, doubled, in another order.
    let place = |content: &[u8]| AppendedFile::new(content)?.place(&mut history());
    assert!(place(&content[..41]).unwrap_err().contains("not in the file"));
    let mut broken = content.clone();
    broken[60] ^= 1;
    assert!(place(&broken).unwrap_err().contains("something else"));
    broken = content.clone();
    broken.splice(2000..2000, texts[3].bytes());
    assert!(place(&broken).unwrap_err().contains("something else"));
    broken = content.clone();
    broken.splice(41..41, vec![0; 100]);
    assert!(place(&broken).unwrap_err().contains("no record begins here"));
    broken = [content.clone(), texts[3].bytes()].concat();
    assert!(place(&broken).unwrap_err().contains("nobody wrote it"));
    broken = [2, 1, 0, 3]
        .iter()
        .flat_map(|index| texts[*index as usize].bytes())
        .collect();
    assert!(place(&broken).unwrap_err().contains("behind later ones"));
    // What is not known to be done may be missing.
    let mut maybe = history();
    maybe[3].reply = None;
    AppendedFile::new(&content[..content.len() - 16])
        .unwrap()
        .place(&mut maybe)
        .unwrap();
    assert_eq!(maybe.len(), 3);
}
