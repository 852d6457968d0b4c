//! How files and directories are made durable; a seam, so that tests can let it fail.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes files and directories durable.
pub trait DiskSync: Send + Sync + 'static {
    /// The content of a file and what is needed to read it.
    fn sync_file(&self, file: &File) -> io::Result<()>;
    /// The entries of a directory.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// fdatasync(2) and fsync(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelSync;

impl DiskSync for KernelSync {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        dfs_common::durable::sync_dir(dir)
    }
}
