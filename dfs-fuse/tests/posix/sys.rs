//! System calls that neither the standard library nor nix has, and what checks share.

use nix::libc;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The errno of a call that must fail.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    let error = result.expect_err("the call must fail");
    error
        .raw_os_error()
        .unwrap_or_else(|| panic!("no errno: {error}"))
}

/// The same for nix.
#[track_caller]
pub fn nix_errno<T: std::fmt::Debug>(result: nix::Result<T>) -> i32 {
    result.expect_err("the call must fail") as i32
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a test's path")
}

fn c_name(name: &[u8]) -> CString {
    CString::new(name).expect("no NUL in a test's name")
}

fn result(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// `lsetxattr`; `flags` as there.
pub fn set_xattr(path: &Path, name: &[u8], value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (c_path(path), c_name(name));
    // SAFETY: the strings end with NUL and live through the call; the value's length is its own.
    let returned = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    };
    result(returned as isize).map(drop)
}

/// `lgetxattr` into a buffer of `size` bytes; with 0 the length alone is asked for.
pub fn get_xattr_into(path: &Path, name: &[u8], size: usize) -> io::Result<(usize, Vec<u8>)> {
    let (path, name) = (c_path(path), c_name(name));
    let mut value = vec![0u8; size];
    // SAFETY: the strings end with NUL, the buffer has the given size, and all live through the call.
    let returned = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let length = result(returned)?;
    value.truncate(length);
    Ok((length, value))
}

/// The whole value.
pub fn get_xattr(path: &Path, name: &[u8]) -> io::Result<Vec<u8>> {
    get_xattr_into(path, name, 65_536).map(|(_, value)| value)
}

/// `lremovexattr`.
pub fn remove_xattr(path: &Path, name: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path), c_name(name));
    // SAFETY: the strings end with NUL and live through the call.
    let returned = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    result(returned as isize).map(drop)
}

/// `llistxattr`, names in the namespaces `user` and `trusted`, sorted.
pub fn list_xattr(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let path = c_path(path);
    let mut names = vec![0u8; 65_536];
    // SAFETY: the string ends with NUL, the buffer has the given size, and both live through the call.
    let returned = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(result(returned)?);
    let mut names: Vec<Vec<u8>> = names
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user.") || name.starts_with(b"trusted."))
        .map(<[u8]>::to_vec)
        .collect();
    names.sort();
    Ok(names)
}

/// A stream of directory entries that knows positions.
pub struct DirStream(*mut libc::DIR);

impl DirStream {
    /// `opendir`.
    pub fn open(path: &Path) -> Self {
        let path = c_path(path);
        // SAFETY: the string ends with NUL and lives through the call.
        let dir = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!dir.is_null(), "opendir: {}", io::Error::last_os_error());
        DirStream(dir)
    }

    /// The next name; `.` and `..` are names too.
    pub fn next_name(&mut self) -> Option<Vec<u8>> {
        // SAFETY: the stream is open until drop; the entry is read before the next call on it.
        unsafe {
            let entry = libc::readdir(self.0);
            (!entry.is_null()).then(|| {
                std::ffi::CStr::from_ptr((*entry).d_name.as_ptr())
                    .to_bytes()
                    .to_vec()
            })
        }
    }

    /// All names that are left.
    pub fn rest(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next_name()).collect()
    }

    /// `telldir`.
    pub fn position(&mut self) -> i64 {
        // SAFETY: the stream is open until drop.
        unsafe { libc::telldir(self.0) }
    }

    /// `seekdir`.
    pub fn seek(&mut self, position: i64) {
        // SAFETY: the stream is open until drop; any position is allowed.
        unsafe { libc::seekdir(self.0, position) }
    }

    /// `rewinddir`.
    pub fn rewind(&mut self) {
        // SAFETY: the stream is open until drop.
        unsafe { libc::rewinddir(self.0) }
    }
}

impl Drop for DirStream {
    fn drop(&mut self) {
        // SAFETY: the stream is open and not used afterwards.
        unsafe { libc::closedir(self.0) };
    }
}

/// A shared, writable map of a whole file.
pub struct Map {
    start: *mut u8,
    length: usize,
}

impl Map {
    /// Maps the first `length` bytes, which must be permitted.
    pub fn new(file: &std::fs::File, length: usize) -> Self {
        Map::try_new(file, length).unwrap_or_else(|error| panic!("mmap: {error}"))
    }

    /// Maps the first `length` bytes.
    pub fn try_new(file: &std::fs::File, length: usize) -> io::Result<Self> {
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping that nothing else refers to; the descriptor is open.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, shared, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Map {
            start: start.cast(),
            length,
        })
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is as long and lives as long as self; the tests keep the file that long.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    /// `msync`, waiting.
    pub fn sync(&mut self) {
        // SAFETY: exactly the mapping.
        let returned = unsafe { libc::msync(self.start.cast(), self.length, libc::MS_SYNC) };
        assert_eq!(returned, 0, "msync: {}", io::Error::last_os_error());
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, not used afterwards.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}
