//! Repairs of usage as byte strings, which a check keeps in a file: there may be one for each directory.
//!
//! They sort in the order in which they are made. The file goes with the process, so this is no format that anybody else reads.

use super::{Repair, Stamp};
use crate::namespace::check::Stage;
use crate::namespace::damaged;
use crate::namespace::usage::Delta;
use dfs_common::{FsResult, Ino, Timestamp};

/// First byte: what comes first, and which repair it is.
const RECORD: u8 = 1;
const HOME: u8 = 2;
const FURTHER_NAME: u8 = 3;
const HELD: u8 = 4;
const RISES: u8 = 5;
const FALLS: u8 = 6;

impl Repair {
    /// When it is made.
    pub fn stage(&self) -> Stage {
        match self {
            Repair::UsageRecord { .. }
            | Repair::Home { .. }
            | Repair::FurtherName { .. }
            | Repair::Held { .. } => Stage::Homes,
            Repair::Usage { .. } => Stage::Sums,
            _ => Stage::Records,
        }
    }

    /// As a byte string; `None` of those that are no repairs of usage.
    pub(in crate::namespace) fn encode(&self) -> Option<Vec<u8>> {
        Some(match self {
            Repair::UsageRecord { directory } => encode(RECORD, &[directory.0]),
            Repair::Home { ino, stamp, parent } => {
                let numbers = [&[ino.0, parent.0][..], &stamp_numbers(stamp)].concat();
                encode(HOME, &numbers)
            }
            Repair::FurtherName {
                ino,
                stamp,
                parent,
                cursor,
                there,
            } => {
                let mut numbers = vec![ino.0, parent.0, *cursor, u64::from(*there)];
                numbers.extend(stamp.iter().flat_map(stamp_numbers));
                encode(FURTHER_NAME, &numbers)
            }
            Repair::Held { ino } => encode(HELD, &[ino.0]),
            Repair::Usage {
                directory,
                difference,
            } => {
                let rank = match *difference == difference.rising() {
                    true => RISES,
                    false => FALLS,
                };
                let Delta {
                    bytes,
                    files,
                    directories,
                    links,
                    held_bytes,
                    held_inodes,
                } = *difference;
                let counts =
                    [bytes, files, directories, links, held_bytes, held_inodes].map(|count| count as u64);
                encode(rank, &[&[directory.0][..], &counts].concat())
            }
            _ => return None,
        })
    }

    /// The inverse of [`Repair::encode`].
    ///
    /// # Errors
    /// `Corrupt`.
    pub(in crate::namespace) fn decode(record: &[u8]) -> FsResult<Repair> {
        let malformed = || damaged("sorted repair");
        let (kind, rest) = record.split_first().ok_or_else(malformed)?;
        let (numbers, []) = rest.as_chunks::<8>() else {
            return Err(malformed());
        };
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        Ok(match (*kind, &numbers[..]) {
            (RECORD, [directory]) => Repair::UsageRecord {
                directory: Ino(*directory),
            },
            (HOME, [ino, parent, stamp @ ..]) => Repair::Home {
                ino: Ino(*ino),
                parent: Ino(*parent),
                stamp: stamp_of(stamp).ok_or_else(malformed)?,
            },
            (FURTHER_NAME, [ino, parent, cursor, there, stamp @ ..]) => Repair::FurtherName {
                ino: Ino(*ino),
                parent: Ino(*parent),
                cursor: *cursor,
                there: *there != 0,
                stamp: stamp_of(stamp),
            },
            (HELD, [ino]) => Repair::Held { ino: Ino(*ino) },
            (
                RISES | FALLS,
                [
                    directory,
                    bytes,
                    files,
                    directories,
                    links,
                    held_bytes,
                    held_inodes,
                ],
            ) => Repair::Usage {
                directory: Ino(*directory),
                difference: Delta {
                    bytes: *bytes as i64,
                    files: *files as i64,
                    directories: *directories as i64,
                    links: *links as i64,
                    held_bytes: *held_bytes as i64,
                    held_inodes: *held_inodes as i64,
                },
            },
            _ => return Err(malformed()),
        })
    }
}

fn encode(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut record = vec![kind];
    record.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    record
}

fn stamp_numbers(stamp: &Stamp) -> [u64; 6] {
    let Stamp {
        ctime,
        mtime,
        map_version,
        map,
    } = stamp;
    [
        ctime.secs as u64,
        u64::from(ctime.nanos),
        mtime.secs as u64,
        u64::from(mtime.nanos),
        *map_version,
        *map,
    ]
}

fn stamp_of(numbers: &[u64]) -> Option<Stamp> {
    let [ctime_secs, ctime_nanos, mtime_secs, mtime_nanos, map_version, map] = *numbers else {
        return None;
    };
    let time = |secs: u64, nanos: u64| {
        Some(Timestamp {
            secs: secs as i64,
            nanos: u32::try_from(nanos).ok()?,
        })
    };
    Some(Stamp {
        ctime: time(ctime_secs, ctime_nanos)?,
        mtime: time(mtime_secs, mtime_nanos)?,
        map_version,
        map,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded_and_rising_sums_come_first() {
        let stamp = Stamp {
            ctime: Timestamp { secs: -3, nanos: 5 },
            mtime: Timestamp { secs: 7, nanos: 9 },
            map_version: 11,
            map: 13,
        };
        let (ino, parent, directory) = (Ino(1), Ino(2), Ino(3));
        let further = |stamp, there| Repair::FurtherName {
            ino,
            stamp,
            parent,
            cursor: 4,
            there,
        };
        let usage = |bytes, links| Repair::Usage {
            directory,
            difference: Delta {
                bytes,
                links,
                held_inodes: links,
                ..Delta::default()
            },
        };
        let repairs = [
            Repair::UsageRecord { directory },
            Repair::Home { ino, stamp, parent },
            further(None, false),
            further(Some(stamp), true),
            Repair::Held { ino },
            usage(5, 1),
            usage(-7, 0),
        ];
        let records = repairs.each_ref().map(|repair| repair.encode().unwrap());
        assert!(records.is_sorted());
        assert_eq!(
            records.each_ref().map(|record| Repair::decode(record).unwrap()),
            repairs
        );
        let kinds: Vec<u8> = records.iter().map(|record| record[0]).collect();
        assert_eq!(
            kinds,
            [RECORD, HOME, FURTHER_NAME, FURTHER_NAME, HELD, RISES, FALLS]
        );
        for malformed in [&b""[..], b"\x01", b"\x09\0\0\0\0\0\0\0\0", b"\x01\0"] {
            assert!(Repair::decode(malformed).is_err());
        }
    }
}
