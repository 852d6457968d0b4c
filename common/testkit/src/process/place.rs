//! Where a test of ordinary programs runs: on a new mount of a new cluster, or on a directory of a local file system.
//!
//! The second proves the test: what fails there too is a mistake of the test. Set `DFS_TEST_CONTROL_DIR` to a directory
//! (on ext4, for example) and the same tests run there, without a cluster.

use super::base::Base;
use super::cluster::{ClusterOptions, ProcessCluster};
use super::mount::{Mount, MountOptions, drop_caches};
use std::path::{Path, PathBuf};

/// A directory to work in.
#[derive(Debug)]
pub enum Place {
    /// A directory of a local file system.
    Local {
        /// The directory; removed when dropped.
        dir: tempfile::TempDir,
        /// For scratch files.
        base: Base,
    },
    /// The root of a mount.
    // The order matters: the mount ends before the cluster.
    Mounted {
        /// The mount.
        mount: Mount,
        /// Its cluster.
        cluster: ProcessCluster,
    },
}

impl Place {
    /// A new mount of a new cluster, or the control directory if that is set.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn new(options: ClusterOptions) -> Self {
        match std::env::var_os("DFS_TEST_CONTROL_DIR") {
            Some(dir) => Self::local(Path::new(&dir)),
            None => {
                let cluster = ProcessCluster::start(options);
                let mount = cluster.mount(MountOptions::default());
                Place::Mounted { mount, cluster }
            }
        }
    }

    /// A new directory in `dir`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn local(dir: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir_in(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("the directory is ours");
        Place::Local {
            dir,
            base: Base::new(),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        match self {
            Place::Local { dir, .. } => dir.path(),
            Place::Mounted { mount, .. } => mount.path(),
        }
    }

    /// A directory of the local disk for what does not belong on the mount.
    pub fn scratch(&self, name: &str) -> PathBuf {
        match self {
            Place::Local { base, .. } => base.subdir(name),
            Place::Mounted { cluster, .. } => cluster.base().subdir(name),
        }
    }

    /// Makes what was written come from the servers: mounts again, with the page cache dropped.
    pub fn cool(&mut self) {
        match self {
            Place::Local { .. } => drop_caches(),
            Place::Mounted { mount, .. } => mount.remount(),
        }
    }

    /// The cluster, unless the place is a local directory.
    pub fn cluster(&mut self) -> Option<&mut ProcessCluster> {
        match self {
            Place::Local { .. } => None,
            Place::Mounted { cluster, .. } => Some(cluster),
        }
    }
}
