//! The command line of `dfs-server` and its translation into the settings of each role.
//!
//! Invariant: what [`Role::checked`] lets through is within every limit, so that a later error is never one of usage.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use dfs_common::{ErrorKind, FsError, FsResult};
use dfs_coordinator::{CoordinatorConfig, LocalSockets, StoreKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Servers of a DFS cluster.
#[derive(Debug, Parser)]
#[command(
    name = "dfs-server",
    version,
    after_help = "When ready, a server prints one line, `listening on HOST:PORT`, on standard output. Logs go to standard \
error; DFS_LOG sets their level (info by default, dfs_coordinator=debug, ...). SIGTERM and SIGINT stop a server in good \
order; a second one stops it at once, which loses nothing that was acknowledged.\n\n\
Exit codes: 0 stopped in good order (`metadata`: done), 1 failed, 2 wrong usage."
)]
pub struct Args {
    /// What to be.
    #[command(subcommand)]
    pub role: Role,
}

/// A role and its settings.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Keep names, inodes, the map from files to chunks and the membership of one cluster
    Coordinator(CoordinatorArgs),
    /// Keep replicated chunks
    Datanode(DatanodeArgs),
    /// A coordinator and three datanodes in one process, for one machine
    Standalone(StandaloneArgs),
    /// Work on the metadata of a stopped coordinator, and on backups of it
    #[command(subcommand)]
    Metadata(MetadataCommand),
}

/// Commands on the metadata of a stopped coordinator.
#[derive(Debug, Subcommand)]
pub enum MetadataCommand {
    /// Write a backup of a stopped coordinator (of a running one: `dfs admin metadata backup`)
    Backup(OfflineArgs),
    /// Compare every checksum of a backup
    Verify(VerifyArgs),
    /// Make the data directory of a coordinator from a backup: the same cluster as it was then, in a new incarnation
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Write all metadata of a stopped coordinator as lines of JSON (of a running one: `dfs admin metadata dump`)
    Dump(DumpArgs),
    /// Make the data directory of a coordinator from a dump, exactly
    #[command(after_help = LOAD_HELP)]
    Load(RestoreArgs),
    /// Give back the room of deleted and replaced records (of a running one: `dfs admin metadata compact`)
    Compact(DirectoryArgs),
    /// Bring the metadata of an earlier release to this one's schema; says so if there is nothing to do. Back the directory up first
    Migrate(DirectoryArgs),
}

/// A data directory.
#[derive(Debug, ClapArgs)]
pub struct DirectoryArgs {
    /// Data directory of the stopped coordinator
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

const RESTORE_HELP: &str = "\
Start the coordinator on DIR afterwards. Sessions from before are gone: mounts open new ones; files that they have open answer ESTALE or EIO. Chunks that \
datanodes have and the backup does not know are kept. No chunk is deleted before every datanode has told what it has (`dfs admin metadata status`). \
Files of the backup whose chunks were deleted since are named by `dfs admin fsck`.";

const LOAD_HELP: &str = "\
Sessions and numbers are those of the dump: for another store, or after an edit of lines, of a coordinator that was stopped and not started since. To go back to \
an earlier moment of a cluster that went on, make a backup of the directory (`dfs-server metadata backup`) and restore that.";

/// Arguments of `metadata dump`.
#[derive(Debug, ClapArgs)]
pub struct DumpArgs {
    /// The dump; standard output without it
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Data directory of the stopped coordinator
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// A backup and a data directory.
#[derive(Debug, ClapArgs)]
pub struct OfflineArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Data directory of the stopped coordinator
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// Arguments of `metadata verify`.
#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Arguments of `metadata restore` and `metadata load`.
#[derive(Debug, ClapArgs)]
pub struct RestoreArgs {
    /// The backup, or the dump
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Data directory to make: new or empty
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Metadata store of the new directory
    #[arg(long, value_enum, default_value_t)]
    pub store: Store,
}

/// Settings of `coordinator`.
#[derive(Debug, ClapArgs)]
pub struct CoordinatorArgs {
    /// Data directory; made if missing
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address of all its services; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Unix sockets towards programs on this machine, beside TCP: on or off
    #[arg(long, value_name = "ON|OFF", default_value_t, value_parser = parse_local_sockets)]
    pub local_sockets: LocalSockets,
    /// Metadata store of a new data directory; an existing one must be named as it is
    #[arg(long, value_enum, default_value_t)]
    pub store: Store,
    /// Replicas that a new chunk shall have
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub replication: u32,
    /// Fewest replicas with which a write is acknowledged [default: replication - 1, at least 1]
    #[arg(long, value_name = "N")]
    pub replication_floor: Option<u32>,
    /// Size at which writers cut chunks: bytes, or with K, M or G [default: 8M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub chunk_size: Option<u64>,
    /// Cache of the metadata store: bytes, or with K, M or G [default: 32M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub cache_size: Option<u64>,
    /// How long chunks of removed and overwritten content are kept. The files of a backup read back whole if it is not older than this
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    pub keep_freed: u64,
}

/// Settings of `datanode`.
#[derive(Debug, ClapArgs)]
pub struct DatanodeArgs {
    /// Data directory; made if missing
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The coordinator
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_host_port)]
    pub coordinator: String,
    /// Address of the chunk service; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Address that clients and other datanodes use, if it is not the one listened on
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_host_port)]
    pub advertise: Option<String>,
    /// Unix sockets towards programs on this machine, beside TCP: on or off
    #[arg(long, value_name = "ON|OFF", default_value_t, value_parser = parse_local_sockets)]
    pub local_sockets: LocalSockets,
}

/// Settings of `standalone`.
#[derive(Debug, ClapArgs)]
pub struct StandaloneArgs {
    /// Data directory; made if missing. Holds coordinator, datanode-1, datanode-2 and datanode-3
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address of the coordinator's services; port 0 takes a free one. The datanodes use free ports of the same host
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Unix sockets towards programs on this machine, beside TCP: on or off
    #[arg(long, value_name = "ON|OFF", default_value_t, value_parser = parse_local_sockets)]
    pub local_sockets: LocalSockets,
    /// Metadata store of a new data directory; an existing one must be named as it is
    #[arg(long, value_enum, default_value_t)]
    pub store: Store,
}

/// Metadata stores that an administrator may choose.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Store {
    /// Durable across power cuts, bounded memory
    #[default]
    Fjall,
    /// Survives the end of the process, but DOES NOT SURVIVE A POWER CUT; memory grows with the number of files
    Sled,
}

impl From<Store> for StoreKind {
    fn from(store: Store) -> Self {
        match store {
            Store::Fjall => StoreKind::Fjall,
            Store::Sled => StoreKind::Sled,
        }
    }
}

impl CoordinatorArgs {
    /// The coordinator's settings.
    pub fn config(&self) -> CoordinatorConfig {
        let mut config = CoordinatorConfig::new(self.data.clone(), self.listen);
        config.local_sockets = self.local_sockets;
        config.store = self.store.into();
        config.replication = self.replication;
        config.replication_floor = self
            .replication_floor
            .unwrap_or(self.replication.saturating_sub(1).max(1));
        config.chunk_bytes = self.chunk_size.unwrap_or(config.chunk_bytes);
        config.cache_bytes = self.cache_size.unwrap_or(config.cache_bytes);
        config.freed_chunk_delay = Duration::from_secs(self.keep_freed);
        config
    }
}

impl Role {
    /// The same, if all settings are within their limits.
    ///
    /// # Errors
    /// `Invalid`, naming the setting that is not and what it may be.
    pub fn checked(self) -> FsResult<Self> {
        match &self {
            Role::Coordinator(args) => args.config().validate()?,
            Role::Datanode(args) if args.listen.ip().is_unspecified() && args.advertise.is_none() => {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    format!(
                        "--listen {} is every address of this machine: name the one that clients use with --advertise HOST:PORT",
                        args.listen
                    ),
                ));
            }
            Role::Standalone(args) if args.listen.ip().is_unspecified() => {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    format!(
                        "--listen {}: standalone needs one address of this machine, which its datanodes use too",
                        args.listen
                    ),
                ));
            }
            _ => {}
        }
        Ok(self)
    }
}

/// `HOST:PORT` with a number or a name that resolves now.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    parse_host_port(text)?;
    text.to_socket_addrs()
        .map_err(|error| format!("{text}: {error}"))?
        .next()
        .ok_or_else(|| format!("{text} has no address"))
}

/// `HOST:PORT`, not resolved: the name may get its address later.
fn parse_host_port(text: &str) -> Result<String, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| "HOST:PORT is needed, for example 127.0.0.1:7400".to_owned())?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err("HOST:PORT is needed, with a port of 0 to 65535".to_owned());
    }
    Ok(text.to_owned())
}

/// `on` or `off`.
fn parse_local_sockets(text: &str) -> Result<LocalSockets, String> {
    text.parse().map_err(|error: FsError| error.message().to_owned())
}

/// Bytes, with an optional binary unit: `8388608`, `8M`, `8MiB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        unit => return Err(format!("unknown unit {unit:?}: use K, M or G")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "a number of bytes is needed, for example 8388608 or 8M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Role, String> {
        let args = Args::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        args.role.checked().map_err(|error| error.message().to_owned())
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_bytes("65536"), Ok(65536));
        assert_eq!(parse_bytes("8M"), Ok(8 << 20));
        assert_eq!(parse_bytes("1gib"), Ok(1 << 30));
        for bad in ["", "M", "1T", "-1", "99999999999G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn floor_follows_replication_unless_given() {
        for (line, floor) in [
            ("dfs-server coordinator --data d", 2),
            ("dfs-server coordinator --data d --replication 1", 1),
            ("dfs-server coordinator --data d --replication 5", 4),
            ("dfs-server coordinator --data d --replication-floor 1", 1),
        ] {
            let Ok(Role::Coordinator(args)) = parse(line) else {
                panic!("{line}");
            };
            assert_eq!(args.config().replication_floor, floor, "{line}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_with_the_range() {
        for (line, words) in [
            (
                "dfs-server coordinator --data d --replication 0",
                "replication is 1 to",
            ),
            (
                "dfs-server coordinator --data d --replication-floor 4",
                "replication floor is 1 to",
            ),
            ("dfs-server coordinator --data d --chunk-size 1", "chunk size is"),
            ("dfs-server coordinator --data d --store paper", "possible values"),
            ("dfs-server coordinator --data d --listen 7400", "HOST:PORT"),
            ("dfs-server coordinator", "--data"),
            (
                "dfs-server coordinator --data d --local-sockets maybe",
                "on or off",
            ),
            ("dfs-server datanode --data d", "--coordinator"),
            (
                "dfs-server datanode --data d --coordinator h:1 --listen 0.0.0.0:1",
                "--advertise",
            ),
            ("dfs-server standalone --data d --listen 0.0.0.0:1", "one address"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
