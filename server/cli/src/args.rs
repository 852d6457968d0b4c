//! The command line of `dfs`.
//!
//! Owns its syntax and help. Invariant: what gets through is well-formed, so that a later error is never one of usage.

use crate::path::DfsPath;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand};
use dfs_client::profile;
use std::path::PathBuf;
use std::time::Duration;

const AFTER_HELP: &str = "\
Paths in DFS are /a/b or dfs:/a/b. Commands act as the user who runs them.

Which coordinator: --coordinator, else DFS_COORDINATOR, else the one that `dfs connect` remembered.

With --json every result is one JSON object on a line of standard output, and every error one on a line of standard error:
{\"error\":{\"kind\":\"not_found\",\"message\":\"...\",\"path\":\"...\"}}. A name that is not UTF-8 comes with its bytes in
hexadecimal beside it (name_bytes_hex, path_bytes_hex).

Exit codes:
  0    everything was done
  1    some of it failed; standard error says what and why
  2    wrong usage, or no coordinator is known
  3    the cluster cannot be reached, or did not answer within --timeout (start it, or check the address)
  4    the cluster answers, but is not healthy (`dfs status`, `dfs admin fsck`)
  5    problems of the file system are left, or files have lost content (`dfs admin fsck` only)
  130  interrupted (Ctrl-C); 143 ended by SIGTERM. Neither leaves a half copied file under its name
  141  whoever reads standard output stopped reading

DFS_LOG=info (or debug, dfs_client=debug, ...) shows on standard error what happens inside.";

/// Files in a DFS cluster, and the state of the cluster
#[derive(Debug, Parser)]
#[command(name = "dfs", version, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Args {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Coordinator of the cluster
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = address)]
    pub coordinator: Option<String>,
    /// Results and errors as JSON objects, one on a line
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bars and no notes on what is being waited for
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Patience with servers that cannot be reached, in seconds; `status` and `admin` ask once, and say so at once
    #[arg(long, global = true, value_name = "SECS", default_value = "30", value_parser = seconds)]
    pub timeout: Duration,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that a cluster answers, and remember it for later commands and mounts
    Connect(ConnectArgs),
    /// Copy local files into DFS
    Upload(UploadArgs),
    /// Copy files from DFS to this machine
    Download(DownloadArgs),
    /// List directories
    Ls(LsArgs),
    /// Remove files and directories
    Rm(RmArgs),
    /// Make directories
    Mkdir(MkdirArgs),
    /// Show everything about files
    Stat(StatArgs),
    /// Show what lies below directories: bytes, files, directories, and their quotas; at once, however much it is
    Du(DuArgs),
    /// Show nodes, capacity and health of the cluster
    Status,
    /// Administer the cluster
    #[command(subcommand)]
    Admin(AdminCommand),
}

/// Commands for administrators.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// List the datanodes
    Nodes,
    /// Show or choose when changes of names and attributes are durable
    Durability(DurabilityArgs),
    /// Check the whole file system while it is used: names, counts, maps, and whether datanodes have the chunks
    #[command(after_help = FSCK_HELP)]
    Fsck(FsckArgs),
    /// Back the metadata up, and see how a restore goes on
    #[command(subcommand)]
    Metadata(MetadataCommand),
    /// Limit what may lie below directories
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// List advisory locks (flock, fcntl): who holds them, and who waits
    Locks(LocksArgs),
}

/// Arguments of `admin locks`.
#[derive(Debug, ClapArgs)]
pub struct LocksArgs {
    /// The locks of this file only
    #[arg(value_name = "PATH", value_parser = dfs_path())]
    pub path: Option<DfsPath>,
}

/// Commands on the metadata of a running cluster.
#[derive(Debug, Subcommand)]
pub enum MetadataCommand {
    /// Write all metadata of this moment to a file, while the cluster is used
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Write all metadata of this moment as lines of JSON, one per record
    #[command(after_help = DUMP_HELP)]
    Dump(DumpArgs),
    /// Give back the room of deleted and replaced records on the coordinator's disk, while the cluster is used
    Compact,
    /// Show the schema version, and after a restore whether chunks may be deleted again
    Status,
    /// After a restore: let chunks be deleted again, without waiting for datanodes that will not come back
    ReleaseHold,
}

const BACKUP_HELP: &str = "\
The file is there under its name only when it is whole, and replaces one of that name. It has secrets of the cluster, so only its owner may read it.
`dfs-server metadata verify FILE` compares its checksums; `dfs-server metadata restore FILE --data DIR` makes a coordinator's
directory of it. Content of files is not in it (but for small ones): chunks that are deleted after the backup are gone. Let the coordinator keep
them longer than backups are apart: `dfs-server coordinator --keep-freed SECS`.";

const DUMP_HELP: &str = "\
The first line says whose metadata it is, the last one how many records there are. Names and values that are not UTF-8 are {\"hex\": \"...\"}; a record that has no
readable form has value_hex. It has secrets of the cluster. `dfs-server metadata load FILE --data DIR` makes a data directory of a dump.";

/// Arguments of `admin metadata dump`.
#[derive(Debug, ClapArgs)]
pub struct DumpArgs {
    /// Local file; standard output without it
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `admin metadata backup`.
#[derive(Debug, ClapArgs)]
pub struct BackupArgs {
    /// Local file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

const FSCK_HELP: &str = "\
Files with chunks that no datanode has are named by path; so is every other problem, in a sentence. A datanode that does not answer
leaves its chunks unknown; it never makes them lost.

--repair counts anew what is counted, removes names of nothing, gives inodes without a name one in /lost+found (#NUMBER), and leaves
removed files that nobody holds to the reaper. It deletes no content and does not guess: what has more than one answer is left
and named.

Exit codes: 0 nothing is wrong; 4 nothing is wrong, but chunks have too few copies, or a datanode did not answer; 5 problems are
left (without --repair: were found), or files have lost content; 1, 2, 3 as for every command.";

/// Arguments of `admin fsck`.
#[derive(Debug, ClapArgs)]
pub struct FsckArgs {
    /// Repair what can be repaired without guessing
    #[arg(long)]
    pub repair: bool,
    /// Check the metadata only; do not ask the datanodes for each chunk
    #[arg(long)]
    pub no_chunks: bool,
}

/// Commands for quotas.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Limit the bytes, or the files and directories, below a directory, for everybody, root too; writes beyond it fail with EDQUOT.
    /// A limit that is not given is none
    Set(QuotaSetArgs),
    /// List all quotas and what is used of them
    Ls,
    /// Take the quota of directories away
    Clear(QuotaClearArgs),
}

/// Arguments of `admin quota set`.
#[derive(Debug, ClapArgs)]
#[command(group(clap::ArgGroup::new("limits").required(true).multiple(true).args(["bytes", "inodes"])))]
pub struct QuotaSetArgs {
    /// Directory in DFS
    #[arg(value_name = "PATH", value_parser = dfs_path())]
    pub path: DfsPath,
    /// Bytes that may be allocated, as `dfs du` shows them: a number, or one with K, M, G, T or P (powers of 1024)
    #[arg(long, value_name = "N", value_parser = size)]
    pub bytes: Option<u64>,
    /// Files and directories, the directory itself not among them: a number, or one with K, M, G, T or P (powers of 1000)
    #[arg(long, value_name = "N", value_parser = count)]
    pub inodes: Option<u64>,
}

/// Arguments of `admin quota clear`.
#[derive(Debug, ClapArgs)]
pub struct QuotaClearArgs {
    /// Directories in DFS
    #[arg(value_name = "PATH", required = true, value_parser = dfs_path())]
    pub paths: Vec<DfsPath>,
}

/// Arguments of `du`.
#[derive(Debug, ClapArgs)]
#[command(disable_help_flag = true)]
pub struct DuArgs {
    /// Sizes with units
    #[arg(long, short = 'h')]
    pub human_readable: bool,
    /// Paths in DFS [default: /]
    #[arg(value_name = "PATH", value_parser = dfs_path())]
    pub paths: Vec<DfsPath>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Arguments of `admin durability`.
#[derive(Debug, ClapArgs)]
pub struct DurabilityArgs {
    /// `sync`: a change is answered when it is durable. `relaxed`: it is answered when it would survive the end of the coordinator's
    /// process, and survives a power cut of its machine within the delay; fsync waits for that. Without it: show what is set
    #[arg(value_enum)]
    pub mode: Option<DurabilityMode>,
    /// Delay of `relaxed` in milliseconds, 1 to 10000
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub delay: u64,
}

/// When changes are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DurabilityMode {
    /// At once.
    Sync,
    /// Within a delay.
    Relaxed,
}

/// Arguments of `connect`.
#[derive(Debug, ClapArgs)]
pub struct ConnectArgs {
    /// Address of the coordinator
    #[arg(value_name = "HOST:PORT", value_parser = address)]
    pub address: String,
}

/// How to copy, either way.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct CopyArgs {
    /// Copy directories with everything below; symbolic links stay links
    #[arg(long, short, visible_short_alias = 'R')]
    pub recursive: bool,
    /// Keep modes and times, and owners if run by root
    #[arg(long, short)]
    pub preserve: bool,
    /// Leave files alone that exist already (they are replaced otherwise, each at once and whole)
    #[arg(long, short)]
    pub no_clobber: bool,
    /// Say what is copied
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `upload`.
#[derive(Debug, ClapArgs)]
pub struct UploadArgs {
    /// How to copy.
    #[command(flatten)]
    pub copy: CopyArgs,
    /// Local files and directories
    #[arg(value_name = "SRC", required = true)]
    pub sources: Vec<PathBuf>,
    /// Path in DFS: a directory that exists, or the name of the one copy
    #[arg(value_name = "DST", value_parser = dfs_path())]
    pub destination: DfsPath,
}

/// Arguments of `download`.
#[derive(Debug, ClapArgs)]
pub struct DownloadArgs {
    /// How to copy.
    #[command(flatten)]
    pub copy: CopyArgs,
    /// Paths in DFS
    #[arg(value_name = "SRC", required = true, value_parser = dfs_path())]
    pub sources: Vec<DfsPath>,
    /// Local path: a directory that exists, or the name of the one copy
    #[arg(value_name = "DST")]
    pub destination: PathBuf,
}

/// Arguments of `ls`.
#[derive(Debug, ClapArgs)]
#[command(disable_help_flag = true)]
pub struct LsArgs {
    /// Mode, links, owner, group, size, time of the last change (UTC) and target of links too
    #[arg(short)]
    pub long: bool,
    /// Names that begin with a dot too
    #[arg(long, short)]
    pub all: bool,
    /// A directory itself, not what is in it
    #[arg(long, short)]
    pub directory: bool,
    /// Sizes with units
    #[arg(long, short = 'h')]
    pub human_readable: bool,
    /// In the order of the cluster, as it arrives: constant memory for any directory. Without it names are sorted (up to
    /// 100,000 of a directory)
    #[arg(long, short = 'U', visible_alias = "unsorted")]
    pub stream: bool,
    /// Paths in DFS [default: /]
    #[arg(value_name = "PATH", value_parser = dfs_path())]
    pub paths: Vec<DfsPath>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Arguments of `rm`.
#[derive(Debug, ClapArgs)]
pub struct RmArgs {
    /// Directories too, with everything below
    #[arg(long, short, visible_short_alias = 'R')]
    pub recursive: bool,
    /// What does not exist is no error
    #[arg(long, short)]
    pub force: bool,
    /// Say what is removed
    #[arg(long, short)]
    pub verbose: bool,
    /// Paths in DFS
    #[arg(value_name = "PATH", required = true, value_parser = dfs_path())]
    pub paths: Vec<DfsPath>,
}

/// Arguments of `mkdir`.
#[derive(Debug, ClapArgs)]
pub struct MkdirArgs {
    /// Missing parents too; a directory that exists is no error
    #[arg(long, short)]
    pub parents: bool,
    /// Permissions in octal [default: 0777 less the umask]
    #[arg(long, short, value_parser = octal_mode)]
    pub mode: Option<u32>,
    /// Paths in DFS
    #[arg(value_name = "PATH", required = true, value_parser = dfs_path())]
    pub paths: Vec<DfsPath>,
}

/// Arguments of `stat`.
#[derive(Debug, ClapArgs)]
pub struct StatArgs {
    /// What symbolic links point to
    #[arg(long, short = 'L')]
    pub dereference: bool,
    /// Paths in DFS
    #[arg(value_name = "PATH", required = true, value_parser = dfs_path())]
    pub paths: Vec<DfsPath>,
}

fn dfs_path() -> impl TypedValueParser<Value = DfsPath> {
    OsStringValueParser::new().try_map(|text| DfsPath::parse(&text))
}

fn address(text: &str) -> Result<String, String> {
    match profile::check_address(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(error.message().to_owned()),
    }
}

/// Whole or decimal seconds; a day is the longest.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(secs) if (0.001..=86_400.0).contains(&secs) => Ok(Duration::from_secs_f64(secs)),
        _ => Err("seconds are needed, 0.001 to 86400".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    scaled(text, 1024)
}

fn count(text: &str) -> Result<u64, String> {
    scaled(text, 1000)
}

/// A whole number with at most one letter behind it, each a power of `unit`; `iB` or `B` may follow the letter.
fn scaled(text: &str, unit: u64) -> Result<u64, String> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let power = match suffix.trim_end_matches("iB").trim_end_matches('B') {
        "" if suffix.is_empty() || suffix == "B" => Some(0),
        "K" | "k" => Some(1),
        "M" => Some(2),
        "G" => Some(3),
        "T" => Some(4),
        "P" => Some(5),
        _ => None,
    };
    let value = number.parse::<u64>().ok().zip(power);
    value
        .and_then(|(number, power)| number.checked_mul(unit.pow(power)))
        .ok_or_else(|| {
            "a whole number is needed, below 2^64, with K, M, G, T or P behind it or nothing: 10G".to_owned()
        })
}

fn octal_mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && mode <= 0o7777 => Ok(mode),
        _ => Err("an octal mode is needed, 0 to 7777".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn last_argument_of_a_copy_is_the_destination() {
        let Command::Upload(args) = parse("dfs upload -rp a b dfs:/c").unwrap().command else {
            panic!("another command");
        };
        assert_eq!(args.sources, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(args.destination.as_bytes(), b"/c");
        assert!(args.copy.recursive && args.copy.preserve && !args.copy.no_clobber);
        assert!(parse("dfs upload a").is_err());
        assert!(parse("dfs download /a").is_err());
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in ["dfs --json --timeout 2 status", "dfs status --json --timeout 2"] {
            let args = parse(line).unwrap();
            assert!(args.global.json);
            assert_eq!(args.global.timeout, Duration::from_secs(2));
        }
    }

    #[test]
    fn malformed_values_are_refused_with_what_is_needed() {
        for (line, words) in [
            ("dfs ls a", "begins with a slash"),
            ("dfs connect nowhere", "HOST:PORT is needed"),
            ("dfs --coordinator h:x status", "HOST:PORT is needed"),
            ("dfs status --timeout 0", "seconds are needed"),
            ("dfs status --timeout inf", "seconds are needed"),
            ("dfs mkdir -m 888 /a", "octal"),
            ("dfs mkdir -m +7 /a", "octal"),
            ("dfs mkdir -m 17777 /a", "octal"),
            ("dfs rm", "PATH"),
            ("dfs admin quota set /a", "--bytes"),
            ("dfs admin quota set /a --bytes 1.5G", "a whole number is needed"),
            ("dfs admin quota set /a --bytes -1", "unexpected argument"),
            ("dfs admin quota set /a --inodes 99999P", "below 2^64"),
            ("dfs admin quota set /a --bytes G", "a whole number is needed"),
            ("dfs admin quota clear", "PATH"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_and_counts_of_1000() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1K", 1024),
            ("10GiB", 10 << 30),
            ("2TB", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes));
        }
        assert_eq!(count("3M"), Ok(3_000_000));
        assert!(size("1iB").is_err() && size("").is_err() && size("20000P").is_err());
    }

    #[test]
    fn ls_takes_h_for_sizes() {
        let Command::Ls(args) = parse("dfs ls -lah /").unwrap().command else {
            panic!("another command");
        };
        assert!(args.human_readable && args.long && args.all);
    }
}
