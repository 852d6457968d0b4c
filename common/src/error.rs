//! One error type for every layer: a kind that says what the caller must do, and a message for people.

use std::borrow::Cow;
use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $code:literal => $errno:ident),+ $(,)?) => {
        /// Outcome of a failed operation. The number is its wire code and is never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ErrorKind { $($(#[$doc])* $kind = $code),+ }

        impl ErrorKind {
            /// Every kind, for tables and tests.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$kind),+];
            /// The errno a program sees.
            pub fn errno(self) -> i32 { match self { $(ErrorKind::$kind => nix::libc::$errno),+ } }
            /// The kind of a wire code; unknown codes (a newer peer) are [`ErrorKind::Io`].
            pub fn from_code(code: u32) -> Self { match code { $($code => ErrorKind::$kind,)+ _ => ErrorKind::Io } }
        }
    };
}

kinds! {
    /// No such name, inode or attribute holder.
    NotFound = 1 => ENOENT,
    /// The name exists already.
    Exists = 2 => EEXIST,
    /// A path component is not a directory.
    NotDirectory = 3 => ENOTDIR,
    /// The operation does not apply to a directory.
    IsDirectory = 4 => EISDIR,
    /// The directory has entries.
    NotEmpty = 5 => ENOTEMPTY,
    /// Mode bits or ownership refuse access.
    PermissionDenied = 6 => EACCES,
    /// Only the owner or root may do this.
    NotPermitted = 7 => EPERM,
    /// An argument is out of range or malformed.
    Invalid = 8 => EINVAL,
    /// A name above 255 bytes.
    NameTooLong = 9 => ENAMETOOLONG,
    /// No datanode can take the data, or a store is full.
    NoSpace = 10 => ENOSPC,
    /// A directory quota is used up.
    QuotaExceeded = 11 => EDQUOT,
    /// Too many hard links.
    TooManyLinks = 12 => EMLINK,
    /// Rename or link across file systems.
    CrossDevice = 13 => EXDEV,
    /// The inode is gone: look the name up again.
    Stale = 14 => ESTALE,
    /// The object is in use.
    Busy = 15 => EBUSY,
    /// No such extended attribute.
    NoAttribute = 16 => ENODATA,
    /// The caller's buffer is too small.
    Range = 17 => ERANGE,
    /// A list or value above its limit.
    TooBig = 18 => E2BIG,
    /// Offset or size above the largest file.
    FileTooBig = 19 => EFBIG,
    /// A symbolic link loop.
    Loop = 20 => ELOOP,
    /// The operation does not exist for this object.
    NotSupported = 21 => EOPNOTSUPP,
    /// The handle is not open, or not open for this access.
    BadHandle = 22 => EBADF,
    /// The caller was interrupted.
    Interrupted = 23 => EINTR,
    /// The deadline passed; it is unknown whether the operation was applied.
    TimedOut = 24 => ETIMEDOUT,
    /// A server cannot be reached just now; nothing is known about the outcome.
    Unavailable = 25 => EHOSTDOWN,
    /// The session was fenced or is unknown: open a new one.
    SessionFenced = 26 => EIO,
    /// The operation number is older than the reply table: refused, never executed again.
    StaleOperation = 27 => EIO,
    /// Different bytes under an existing chunk id.
    ChunkConflict = 28 => EIO,
    /// A checksum does not match.
    Corrupt = 29 => EIO,
    /// A disk or another device failed.
    Io = 30 => EIO,
    /// The file system or node is read-only.
    ReadOnly = 31 => EROFS,
    /// The lock would deadlock.
    Deadlock = 32 => EDEADLK,
    /// Would block.
    WouldBlock = 33 => EAGAIN,
    /// The executable is open for writing.
    TextBusy = 34 => ETXTBSY,
    /// An earlier operation of the same batch failed, so this one was not tried.
    BatchAborted = 35 => ECANCELED,
    /// Credentials (session secret, chunk capability, cluster id) are wrong or expired.
    Unauthenticated = 36 => EACCES,
    /// Format or protocol version that this program does not know.
    UnknownVersion = 37 => EPROTO,
    /// The client holds as many locks as it may.
    TooManyLocks = 38 => ENOLCK,
}

impl ErrorKind {
    /// True if the same request may be sent again (with the same operation number) and may succeed.
    pub fn is_retryable(self) -> bool {
        matches!(self, ErrorKind::Unavailable | ErrorKind::TimedOut)
    }
}

/// An error with its kind and one sentence that says what happened and, where known, what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct FsError {
    kind: ErrorKind,
    message: Cow<'static, str>,
}

/// Result of every DFS operation.
pub type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// An error of `kind`; `message` is lower case without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        FsError {
            kind,
            message: message.into(),
        }
    }
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// The errno that a program sees.
    pub fn errno(&self) -> i32 {
        self.kind.errno()
    }
    /// Puts `context` (a verb phrase: "opening chunk 12") before the message.
    pub fn context(self, context: impl fmt::Display) -> Self {
        FsError {
            kind: self.kind,
            message: format!("{context}: {}", self.message).into(),
        }
    }
    /// Puts what to do ("choose another name") behind the message, if this is an error of not reaching a server; once however often it is asked for.
    pub fn advise_unreached(self, advice: &str) -> Self {
        if !self.kind.is_retryable() || self.message.ends_with(advice) {
            return self;
        }
        FsError {
            kind: self.kind,
            message: format!("{}: {advice}", self.message).into(),
        }
    }
}

/// What to do about a coordinator that was not reached.
pub const ADVICE_NO_COORDINATOR: &str = "start the coordinator there, or check the address";

impl From<ErrorKind> for FsError {
    fn from(kind: ErrorKind) -> Self {
        FsError {
            kind,
            message: Cow::Borrowed(""),
        }
    }
}

impl From<std::io::Error> for FsError {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(nix::libc::ENOSPC) => ErrorKind::NoSpace,
            Some(nix::libc::EDQUOT) => ErrorKind::NoSpace,
            Some(nix::libc::EROFS) => ErrorKind::ReadOnly,
            Some(nix::libc::ENOENT) => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        FsError {
            kind,
            message: reason(&error).into(),
        }
    }
}

/// What `error` says, without the system's number behind it: "Connection refused".
pub fn reason(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    if let Some(number) = error.raw_os_error() {
        let words = text.strip_suffix(&format!(" (os error {number})")).map(str::len);
        text.truncate(words.unwrap_or(text.len()));
    }
    text
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "{:?}", self.kind)
        } else {
            write!(f, "{} ({:?})", self.message, self.kind)
        }
    }
}
impl fmt::Debug for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl std::error::Error for FsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for kind in ErrorKind::ALL {
            assert!(seen.insert(*kind as u32));
            assert_eq!(ErrorKind::from_code(*kind as u32), *kind);
            assert!(kind.errno() > 0);
        }
        assert_eq!(ErrorKind::from_code(9999), ErrorKind::Io);
    }
}
