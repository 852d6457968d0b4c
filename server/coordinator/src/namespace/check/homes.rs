//! Of an inode's names all but one have a record of a further name, and that one stands in the directory that the inode names: by it
//! the inode is counted ([`crate::namespace::names`]).

use super::Check;
use super::rows::Rows;
use super::usage::Trees;
use crate::namespace::inode::Inode;
use crate::namespace::names::Place;
use crate::namespace::repair::{Repair, Stamp};
use crate::namespace::usage::Delta;
use crate::namespace::{damaged, dentry, keys};
use dfs_common::{FsResult, Ino};

/// Names without a record that are remembered of one inode: there should be one. What is left is found by the next check.
const UNRECORDED_MAX: usize = 4096;

/// The names of one inode, and their records.
pub(super) struct Homes<'a> {
    inode: &'a Inode,
    names: u64,
    unrecorded: Vec<Place>,
    /// The first name with a record; one in the directory that the inode names is preferred.
    recorded: Option<Place>,
}

impl<'a> Homes<'a> {
    pub(super) fn of(inode: &'a Inode) -> Self {
        Homes {
            inode,
            names: 0,
            unrecorded: Vec::new(),
            recorded: None,
        }
    }

    /// Directories have one name and no records, and what lost its last name has none.
    fn has_records(&self) -> bool {
        !self.inode.is_directory() && self.inode.attr.nlink > 0
    }

    /// The next name, in the order of directories and cursors.
    pub(super) fn name(
        &mut self,
        check: &mut Check<'_>,
        records: &mut Rows<'_>,
        place: Place,
        trees: &mut Trees<'_>,
    ) -> FsResult<()> {
        if !self.has_records() {
            return Ok(());
        }
        self.names += 1;
        let key = keys::link(self.inode.ino(), place.0, place.1);
        while records.peek()?.is_some_and(|next| *next < key) {
            stray(check, records, Some(self.inode), trees)?;
        }
        if records.peek()?.is_some_and(|next| *next == key) {
            records.next()?;
            trees.add(place.0, Delta::links(1))?;
            let is_home = |place: Place| place.0 == self.inode.parent;
            if self
                .recorded
                .is_none_or(|first| is_home(place) && !is_home(first))
            {
                self.recorded = Some(place);
            }
        } else if self.unrecorded.len() < UNRECORDED_MAX {
            self.unrecorded.push(place);
        }
        Ok(())
    }

    /// There are no more names.
    pub(super) fn end(
        self,
        check: &mut Check<'_>,
        records: &mut Rows<'_>,
        trees: &mut Trees<'_>,
    ) -> FsResult<()> {
        let (inode, ino) = (self.inode, self.inode.ino());
        strays(check, records, ino.0, Some(inode), trees)?;
        if self.names == 0 || self.unrecorded.iter().map(|place| place.0).eq([inode.parent]) {
            return Ok(());
        }
        let stamp = Stamp::of(inode);
        let further = |(parent, cursor): Place, there| Repair::FurtherName {
            ino,
            stamp: Some(stamp),
            parent,
            cursor,
            there,
        };
        let homes: Vec<Ino> = self.unrecorded.iter().map(|place| place.0).collect();
        check.counts.problem(format!(
            "inode {ino} is counted in {}, its names say {homes:?}",
            inode.parent
        ));
        let kept = self.unrecorded.iter().position(|place| place.0 == inode.parent);
        let home = match self.unrecorded.get(kept.unwrap_or(0)) {
            Some(home) => Some(*home),
            None => self.recorded,
        };
        let Some(home) = home else { return Ok(()) };
        for place in self.unrecorded.iter().filter(|place| **place != home) {
            check.correct(&further(*place, true))?;
        }
        if self.unrecorded.is_empty() {
            check.correct(&further(home, false))?;
        }
        if home.0 != inode.parent {
            let parent = home.0;
            check.correct(&Repair::Home { ino, stamp, parent })?;
        }
        Ok(())
    }
}

/// All records of further names of the inode with this number that are left.
pub(super) fn strays(
    check: &mut Check<'_>,
    records: &mut Rows<'_>,
    number: u64,
    inode: Option<&Inode>,
    trees: &mut Trees<'_>,
) -> FsResult<()> {
    while records.number()? == Some(number) {
        stray(check, records, inode, trees)?;
    }
    Ok(())
}

/// A record of a further name that there is not.
fn stray(
    check: &mut Check<'_>,
    records: &mut Rows<'_>,
    inode: Option<&Inode>,
    trees: &mut Trees<'_>,
) -> FsResult<()> {
    let Some((key, _)) = records.next()? else {
        return Ok(());
    };
    let parsed = keys::parse_link(&key).ok_or_else(|| damaged("link"));
    let Some((ino, parent, cursor)) = check.report.readable(&key, parsed)? else {
        return Ok(());
    };
    trees.add(parent, Delta::links(1))?;
    let listed = check.read.get(&keys::cursor(parent, cursor))?;
    let listed = listed.and_then(|value| dentry::decode_cursor(value).ok());
    if let (Some((name, listed, _)), Some(_)) = (listed, inode)
        && listed == ino
        && check.read.get(&keys::dentry(parent, &name))?.is_none()
    {
        // Its name is listed, and may come back: that is looked at first.
        return Ok(());
    }
    check.counts.problem(format!(
        "there is a record of a further name of inode {ino} in {parent}, and no such name"
    ));
    check.correct(&Repair::FurtherName {
        ino,
        stamp: inode.map(Stamp::of),
        parent,
        cursor,
        there: false,
    })
}
