//! Attributes in the forms that users know: modes, times, owners, tables, JSON.
//!
//! Owns no stream: everything here is text made from values.

use crate::output::insert_bytes;
use crate::path::printable;
use dfs_common::attr::{Attr, FileKind, Timestamp};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Type and permissions as `ls -l` has them: `drwxr-xr-t`.
pub fn mode_text(kind: FileKind, mode: u32) -> String {
    let letter = match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    };
    let mut text = String::from(letter);
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => set.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// What `stat` calls a kind.
pub fn kind_text(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "regular file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// `2026-01-31 23:59` in UTC.
pub fn minute_text(time: Timestamp) -> String {
    let (year, month, day, hour, minute, _) = time.civil();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

/// `2026-01-31 23:59:58.000000001 UTC`.
pub fn time_text(time: Timestamp) -> String {
    let (year, month, day, hour, minute, second) = time.civil();
    let nanos = time.nanos;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{nanos:09} UTC")
}

/// `1.50 MiB`.
pub fn bytes_text(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// `3 d 4 h`, `12 min`, `5 s`.
pub fn uptime_text(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3_600 => format!("{} min", secs / 60),
        3_600..86_400 => format!("{} h {} min", secs / 3_600, secs / 60 % 60),
        _ => format!("{} d {} h", secs / 86_400, secs / 3_600 % 24),
    }
}

/// Rows with aligned columns; the first is the heading. Columns of `right` (a bit each) are aligned to the right.
pub fn table(rows: &[Vec<String>], right: u32) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if right & (1 << column) != 0 {
                line.push_str(&format!("{cell:>width$}  "));
            } else {
                line.push_str(&format!("{cell:<width$}  "));
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// Names of users and groups of this machine, each asked for once.
#[derive(Default)]
pub struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

/// Names remembered of each kind; beyond, numbers are looked up every time.
const OWNERS_MAX: usize = 4096;

impl Owners {
    /// The name of a user; its number if it has none.
    pub fn user(&mut self, uid: u32) -> String {
        named(&mut self.users, uid, |uid| {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
            user.ok().flatten().map(|user| user.name)
        })
    }

    /// The name of a group; its number if it has none.
    pub fn group(&mut self, gid: u32) -> String {
        named(&mut self.groups, gid, |gid| {
            let group = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid));
            group.ok().flatten().map(|group| group.name)
        })
    }
}

fn named(known: &mut HashMap<u32, String>, id: u32, find: impl FnOnce(u32) -> Option<String>) -> String {
    if let Some(name) = known.get(&id) {
        return name.clone();
    }
    let name = find(id).unwrap_or_else(|| id.to_string());
    if known.len() < OWNERS_MAX {
        known.insert(id, name.clone());
    }
    name
}

/// A line of `ls -l`.
pub fn long_line(
    attr: &Attr,
    name: &[u8],
    target: Option<&[u8]>,
    owners: &mut Owners,
    human: bool,
) -> String {
    let size = match attr.kind {
        FileKind::CharDevice | FileKind::BlockDevice => {
            let device = u64::from(attr.rdev);
            format!(
                "{}, {}",
                nix::sys::stat::major(device),
                nix::sys::stat::minor(device)
            )
        }
        _ if human => bytes_text(attr.size),
        _ => attr.size.to_string(),
    };
    let mut line = format!(
        "{} {:>4} {:<8} {:<8} {size:>12} {} {}",
        mode_text(attr.kind, attr.mode),
        attr.nlink,
        owners.user(attr.uid),
        owners.group(attr.gid),
        minute_text(attr.mtime),
        printable(name)
    );
    if let Some(target) = target {
        line.push_str(" -> ");
        line.push_str(&printable(target));
    }
    line
}

/// Attributes as a JSON object; names are added by the caller.
pub fn attr_object(attr: &Attr, target: Option<&[u8]>) -> Map<String, Value> {
    let mut object = match serde_json::to_value(attr) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    object.insert("mode_octal".to_owned(), format!("{:04o}", attr.mode).into());
    if let Some(target) = target {
        insert_bytes(&mut object, "target", target);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_like_those_of_ls() {
        for (kind, mode, text) in [
            (FileKind::File, 0o644, "-rw-r--r--"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::File, 0o4755, "-rwsr-xr-x"),
            (FileKind::File, 0o6644, "-rwSr-Sr--"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
            (FileKind::Fifo, 0o1000, "p--------T"),
        ] {
            assert_eq!(mode_text(kind, mode), text);
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        let text = |secs, nanos| time_text(Timestamp { secs, nanos });
        assert_eq!(text(0, 1), "1970-01-01 00:00:00.000000001 UTC");
        assert_eq!(text(951_782_399, 0), "2000-02-28 23:59:59.000000000 UTC");
        assert_eq!(text(951_868_800, 0), "2000-03-01 00:00:00.000000000 UTC");
        assert_eq!(text(-1, 999_999_999), "1969-12-31 23:59:59.999999999 UTC");
        assert_eq!(text(i64::MAX, 0), "9999-12-31 23:59:59.000000000 UTC");
        assert_eq!(text(i64::MIN, 0), "0000-01-01 00:00:00.000000000 UTC");
    }

    #[test]
    fn tables_are_aligned() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(
            table(&[row("N", "USED"), row("long", "1")], 0b10),
            "N     USED\nlong     1"
        );
    }

    #[test]
    fn uptime_has_two_units_at_most() {
        assert_eq!(uptime_text(59), "59 s");
        assert_eq!(uptime_text(3_599), "59 min");
        assert_eq!(uptime_text(90_000), "1 d 1 h");
    }
}
