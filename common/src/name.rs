//! Names of directory entries: bytes, not text.

use crate::error::{ErrorKind, FsError, FsResult};
use crate::limits::NAME_BYTES_MAX;
use bytes::Bytes;
use std::fmt;

/// A directory entry's name: 1 to 255 bytes without `/` and NUL, neither `.` nor `..`; any other bytes, UTF-8 or not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Bytes);

impl Name {
    /// Checks and wraps `bytes`.
    ///
    /// # Errors
    /// `NameTooLong` above 255 bytes; `Invalid` for the empty name, `.`, `..`, a slash or a NUL.
    pub fn new(bytes: impl Into<Bytes>) -> FsResult<Self> {
        let bytes = bytes.into();
        if bytes.len() > NAME_BYTES_MAX {
            return Err(FsError::new(
                ErrorKind::NameTooLong,
                "a name has at most 255 bytes",
            ));
        }
        if bytes.is_empty()
            || &bytes[..] == b"."
            || &bytes[..] == b".."
            || bytes.iter().any(|b| *b == b'/' || *b == 0)
        {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a name is not empty, . or .., and has no slash and no NUL",
            ));
        }
        Ok(Name(bytes))
    }
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// The shared buffer.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_bytes() {
        assert!(Name::new(vec![b'x'; 255]).is_ok());
        assert_eq!(
            Name::new(vec![b'x'; 256]).unwrap_err().kind(),
            ErrorKind::NameTooLong
        );
        assert!(Name::new(&b"\xff\xfe"[..]).is_ok());
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
