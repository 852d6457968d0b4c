//! Signatures of the client.
use crate::config::ClientConfig;
use crate::paths::PathApi;
use crate::types::*;
use bytes::Bytes;
use dfs_common::attr::{FileKind, SetAttr};
use dfs_common::cluster::StatFs;
use dfs_common::name::Name;
use dfs_common::op::{RenameMode, XattrMode};
use dfs_common::service::{ChunkConnector, DirPage, MetadataService};
use dfs_common::session::Caller;
use dfs_common::{ClusterId, ErrorKind, FsResult, Ino};
use std::sync::Arc;
use std::time::Duration;

/// A client of one cluster; a cheap handle.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// See the final documentation.
    pub async fn connect(_config: ClientConfig) -> FsResult<Client> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn with_services(
        _config: ClientConfig,
        _metadata: Arc<dyn MetadataService>,
        _chunks: Arc<dyn ChunkConnector>,
    ) -> FsResult<Client> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn shutdown(&self, _patience: Duration) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub fn cluster(&self) -> ClusterId {
        ClusterId(uuid::Uuid::nil())
    }
    /// See the final documentation.
    pub fn waiting(&self) -> Vec<String> {
        Vec::new()
    }
    /// See the final documentation.
    pub fn invalidations(&self) -> Option<tokio::sync::mpsc::Receiver<Invalidation>> {
        None
    }
    /// See the final documentation.
    pub async fn lookup(&self, _caller: &Caller, _parent: Ino, _name: &Name) -> FsResult<Entry> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn mkdir(&self, _caller: &Caller, _parent: Ino, _name: &Name, _mode: u32) -> FsResult<Entry> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn mknod(
        &self,
        _caller: &Caller,
        _parent: Ino,
        _name: &Name,
        _kind: FileKind,
        _mode: u32,
        _rdev: u32,
    ) -> FsResult<Entry> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn symlink(
        &self,
        _caller: &Caller,
        _parent: Ino,
        _name: &Name,
        _target: Bytes,
    ) -> FsResult<Entry> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn link(&self, _caller: &Caller, _ino: Ino, _parent: Ino, _name: &Name) -> FsResult<Entry> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn unlink(&self, _caller: &Caller, _parent: Ino, _name: &Name) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn rmdir(&self, _caller: &Caller, _parent: Ino, _name: &Name) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn rename(
        &self,
        _caller: &Caller,
        _parent: Ino,
        _name: &Name,
        _new_parent: Ino,
        _new_name: &Name,
        _mode: RenameMode,
    ) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn readlink(&self, _ino: Ino) -> FsResult<Bytes> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn readdir(
        &self,
        _caller: &Caller,
        _ino: Ino,
        _cursor: u64,
        _limit: u32,
        _attrs: bool,
    ) -> FsResult<DirPage> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn getattr(&self, _ino: Ino) -> FsResult<Entry> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn setattr(
        &self,
        _caller: &Caller,
        _ino: Ino,
        _set: SetAttr,
        _handle: Option<FileHandle>,
    ) -> FsResult<Entry> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn getxattr(&self, _caller: &Caller, _ino: Ino, _name: &[u8]) -> FsResult<Bytes> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn listxattr(&self, _caller: &Caller, _ino: Ino) -> FsResult<Vec<Bytes>> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn setxattr(
        &self,
        _caller: &Caller,
        _ino: Ino,
        _name: &[u8],
        _value: Bytes,
        _mode: XattrMode,
    ) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn removexattr(&self, _caller: &Caller, _ino: Ino, _name: &[u8]) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn statfs(&self) -> FsResult<StatFs> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn create(
        &self,
        _caller: &Caller,
        _parent: Ino,
        _name: &Name,
        _mode: u32,
        _exclusive: bool,
        _flags: OpenFlags,
    ) -> FsResult<Created> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn open(&self, _caller: &Caller, _ino: Ino, _flags: OpenFlags) -> FsResult<OpenedFile> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn read(&self, _handle: FileHandle, _offset: u64, _length: u32) -> FsResult<Bytes> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn write(
        &self,
        _caller: &Caller,
        _handle: FileHandle,
        _offset: u64,
        _data: &[u8],
    ) -> FsResult<u32> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn flush(&self, _handle: FileHandle) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn fsync(&self, _handle: FileHandle) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
    /// See the final documentation.
    pub async fn release(&self, _handle: FileHandle) {}
    /// See the final documentation.
    pub fn is_clean(&self, _handle: FileHandle) -> bool {
        true
    }
    /// See the final documentation.
    pub fn paths(&self, _caller: Caller) -> PathApi {
        PathApi {}
    }
}
