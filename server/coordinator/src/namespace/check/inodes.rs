//! Goes once through the inodes, and beside them through everything that stands under an inode's number: names, orphans, extended
//! attributes, usage. Hands on what is counted elsewhere: content ([`super::maps`]) and trees ([`super::usage`]).

use super::homes;
use super::names::{ChildName, Names, is_missed, report_listed};
use super::rows::{Numbered, Rows, numbers, record};
use super::usage::Trees;
use super::{Check, Report};
use crate::namespace::inode::Inode;
use crate::namespace::repair::{EntryFault, Field, Repair, Stamp};
use crate::namespace::{keys, orphans};
use crate::sort::{Sorted, SortedReader, Sorter};
use bytes::Bytes;
use dfs_common::{FileKind, FsResult, Ino};

/// What the names say of an inode.
#[derive(Default)]
struct Named {
    links: u64,
    /// Names that are listed only, and will stand there again.
    missed: u64,
    entries: u64,
    subdirectories: u64,
    parent: Option<Ino>,
}

/// Everything under an inode's number, side by side.
struct Beside<'a> {
    children: SortedReader<'a>,
    counts: SortedReader<'a>,
    missed: SortedReader<'a>,
    /// Inode, key of the mark: of inodes that a rename replaced.
    marks: SortedReader<'a>,
    orphans: Rows<'a>,
    xattrs: Rows<'a>,
    links: Rows<'a>,
    trees: Trees<'a>,
}

/// What is counted elsewhere.
pub(super) struct Handed {
    /// Map, inode, size, allocated bytes, inline bytes: of each file.
    pub(super) maps: Sorted,
    /// What stands directly in each directory.
    pub(super) sums: Sorted,
}

/// Checks every inode.
pub(super) fn check(check: &mut Check<'_>, names: &Names) -> FsResult<Handed> {
    let marks = marks(check)?;
    let read = check.read;
    let mut beside = Beside {
        children: names.children.read()?,
        counts: names.counts.read()?,
        missed: names.missed.read()?,
        marks: marks.read()?,
        orphans: Rows::new(read, keys::orphans()),
        xattrs: Rows::new(read, keys::xattrs()),
        links: Rows::new(read, keys::links()),
        trees: Trees::new(check),
    };
    let mut maps = Sorter::new(check.scratch);
    let mut inodes = Rows::new(read, keys::inodes());
    while let Some(number) = inodes.number()? {
        beside.strays(check, Some(number))?;
        while let Some((key, value)) = inodes.next_of(number)? {
            let Some(inode) = check.report.readable(&key, Inode::decode(value))? else {
                continue;
            };
            check.seen.inodes += 1;
            let ino = inode.ino();
            let in_place = keys::parse_inode(&key) == Some(ino);
            check.report.expect(in_place, || {
                format!("the record of inode {ino} stands under another number")
            });
            if in_place {
                numbers_of(check, &inode);
                beside.inode(check, &inode, &mut maps)?;
            }
        }
    }
    beside.strays(check, None)?;
    check.report.inodes = check.seen.inodes;
    Ok(Handed {
        maps: maps.finish()?,
        sums: beside.trees.finish()?,
    })
}

/// Marks of replaced inodes, by inode; they stand in the order of time.
fn marks(check: &mut Check<'_>) -> FsResult<Sorted> {
    let mut marks = Sorter::new(check.scratch);
    let read = check.read;
    crate::stored::for_each(read, keys::replaced_inodes(), |key, _| {
        let Some((_, ino)) = keys::parse_replaced(&key) else {
            check.report.expect_or_repair(
                false,
                || "the mark of a replaced inode is malformed".to_string(),
                || Repair::Mark { key, stray: false },
            );
            return Ok(());
        };
        marks.push(&[&record([ino.0])[..], &key].concat())
    })?;
    marks.finish()
}

fn numbers_of(check: &mut Check<'_>, inode: &Inode) {
    let (ino, given) = (inode.ino(), check.numbers_given);
    let highest = ino.0.max(inode.map);
    check.numbers_below = check.numbers_below.max(highest.saturating_add(1));
    check.report.expect(highest < given, || {
        format!("inode {ino} has a number that was not given yet")
    });
}

impl Beside<'_> {
    /// What stands under numbers below `number` (`None`: under all that are left), which are no inodes'.
    fn strays(&mut self, check: &mut Check<'_>, number: Option<u64>) -> FsResult<()> {
        let is_below = |next: Option<u64>| next.filter(|next| number.is_none_or(|number| *next < number));
        while let Some(next) = is_below(self.children.first_number()) {
            while let Some(bytes) = self.children.next_of(next)? {
                report_nameless_child(check, &ChildName::decode(&bytes)?);
            }
        }
        // Of what they stand in it is known already that it is none.
        while is_below(self.counts.first_number()).is_some() {
            self.counts.next_record()?;
        }
        while is_below(self.missed.first_number()).is_some() {
            self.missed.next_record()?;
        }
        while let Some(next) = is_below(
            self.marks
                .first_number()
                .into_iter()
                .chain(self.orphans.number()?)
                .min(),
        ) {
            self.orphan(check, next, None)?;
        }
        while is_below(self.xattrs.number()?).is_some() {
            self.xattrs.next()?;
            check
                .report
                .problem("an extended attribute has no inode".to_string());
        }
        while let Some(next) = is_below(self.links.number()?) {
            homes::strays(check, &mut self.links, next, None, &mut self.trees)?;
        }
        self.trees.strays(check, number)
    }

    fn inode(&mut self, check: &mut Check<'_>, inode: &Inode, maps: &mut Sorter) -> FsResult<()> {
        let number = inode.ino().0;
        let (is_orphan, is_held) = self.orphan(check, number, Some(inode))?;
        let mut named = self.names(check, inode)?;
        while let Some(bytes) = self.counts.next_of(number)? {
            let [_, entries, subdirectories] = numbers(&bytes);
            (named.entries, named.subdirectories) = (entries, subdirectories);
        }
        while let Some(bytes) = self.missed.next_of(number)? {
            let [_, subdirectory] = numbers(&bytes);
            named.entries += 1;
            named.subdirectories += subdirectory;
        }
        check_links(&mut check.report, inode, &named, is_orphan);
        self.xattrs(check, inode)?;
        self.trees.inode(check, inode, is_held)?;
        let attr = &inode.attr;
        match attr.kind {
            FileKind::File => maps.push(&record([
                inode.map(),
                number,
                attr.size,
                attr.allocated_bytes,
                inode.inline_bytes,
            ])),
            _ => {
                super::maps::expect_bytes(&mut check.report, inode, 0, 0);
                Ok(())
            }
        }
    }

    /// An inode without a name, and its marks: those that the namespace keeps have one each, under the time from which it does.
    /// Whether there is a record of it, and whether a session holds it.
    fn orphan(
        &mut self,
        check: &mut Check<'_>,
        number: u64,
        inode: Option<&Inode>,
    ) -> FsResult<(bool, bool)> {
        let report = &mut check.report;
        let mut mark: Option<Bytes> = None;
        while let Some(bytes) = self.marks.next_of(number)? {
            let key = Bytes::copy_from_slice(&bytes[8..]);
            if mark.is_none() {
                mark = Some(key);
                continue;
            }
            report.expect_or_repair(
                false,
                || format!("the mark of replaced inode {number} is not the only one"),
                || Repair::Mark { key, stray: false },
            );
        }
        let (mut is_orphan, mut is_held) = (false, false);
        while let Some((key, value)) = self.orphans.next_of(number)? {
            let Some((ino, holders)) = report.readable(&key, orphans::parse_orphan(&key, value))? else {
                continue;
            };
            is_orphan = true;
            is_held = orphans::is_counted(&holders);
            let mark = mark.take();
            if inode.is_none() {
                report.expect_or_repair(
                    false,
                    || format!("orphan {ino} has no inode"),
                    || Repair::NotOrphan { ino, stamp: None },
                );
                continue;
            }
            let kept = holders.contains(&orphans::NAMESPACE);
            report.expect_or_repair(
                !holders.is_empty() && (!kept || mark.is_some()),
                || format!("orphan {ino} has no holder, or is kept and has no mark"),
                || Repair::Unmarked { ino },
            );
            if let Some(key) = mark.filter(|_| !kept && !holders.is_empty()) {
                report.expect_or_repair(
                    false,
                    || format!("orphan {ino} is not kept and has a mark"),
                    || Repair::Mark { key, stray: true },
                );
            }
        }
        if let Some(key) = mark {
            report.expect_or_repair(
                false,
                || format!("inode {number} is marked as replaced and is no orphan"),
                || Repair::Mark { key, stray: true },
            );
        }
        Ok((is_orphan, is_held))
    }

    fn names(&mut self, check: &mut Check<'_>, inode: &Inode) -> FsResult<Named> {
        let (ino, kind) = (inode.ino(), inode.attr.kind);
        let mut named = Named::default();
        let mut homes = homes::Homes::of(inode);
        while let Some(bytes) = self.children.next_of(ino.0)? {
            let child = ChildName::decode(&bytes)?;
            let (parent, name, entry) = (child.parent, &child.name, child.entry);
            if child.listed_only {
                let missed = is_missed(check.read, inode, named.links, parent)?;
                named.missed += u64::from(missed);
                report_listed(check, parent, name, entry, missed);
                continue;
            }
            named.links += 1;
            named.parent = Some(parent);
            check.report.expect_or_repair(
                kind == entry.kind,
                || {
                    format!(
                        "entry {name} of inode {parent} says {:?}, its inode {kind:?}",
                        entry.kind
                    )
                },
                || Repair::Entry {
                    parent,
                    name: name.clone(),
                    entry,
                    fault: EntryFault::Kind(kind),
                },
            );
            homes.name(check, &mut self.links, (parent, entry.cursor), &mut self.trees)?;
        }
        homes.end(check, &mut self.links, &mut self.trees)?;
        Ok(named)
    }

    fn xattrs(&mut self, check: &mut Check<'_>, inode: &Inode) -> FsResult<()> {
        let (mut list_bytes, mut value_bytes) = (0, 0);
        while let Some((key, value)) = self.xattrs.next_of(inode.ino().0)? {
            match keys::parse_xattr(&key) {
                Some((_, name)) => {
                    list_bytes += name.len() as u64 + 1;
                    value_bytes += value.len() as u64;
                }
                None => check
                    .report
                    .problem("an extended attribute has no inode".to_string()),
            }
        }
        for (field, said, counted) in [
            (Field::XattrListBytes, inode.xattr_list_bytes, list_bytes),
            (Field::XattrValueBytes, inode.xattr_value_bytes, value_bytes),
        ] {
            check.report.expect_field(inode, field, (said, counted), || {
                format!(
                    "the extended attributes of inode {} have another size than it says",
                    inode.ino()
                )
            });
        }
        Ok(())
    }
}

/// A name of an inode that does not exist.
fn report_nameless_child(check: &mut Check<'_>, child: &ChildName) {
    let (parent, name, entry) = (child.parent, &child.name, child.entry);
    if child.listed_only {
        return report_listed(check, parent, name, entry, false);
    }
    check.report.expect_or_repair(
        false,
        || {
            format!(
                "entry {name} of inode {parent} names inode {}, which does not exist",
                entry.ino
            )
        },
        || Repair::Entry {
            parent,
            name: name.clone(),
            entry,
            fault: EntryFault::Dangling,
        },
    );
}

/// Links, sizes and parents are what the names say.
fn check_links(report: &mut Report, inode: &Inode, named: &Named, is_orphan: bool) {
    let (ino, attr, stamp) = (inode.ino(), &inode.attr, Stamp::of(inode));
    if attr.kind == FileKind::Symlink {
        report.expect_field(inode, Field::Size, (attr.size, inode.target.len() as u64), || {
            format!("symbolic link {ino} has a wrong size")
        });
    }
    if inode.is_directory() {
        report.expect_field(inode, Field::Size, (attr.size, named.entries), || {
            format!(
                "directory {ino} has {} entries and says {}",
                named.entries, attr.size
            )
        });
    }
    let is_named = ino == Ino::ROOT || named.links > 0;
    if !is_named && named.missed > 0 {
        // Its name comes back from the listing, with the links that it says.
        return;
    }
    if !is_named && (attr.nlink > 0 || named.entries > 0) {
        return report.expect_or_repair(
            false,
            || {
                format!(
                    "inode {ino} has no name, {} links and orphan is {is_orphan}",
                    attr.nlink
                )
            },
            || Repair::Nameless { ino, stamp },
        );
    }
    if !is_named {
        return report.expect_or_repair(
            is_orphan,
            || format!("inode {ino} has neither name nor holder"),
            || Repair::Unheld { ino },
        );
    }
    report.expect_or_repair(
        !is_orphan,
        || format!("inode {ino} has {} names and is an orphan", named.links),
        || Repair::NotOrphan {
            ino,
            stamp: Some(stamp),
        },
    );
    match inode.is_directory() {
        true => check_directory(report, inode, named),
        false => {
            let names = named.links + named.missed;
            report.expect_field(inode, Field::Links, (u64::from(attr.nlink), names), || {
                format!("inode {ino} has {names} names and says {}", attr.nlink)
            });
        }
    }
}

fn check_directory(report: &mut Report, inode: &Inode, named: &Named) {
    let links = (u64::from(inode.attr.nlink), 2 + named.subdirectories);
    report.expect_field(inode, Field::Links, links, || {
        format!(
            "directory {} has {} subdirectories and {} links",
            inode.ino(),
            named.subdirectories,
            inode.attr.nlink
        )
    });
    match (inode.ino(), named.links) {
        (Ino::ROOT, 0) => report.expect_field(inode, Field::Parent, (inode.parent.0, 1), || {
            "the root directory has a wrong parent".to_string()
        }),
        (ino, 1) if ino != Ino::ROOT => {
            let parent = named.parent.unwrap_or_default();
            report.expect_field(inode, Field::Parent, (inode.parent.0, parent.0), || {
                format!("directory {ino} has a wrong parent")
            });
        }
        (ino, names) => report.problem(format!("directory {ino} has {names} names")),
    }
}
