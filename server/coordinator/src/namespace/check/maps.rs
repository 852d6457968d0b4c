//! Maps of files: extents are disjoint, belong to an inode or are left to the reaper, and sum up to what the inode says. Hands on which
//! chunks they refer to ([`super::chunks`]).

use super::rows::{Numbered, Rows, number_of, numbers};
use super::{Check, Report, readable_inode};
use crate::namespace::inode::Inode;
use crate::namespace::repair::{Field, Repair};
use crate::namespace::{damaged, extents, keys, reap};
use crate::sort::{Sorted, Sorter};
use dfs_common::extent::ExtentData;
use dfs_common::{FsResult, Ino};

/// A file, as far as its map is concerned.
#[derive(Clone, Copy)]
struct Owner {
    ino: Ino,
    size: u64,
    allocated_bytes: u64,
    inline_bytes: u64,
}

/// Bytes of extents.
#[derive(Clone, Copy, Default)]
struct Bytes {
    allocated: u64,
    inline: u64,
}

/// Checks every map; `owners` are the files' records. Answers a record for each extent in a chunk: the chunk, and which length it needs.
pub(super) fn check(check: &mut Check<'_>, owners: &Sorted) -> FsResult<Sorted> {
    let mut owners = owners.read()?;
    let mut reaps = Rows::new(check.read, keys::reaps());
    let mut rows = Rows::new(check.read, keys::extents());
    let mut references = Sorter::new(check.scratch);
    loop {
        let next = [owners.first_number(), reaps.number()?, rows.number()?];
        let Some(map) = next.into_iter().flatten().min() else {
            return references.finish();
        };
        let mut owner: Option<Owner> = None;
        while let Some(bytes) = owners.next_of(map)? {
            let [_, ino, size, allocated_bytes, inline_bytes] = numbers(&bytes);
            let new = Owner {
                ino: Ino(ino),
                size,
                allocated_bytes,
                inline_bytes,
            };
            if let Some(other) = owner.replace(new) {
                check
                    .report
                    .problem(format!("inode {ino} has the map of another one"));
                expect(check, other, Bytes::default())?;
            }
        }
        let mut is_reaped = false;
        while let Some((key, value)) = reaps.next_of(map)? {
            let parsed = keys::parse_reap(&key).ok_or_else(|| damaged("reap"));
            let parsed = parsed.and_then(|_| reap::decode(value));
            let Some(ino) = check.report.readable(&key, parsed)? else {
                continue;
            };
            is_reaped = true;
            check.report.expect_or_repair(
                owner.is_none(),
                || format!("a map of inode {ino} that is to go belongs to an inode"),
                || Repair::Reap { map },
            );
        }
        let counted = extents(check, &mut rows, map, (owner, is_reaped), &mut references)?;
        check.seen.content_bytes += counted.allocated;
        check.seen.inline_bytes += counted.inline;
        if let Some(owner) = owner {
            expect(check, owner, counted)?;
        }
    }
}

fn extents(
    check: &mut Check<'_>,
    rows: &mut Rows<'_>,
    map: u64,
    (owner, is_reaped): (Option<Owner>, bool),
    references: &mut Sorter,
) -> FsResult<Bytes> {
    let mut counted = Bytes::default();
    let mut free_from = 0;
    while let Some((key, value)) = rows.next_of(map)? {
        let Some(extent) = check.report.readable(&key, extents::decode(&key, value))? else {
            continue;
        };
        check.report.expect(extent.offset >= free_from, || {
            format!("extents of map {map} overlap at {}", extent.offset)
        });
        free_from = extent.end();
        counted.allocated += extent.length;
        match &extent.data {
            ExtentData::Inline(_) => counted.inline += extent.length,
            ExtentData::Chunk { chunk, chunk_offset } => {
                let needed = chunk_offset.saturating_add(extent.length);
                references.push(&[&chunk.to_bytes()[..], &needed.to_be_bytes()].concat())?;
            }
        }
        match owner {
            Some(Owner { ino, size, .. }) => check.report.expect(extent.end() <= size, || {
                format!("inode {ino} has data at {} behind its size {size}", extent.end())
            }),
            None => check.report.expect(is_reaped, || {
                format!("an extent of map {map} belongs to no inode")
            }),
        }
    }
    Ok(counted)
}

/// A file says of its map what was counted.
fn expect(check: &mut Check<'_>, owner: Owner, counted: Bytes) -> FsResult<()> {
    if (owner.allocated_bytes, owner.inline_bytes) == (counted.allocated, counted.inline) {
        return Ok(());
    }
    if let Some(inode) = readable_inode(check.read, owner.ino)? {
        expect_bytes(&mut check.report, &inode, counted.allocated, counted.inline);
    }
    Ok(())
}

/// An inode says that it has these bytes.
pub(super) fn expect_bytes(report: &mut Report, inode: &Inode, allocated: u64, inline: u64) {
    let fields = [
        (
            Field::AllocatedBytes,
            inode.attr.allocated_bytes,
            allocated,
            "allocated",
        ),
        (Field::InlineBytes, inode.inline_bytes, inline, "inline"),
    ];
    for (field, said, counted, what) in fields {
        report.expect_field(inode, field, (said, counted), || {
            format!(
                "inode {} says {said} {what} bytes, its map has {counted}",
                inode.ino()
            )
        });
    }
}

/// What a reference needs of its chunk.
pub(super) fn needed(reference: &[u8]) -> u64 {
    number_of(reference.get(16..).unwrap_or_default())
}
