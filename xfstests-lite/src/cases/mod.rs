//! All cases.

mod attr;
mod content;
mod names;

use crate::case::Case;

/// Every case, by group.
pub const ALL: &[Case] = &[
    Case {
        name: "create_exclusive",
        group: "names",
        behaviour: "O_EXCL fails for a name that exists, a dangling link included",
        source: "open(2)",
        run: names::create_exclusive,
    },
    Case {
        name: "name_of_255_bytes",
        group: "names",
        behaviour: "names have up to 255 bytes of any value but slash and NUL",
        source: "path_resolution(7)",
        run: names::name_of_255_bytes,
    },
    Case {
        name: "rename_replaces",
        group: "names",
        behaviour: "rename replaces a file, and an empty directory by a directory, and nothing else",
        source: "rename(2)",
        run: names::rename_replaces,
    },
    Case {
        name: "rename_below_itself",
        group: "names",
        behaviour: "a directory cannot become its own descendant",
        source: "rename(2), EINVAL",
        run: names::rename_below_itself,
    },
    Case {
        name: "rmdir_not_empty",
        group: "names",
        behaviour: "a directory with entries stays",
        source: "rmdir(2), ENOTEMPTY",
        run: names::rmdir_not_empty,
    },
    Case {
        name: "link_counts",
        group: "names",
        behaviour: "hard links count, subdirectories count for their parent",
        source: "inode(7)",
        run: names::link_counts,
    },
    Case {
        name: "listing_is_complete",
        group: "names",
        behaviour: "a directory of 2,000 entries lists each exactly once",
        source: "readdir(3)",
        run: names::listing_is_complete,
    },
    Case {
        name: "unlinked_file_stays_readable",
        group: "content",
        behaviour: "an open file without a name can be read and written",
        source: "unlink(2)",
        run: content::unlinked_file_stays_readable,
    },
    Case {
        name: "append_goes_to_the_end",
        group: "content",
        behaviour: "O_APPEND writes at the end, wherever the offset is",
        source: "open(2)",
        run: content::append_goes_to_the_end,
    },
    Case {
        name: "holes_read_as_zeros",
        group: "content",
        behaviour: "bytes never written read as zeros, also after truncation and growth",
        source: "truncate(2)",
        run: content::holes_read_as_zeros,
    },
    Case {
        name: "two_descriptors_agree",
        group: "content",
        behaviour: "a write through one descriptor is read through another at once",
        source: "POSIX write()",
        run: content::two_descriptors_agree,
    },
    Case {
        name: "truncate_on_open",
        group: "content",
        behaviour: "O_TRUNC empties a file that is open elsewhere too",
        source: "open(2)",
        run: content::truncate_on_open,
    },
    Case {
        name: "mode_bits_survive",
        group: "attr",
        behaviour: "chmod keeps all twelve bits",
        source: "chmod(2)",
        run: attr::mode_bits_survive,
    },
    Case {
        name: "times_have_nanoseconds",
        group: "attr",
        behaviour: "utimensat sets both times to the nanosecond, before 1970 too",
        source: "utimensat(2)",
        run: attr::times_have_nanoseconds,
    },
    Case {
        name: "change_moves_times",
        group: "attr",
        behaviour: "a write moves mtime and ctime, chmod moves ctime alone",
        source: "inode(7)",
        run: attr::change_moves_times,
    },
    Case {
        name: "fifo_is_a_fifo",
        group: "attr",
        behaviour: "mknod makes a named pipe that carries bytes",
        source: "mknod(2)",
        run: attr::fifo_is_a_fifo,
    },
];
