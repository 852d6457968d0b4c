//! Operations by path.
use bytes::Bytes;
use dfs_common::attr::{Attr, SetAttr};
use dfs_common::op::RenameMode;
use dfs_common::service::DirPage;
use dfs_common::{ErrorKind, FsResult};

/// Operations by path.
pub struct PathApi {}
impl PathApi {
    /// See the final documentation.
    pub async fn stat(&self, _path: &[u8], _follow: bool) -> FsResult<Attr> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn readlink(&self, _path: &[u8]) -> FsResult<Bytes> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn list(&self, _path: &[u8], _cursor: u64, _limit: u32) -> FsResult<DirPage> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn mkdir(&self, _path: &[u8], _mode: u32, _parents: bool) -> FsResult<Attr> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn remove(&self, _path: &[u8]) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn remove_tree(
        &self,
        _path: &[u8],
        _on_removed: &mut (dyn FnMut(&[u8]) + Send),
    ) -> FsResult<u64> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn rename(&self, _from: &[u8], _to: &[u8], _mode: RenameMode) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn symlink(&self, _path: &[u8], _target: &[u8]) -> FsResult<Attr> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn set_attributes(&self, _path: &[u8], _set: SetAttr, _follow: bool) -> FsResult<Attr> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn reader(&self, _path: &[u8]) -> FsResult<FileReader> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn writer(&self, _path: &[u8], _mode: u32, _overwrite: bool) -> FsResult<FileWriter> {
        Err(ErrorKind::NotSupported.into())
    }
}

/// Reads one file.
pub struct FileReader {
    attr: Attr,
}
impl FileReader {
    /// See the final documentation.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }
    /// See the final documentation.
    pub async fn read(&self, _offset: u64, _length: u32) -> FsResult<Bytes> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn close(self) {}
}

/// Writes one new file.
pub struct FileWriter {}
impl FileWriter {
    /// See the final documentation.
    pub async fn write(&mut self, _data: &[u8]) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn finish(self) -> FsResult<Attr> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn abort(self) {}
}
