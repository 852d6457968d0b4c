//! A server's data directory: made private, locked, and known by its identity file.
//!
//! The identity file is JSON with a `format_version` and whatever its server keeps in it. Invariant: a directory that belongs
//! to something else, or to a newer format, is refused without a change to it.

use crate::durable::{self, DirLock};
use crate::error::{ErrorKind, FsError, FsResult};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Largest identity file that is read, in bytes.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

/// How the directories of one kind of server are told from others.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Whose directory it is, with its article: "a datanode".
    pub owner: &'static str,
    /// Name of the identity file.
    pub identity_file: &'static str,
    /// Format that this program writes, and the newest that it reads.
    pub format_version: u32,
}

/// A locked data directory.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    kind: Kind,
    /// Device and inode of the directory when it was opened.
    place: (u64, u64),
    _lock: DirLock,
}

impl DataDirectory {
    /// Opens the directory at `path`, or makes it, so that only its owner may enter; one that exists keeps its permissions.
    /// Takes its lock.
    ///
    /// # Errors
    /// `Busy` (another process has it), `Invalid` (it is not empty and not of this kind; it is unchanged then), `Io`.
    pub fn open(path: &Path, kind: Kind) -> FsResult<Self> {
        make_private(path).map_err(|error| describe(path, "making", error))?;
        // Before the lock file is made: a foreign directory stays as it was.
        check_entries(path, kind)?;
        let lock = DirLock::acquire(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => FsError::new(ErrorKind::Busy, error.to_string()),
            _ => describe(path, "locking", error),
        })?;
        check_entries(path, kind)?;
        durable::sync_dir(path).map_err(|error| describe(path, "syncing", error))?;
        Ok(DataDirectory {
            path: path.to_path_buf(),
            kind,
            place: place_of(path).map_err(|error| describe(path, "reading", error))?,
            _lock: lock,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the identity file holds; `None` in a new directory.
    ///
    /// # Errors
    /// `UnknownVersion` (another format), `Corrupt` (damaged), `Io`.
    pub fn read_identity<T: DeserializeOwned>(&self) -> FsResult<Option<T>> {
        let file = self.identity_path();
        match std::fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(describe(&self.path, "reading", error)),
            Ok(metadata) if metadata.len() > IDENTITY_BYTES_MAX => {
                return Err(self.damaged("it is too large"));
            }
            Ok(_) => {}
        }
        let bytes = std::fs::read(&file).map_err(|error| describe(&self.path, "reading", error))?;
        // The version first: a newer format may have other fields.
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let version: Version = serde_json::from_slice(&bytes).map_err(|error| self.damaged(error))?;
        if version.format_version != self.kind.format_version {
            return Err(FsError::new(
                ErrorKind::UnknownVersion,
                format!(
                    "{} has format version {}, this program knows {}: use the program that wrote it, or a newer one",
                    file.display(),
                    version.format_version,
                    self.kind.format_version
                ),
            ));
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| self.damaged(error))
    }

    /// Replaces the identity file; durable on return. Only the owner may read it. `identity` has the field `format_version`.
    pub fn write_identity<T: Serialize>(&self, identity: &T) -> FsResult<()> {
        let mut bytes = serde_json::to_vec_pretty(identity).expect("plain data serialises");
        bytes.push(b'\n');
        durable::replace_private_file(&self.identity_path(), &bytes)
            .map_err(|error| describe(&self.path, "writing", error))
    }

    /// The error of an identity file that cannot be used, with the reason.
    pub fn damaged(&self, why: impl std::fmt::Display) -> FsError {
        FsError::new(
            ErrorKind::Corrupt,
            format!(
                "{} is damaged ({why}): restore it from a backup",
                self.identity_path().display()
            ),
        )
    }

    /// Checks that the directory is still there, under its name and with its identity file: it may have been removed, or its
    /// disk unmounted.
    ///
    /// # Errors
    /// `Io`, naming the directory.
    pub fn check_present(&self) -> FsResult<()> {
        let there = place_of(&self.path).is_ok_and(|place| place == self.place)
            && self.identity_path().symlink_metadata().is_ok();
        if there {
            return Ok(());
        }
        Err(FsError::new(
            ErrorKind::Io,
            format!(
                "the data directory {} is gone or was replaced: is its disk still mounted?",
                self.path.display()
            ),
        ))
    }

    fn identity_path(&self) -> PathBuf {
        self.path.join(self.kind.identity_file)
    }
}

fn place_of(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn describe(path: &Path, doing: &str, error: io::Error) -> FsError {
    FsError::from(error).context(format_args!("{doing} the data directory {}", path.display()))
}

fn make_private(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        durable::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    durable::sync_dir(parent.unwrap_or(Path::new(".")))
}

fn check_entries(path: &Path, kind: Kind) -> FsResult<()> {
    if path.join(kind.identity_file).exists() {
        return Ok(());
    }
    let temporary = format!(".{}.tmp", kind.identity_file);
    for entry in std::fs::read_dir(path).map_err(|error| describe(path, "reading", error))? {
        let name = entry
            .map_err(|error| describe(path, "reading", error))?
            .file_name();
        // What a directory may hold and still count as empty.
        let ignored = ["LOCK", "lost+found", temporary.as_str()];
        if !ignored.iter().any(|ignored| name == *ignored) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "{} is not empty and not the data directory of {} (it has {:?} but no {}): use an empty or new directory",
                    path.display(),
                    kind.owner,
                    name.to_string_lossy(),
                    kind.identity_file
                ),
            ));
        }
    }
    Ok(())
}

/// Secrets in JSON: bytes as lower-case hexadecimal digits. For `#[serde(with = "...")]` on `[u8; N]`.
pub mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// As digits.
    pub fn serialize<const N: usize, S: Serializer>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    /// From exactly two digits per byte.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format_args!("a secret is not {} hexadecimal digits", 2 * N));
        if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; N];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        owner: "a test",
        identity_file: "test.json",
        format_version: 1,
    };

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Identity {
        format_version: u32,
        #[serde(with = "hex_bytes")]
        secret: [u8; 4],
    }

    fn new_dir(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dfs-data-dir-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn identity_is_private_and_kept_and_a_lost_directory_is_noticed() {
        let path = new_dir("kept");
        let dir = DataDirectory::open(&path, KIND).unwrap();
        assert_eq!(dir.read_identity::<Identity>().unwrap(), None);
        let identity = Identity {
            format_version: 1,
            secret: [0, 1, 0xab, 0xff],
        };
        dir.write_identity(&identity).unwrap();
        let mode = std::fs::metadata(path.join("test.json")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(dir.read_identity::<Identity>().unwrap(), Some(identity));
        assert_eq!(
            DataDirectory::open(&path, KIND).unwrap_err().kind(),
            ErrorKind::Busy
        );
        dir.check_present().unwrap();
        std::fs::rename(&path, path.with_extension("moved")).unwrap();
        assert_eq!(dir.check_present().unwrap_err().kind(), ErrorKind::Io);
        std::fs::remove_dir_all(path.with_extension("moved")).unwrap();
    }

    #[test]
    fn foreign_newer_and_damaged_directories_are_refused_unchanged() {
        let path = new_dir("foreign");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("thesis.txt"), b"text").unwrap();
        let error = DataDirectory::open(&path, KIND).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("thesis.txt"), "{error}");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "no lock file");
        for (text, kind) in [
            (r#"{"format_version": 2, "new": 1}"#, ErrorKind::UnknownVersion),
            ("{", ErrorKind::Corrupt),
            (r#"{"format_version": 1, "secret": "00"}"#, ErrorKind::Corrupt),
        ] {
            std::fs::write(path.join("test.json"), text).unwrap();
            let dir = DataDirectory::open(&path, KIND).unwrap();
            assert_eq!(dir.read_identity::<Identity>().unwrap_err().kind(), kind);
            assert_eq!(std::fs::read(path.join("test.json")).unwrap(), text.as_bytes());
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}
