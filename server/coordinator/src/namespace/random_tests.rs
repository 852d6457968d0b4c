//! Random sequences: the splice against an array of bytes, replay against itself (I10), and no tree that grows beyond its quota.

use super::fixture::{Fixture, commit, in_chunk, inline, name, received, user};
use super::{check, quota};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::extent::{Extent, ExtentData};
use dfs_common::op::{CommitWrite, OpReply, Operation, RenameMode, XattrMode};
use dfs_common::session::Caller;
use dfs_common::{ChunkId, FileKind, Ino, SetAttr};
use proptest::prelude::*;

/// Byte `offset` of a chunk's content: tells chunks and places apart.
fn chunk_byte(chunk: ChunkId, offset: u64) -> u8 {
    (chunk.sequence() * 37 + offset * 11 + 1) as u8
}

#[derive(Clone, Debug)]
enum Change {
    /// Pieces with a gap before each; in a new chunk, in an old one of the file, or inline.
    Write {
        pieces: Vec<(u64, u64)>,
        source: Source,
        append: bool,
    },
    Truncate(u64),
}

#[derive(Clone, Copy, Debug)]
enum Source {
    NewChunk,
    OldChunk(prop::sample::Index),
    Inline,
}

fn change() -> impl Strategy<Value = Change> {
    let source = prop_oneof![
        3 => Just(Source::NewChunk),
        2 => any::<prop::sample::Index>().prop_map(Source::OldChunk),
        3 => Just(Source::Inline),
    ];
    let pieces = prop::collection::vec((0u64..30, 1u64..25), 0..6);
    prop_oneof![
        5 => (pieces, source, prop::bool::weighted(0.2))
            .prop_map(|(pieces, source, append)| Change::Write { pieces, source, append }),
        1 => (0u64..150).prop_map(Change::Truncate),
    ]
}

fn model_write(bytes: &mut Vec<u8>, extent: &Extent, base: u64) {
    let (from, to) = ((base + extent.offset) as usize, (base + extent.end()) as usize);
    bytes.resize(bytes.len().max(to), 0);
    for (at, byte) in bytes[from..to].iter_mut().enumerate() {
        *byte = match &extent.data {
            ExtentData::Inline(data) => data[at],
            ExtentData::Chunk { chunk, chunk_offset } => chunk_byte(*chunk, chunk_offset + at as u64),
        };
    }
}

fn content(fixture: &Fixture, ino: Ino) -> Vec<u8> {
    let page = fixture.extents(ino);
    let mut bytes = vec![0; page.size as usize];
    for resolved in &page.extents {
        model_write(&mut bytes, &resolved.extent, 0);
    }
    assert_eq!(
        bytes.len(),
        page.size as usize,
        "no extent reaches behind the size"
    );
    bytes
}

/// Bytes in every chunk; more than the pieces of one write need.
const CHUNK_BYTES: u64 = 200;

fn splice(changes: Vec<Change>) {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let mut bytes: Vec<u8> = Vec::new();
    let mut chunks: Vec<ChunkId> = Vec::new();
    for change in changes {
        match change {
            Change::Truncate(size) => {
                fixture.truncate(file, size).unwrap();
                bytes.resize(size as usize, 0);
            }
            Change::Write {
                pieces,
                source,
                append,
            } => {
                let chunk = match source {
                    Source::NewChunk => {
                        chunks.push(fixture.chunk());
                        chunks.last().copied()
                    }
                    Source::OldChunk(index) if !chunks.is_empty() => Some(*index.get(&chunks)),
                    _ => None,
                };
                let (mut at, mut chunk_offset) = (0, 3);
                let mut extents = Vec::new();
                for (gap, length) in pieces {
                    at += gap;
                    extents.push(match chunk {
                        Some(chunk) => in_chunk(at, length, chunk, chunk_offset),
                        None => inline(at, &vec![at as u8 | 1; length as usize]),
                    });
                    at += length;
                    chunk_offset += length + 1;
                }
                let brought = match (chunk, extents.is_empty(), source) {
                    (Some(chunk), false, Source::NewChunk) => vec![received(chunk, CHUNK_BYTES, &[1, 2])],
                    _ => vec![],
                };
                let write = CommitWrite {
                    append,
                    ..commit(file, extents.clone(), brought)
                };
                let base = if append { bytes.len() as u64 } else { 0 };
                match fixture.commit(write) {
                    Ok(OpReply::Committed { append_offset, .. }) => {
                        assert_eq!(append_offset, base);
                        for extent in &extents {
                            model_write(&mut bytes, extent, base);
                        }
                    }
                    // A chunk that nobody referred to any more is refused, and nothing changes.
                    Err(_) => assert!(matches!(source, Source::OldChunk(_)), "{source:?}"),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(content(&fixture, file), bytes);
        fixture.assert_clean();
    }
    fixture.release(file);
    fixture.unlink_as(&Caller::root(), Ino::ROOT, "f").unwrap();
    fixture.assert_clean();
    let counters = super::read::statfs_counters(&fixture.store).unwrap();
    assert_eq!((counters.chunks, counters.content_bytes), (0, 0));
}

fn operation(numbers: &[u8; 8]) -> Operation {
    let ino = |number: u8| Ino([1, 1, 3, 4, 5, 6, 7, 8, 9, 10][number as usize % 10]);
    let text = |number: u8| name(["a", "b", "c", "d"][number as usize % 4]);
    let [what, a, b, c, d, e, f, _] = *numbers;
    let (parent, name_) = (ino(a), text(b));
    match what % 13 {
        0 | 1 => Operation::Mkdir {
            parent,
            name: name_,
            mode: 0o777,
        },
        2 => Operation::Mknod {
            parent,
            name: name_,
            kind: FileKind::Fifo,
            mode: 0o666,
            rdev: 0,
        },
        3 | 4 => Operation::Create {
            parent,
            name: name_,
            mode: 0o666,
            exclusive: c.is_multiple_of(2),
            read: true,
            write: true,
        },
        5 => Operation::Symlink {
            parent,
            name: name_,
            target: Bytes::from_static(b"target"),
        },
        6 => Operation::Link {
            ino: ino(c),
            parent,
            name: name_,
        },
        7 => Operation::Unlink { parent, name: name_ },
        8 => Operation::Rmdir { parent, name: name_ },
        9 => Operation::Rename {
            parent,
            name: name_,
            new_parent: ino(c),
            new_name: text(d),
            mode: [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][e as usize % 3],
        },
        10 => Operation::Setattr {
            ino: ino(a),
            set: SetAttr {
                size: c.is_multiple_of(2).then_some(u64::from(d)),
                gid: e.is_multiple_of(3).then_some(5),
                mode: f.is_multiple_of(3).then_some(0o3777),
                ..SetAttr::default()
            },
            by_handle: false,
        },
        11 => Operation::Setxattr {
            ino: ino(a),
            name: Bytes::from_static(b"user.x"),
            value: Bytes::from(vec![1; c as usize]),
            mode: XattrMode::Set,
        },
        _ => {
            let bytes = vec![7; c as usize + 1];
            let write = commit(ino(a), vec![inline(u64::from(b), &bytes)], vec![]);
            Operation::CommitWrite(write)
        }
    }
}

fn dump(fixture: &Fixture) -> Vec<(Bytes, Bytes)> {
    fixture.store.scan(&[0], &[255], usize::MAX).unwrap()
}

fn replay(sequence: &[[u8; 8]], checked: bool) -> Vec<(Bytes, Bytes)> {
    let mut fixture = Fixture::default();
    for numbers in sequence {
        let target = Ino(u64::from(numbers[7] % 12));
        match numbers[6] % 8 {
            0 => fixture.open(target, true),
            1 => fixture.release(target),
            2 => drop(fixture.reap_replaced(2)),
            3 => {
                let limit =
                    |number: u8, factor| (!number.is_multiple_of(3)).then(|| u64::from(number) * factor);
                let _ = fixture.set_quota(target, limit(numbers[1], 4), limit(numbers[2] % 10, 1));
            }
            _ => {}
        }
        let caller = if numbers[5] % 4 == 0 {
            user(5)
        } else {
            Caller::root()
        };
        let operation = operation(numbers);
        let quotas = |fixture: &Fixture| quota::list(&fixture.store, Ino(0), 100).unwrap();
        let before = quotas(&fixture);
        let _ = fixture.apply(&caller, &operation);
        for after in quotas(&fixture) {
            let Some(before) = before.iter().find(|before| before.ino == after.ino) else {
                panic!("{operation:?} made a quota");
            };
            let within =
                |limit: Option<u64>, before, after| after <= before || limit.is_none_or(|l| after <= l);
            assert!(
                within(after.quota.bytes, before.bytes, after.bytes)
                    && within(after.quota.inodes, before.inodes, after.inodes),
                "{operation:?} made {before:?} {after:?}"
            );
        }
        if checked {
            let report = check::check(&fixture.store).unwrap();
            assert!(report.is_clean(), "{operation:?} left {report:#?}");
        }
    }
    dump(&fixture)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn splice_is_what_writing_into_an_array_would_be(changes in prop::collection::vec(change(), 1..25)) {
        splice(changes);
    }

    #[test]
    fn replay_gives_the_same_state_and_everything_belongs_together(
        sequence in prop::collection::vec(any::<[u8; 8]>(), 1..80)
    ) {
        prop_assert_eq!(replay(&sequence, true), replay(&sequence, false));
    }
}
