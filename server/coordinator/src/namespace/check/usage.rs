//! Proves that each directory's usage is what lies below it, that every inode is counted by one of its names, and that quotas
//! stand where they are asked for.

use super::Report;
use crate::namespace::inode::Inode;
use crate::namespace::repair::Repair;
use crate::namespace::usage::{self, rebuild};
use crate::namespace::{damaged, dentry, keys};
use crate::store::MetaRead;
use crate::stored;
use dfs_common::{ErrorKind, FileKind, FsResult, Ino, Quota};
use std::collections::HashMap;

/// Beside a record that cannot be read nothing is known of what lies where.
///
/// # Errors
/// Those of the store.
pub(super) fn check(read: &dyn MetaRead, report: &mut Report) -> FsResult<()> {
    if report.unreadable > 0 {
        return Ok(());
    }
    let before = report.problem_count;
    match all(read, report) {
        // Usage and quotas themselves: everything else was read before.
        Err(error) if error.kind() == ErrorKind::Corrupt => report.problem(error.message().to_string()),
        checked => checked?,
    }
    if report.problem_count > before {
        report.repair(Repair::Usage);
    }
    Ok(())
}

fn all(read: &dyn MetaRead, report: &mut Report) -> FsResult<()> {
    let marked = rebuild::marked(read)?.is_some();
    report.expect(marked, || {
        "what lies in each directory was not counted to the end".to_string()
    });
    homes(read, report)?;
    sums(read, report)
}

/// Of an inode's names all but one have a link record, and that one stands in the directory that the inode names.
fn homes(read: &dyn MetaRead, report: &mut Report) -> FsResult<()> {
    let mut homes: HashMap<Ino, Vec<Ino>> = HashMap::new();
    let mut further = 0u64;
    stored::for_each(read, keys::dentries(), |key, value| {
        let entry = dentry::decode(value)?;
        let Some((parent, _)) = keys::parse_dentry(&key) else {
            return Ok(());
        };
        if entry.kind == FileKind::Directory {
            return Ok(());
        }
        match read.get(&keys::link(entry.ino, parent, entry.cursor))? {
            Some(_) => further += 1,
            None => homes.entry(entry.ino).or_default().push(parent),
        }
        Ok(())
    })?;
    let mut records = 0u64;
    stored::for_each(read, keys::links(), |_, _| {
        records += 1;
        Ok(())
    })?;
    report.expect(records == further, || {
        format!("there are {records} records of further names, and {further} such names")
    });
    stored::for_each(read, keys::inodes(), |_, value| {
        let inode = Inode::decode(value)?;
        if inode.is_directory() || inode.attr.nlink == 0 {
            return Ok(());
        }
        let homes = homes.remove(&inode.ino()).unwrap_or_default();
        // One without any name is found as such.
        report.expect(homes.is_empty() || homes == [inode.parent], || {
            format!(
                "inode {} is counted in {}, its names say {homes:?}",
                inode.ino(),
                inode.parent
            )
        });
        Ok(())
    })
}

fn sums(read: &dyn MetaRead, report: &mut Report) -> FsResult<()> {
    let mut counted = rebuild::tally(read)?;
    let mut quotas = rebuild::quotas(read)?;
    stored::for_each(read, keys::usages(), |key, value| {
        let directory = keys::parse_usage(&key).ok_or_else(|| damaged("usage"))?;
        let said = usage::decode(value)?;
        let quota = Quota {
            bytes: said.limit_bytes,
            inodes: said.limit_inodes,
        };
        let asked = quotas.remove(&directory).unwrap_or_default();
        report.expect(asked == quota, || {
            format!("directory {directory} has the quota {asked:?} and its usage says {quota:?}")
        });
        let Some(mut there) = counted.remove(&directory) else {
            report.problem(format!("the usage of {directory} is that of no directory"));
            return Ok(());
        };
        (there.limit_bytes, there.limit_inodes) = (said.limit_bytes, said.limit_inodes);
        report.expect(said == there, || {
            format!("the usage of directory {directory} says {said:?}, there is {there:?}")
        });
        Ok(())
    })?;
    for directory in counted.keys() {
        report.problem(format!("directory {directory} has no usage record"));
    }
    for directory in quotas.keys() {
        report.problem(format!(
            "a quota is that of {directory}, which is no directory with a name"
        ));
    }
    Ok(())
}
