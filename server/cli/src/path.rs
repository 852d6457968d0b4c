//! Paths inside DFS as users type them: `/a/b` or `dfs:/a/b`, any bytes.
//!
//! Owns their syntax, not their meaning: `.`, `..` and links are resolved by the client library. Invariant: a
//! [`DfsPath`] begins with a slash, has no empty component and no NUL.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// An absolute path in the file system of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DfsPath {
    /// `/`, or components with a slash before each.
    bytes: Vec<u8>,
    /// It was written with a slash at the end: it must be a directory.
    slash: bool,
}

impl DfsPath {
    /// Understands an argument.
    ///
    /// # Errors
    /// A sentence for the user if it is not absolute.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let text = text.as_bytes();
        let path = text.strip_prefix(b"dfs:").unwrap_or(text);
        if !path.starts_with(b"/") {
            return Err("a path in DFS begins with a slash: /a/b or dfs:/a/b".to_owned());
        }
        if path.contains(&0) {
            return Err("a path has no NUL".to_owned());
        }
        let mut bytes = Vec::with_capacity(path.len());
        for component in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            bytes.push(b'/');
            bytes.extend_from_slice(component);
        }
        let slash = path.ends_with(b"/") && !bytes.is_empty();
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        Ok(DfsPath { bytes, slash })
    }

    /// The root directory.
    pub fn root() -> Self {
        DfsPath {
            bytes: b"/".to_vec(),
            slash: false,
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the user wrote a slash at the end.
    pub fn wants_directory(&self) -> bool {
        self.slash
    }

    /// Whether this is the root directory, as written.
    pub fn is_root(&self) -> bool {
        self.bytes == b"/"
    }

    /// The last component, if it is a name; neither of the root nor of paths that end in `.` or `..`.
    pub fn name(&self) -> Option<&[u8]> {
        base_name(&self.bytes)
    }

    /// The directory of the last component; the root is its own.
    pub fn parent(&self) -> DfsPath {
        match self.bytes.iter().rposition(|byte| *byte == b'/') {
            Some(at) if at > 0 => DfsPath {
                bytes: self.bytes[..at].to_vec(),
                slash: false,
            },
            _ => DfsPath::root(),
        }
    }

    /// `name` in this directory.
    pub fn join(&self, name: &[u8]) -> DfsPath {
        let mut bytes = if self.is_root() {
            Vec::new()
        } else {
            self.bytes.clone()
        };
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        DfsPath { bytes, slash: false }
    }

    /// Whether this is `directory` or lies below it, as written.
    pub fn is_within(&self, directory: &DfsPath) -> bool {
        directory.is_root()
            || self
                .bytes
                .strip_prefix(directory.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }
}

impl fmt::Display for DfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.bytes))
    }
}

/// The name that a path gives to a copy of it: its last component, unless that is `.`, `..` or nothing.
pub fn base_name(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let start = path[..end]
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    Some(&path[start..end]).filter(|name| !matches!(*name, b"." | b".."))
}

/// Bytes as text for people: UTF-8 as it is, everything else and control characters escaped (`\xff`, `\n`), so that a name
/// can neither break a line nor command a terminal.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &[u8]) -> DfsPath {
        DfsPath::parse(OsStr::from_bytes(text)).unwrap()
    }

    #[test]
    fn both_spellings_are_one_path() {
        assert_eq!(path(b"dfs:/a/b"), path(b"/a//b"));
        assert_eq!(path(b"/").as_bytes(), b"/");
        assert_eq!(path(b"dfs:///"), DfsPath::root());
        assert!(path(b"/a/").wants_directory());
        assert_eq!(path(b"/a/").as_bytes(), b"/a");
        for bad in ["", "a", "dfs:a", "dfs:", "./a"] {
            assert!(DfsPath::parse(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_parents_and_joins() {
        assert_eq!(path(b"/a/b").name(), Some(&b"b"[..]));
        assert_eq!(path(b"/a/b").parent(), path(b"/a"));
        assert_eq!(path(b"/a").parent(), DfsPath::root());
        assert_eq!(DfsPath::root().parent(), DfsPath::root());
        assert_eq!(DfsPath::root().join(b"x"), path(b"/x"));
        assert_eq!(path(b"/a").join(b"\xff").as_bytes(), b"/a/\xff");
        for none in [&b"/"[..], b".", b"a/..", b"a/./", b""] {
            assert_eq!(base_name(none), None);
        }
        assert_eq!(base_name(b"a/b//"), Some(&b"b"[..]));
    }

    #[test]
    fn below_means_whole_components() {
        assert!(path(b"/a/b").is_within(&path(b"/a")));
        assert!(path(b"/a").is_within(&path(b"/a")));
        assert!(path(b"/a").is_within(&DfsPath::root()));
        assert!(!path(b"/ab").is_within(&path(b"/a")));
    }

    #[test]
    fn bytes_that_are_not_text_are_escaped() {
        assert_eq!(printable("ä b".as_bytes()), "ä b");
        assert_eq!(printable(b"a\xff\n\x1b[0m"), "a\\xff\\n\\u{1b}[0m");
    }
}
