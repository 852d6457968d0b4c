//! A tree of real files, as programs meet them: collected from what this machine has.
//!
//! Owns: the search (Python's library, Rust's sources, headers, documents) and a corner with what real trees seldom have:
//! links, empty files and directories, odd names and modes, a file of several chunks.

use super::content::Content;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Larger files are left out, so that the tree is many files rather than many bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of the tree.
const TREE_BYTES_MAX: u64 = 64 << 20;
/// Size of the corner's large file in bytes: more than two chunks of the default size, and not a whole number.
const LARGE_BYTES: usize = (20 << 20) + 12_345;

/// A local copy of some thousand real files.
#[derive(Debug)]
pub struct SourceTree {
    dir: PathBuf,
    files: usize,
    bytes: u64,
}

impl SourceTree {
    /// Collects `files` real files or more into `dir`, then makes the corner.
    ///
    /// # Panics
    /// When the machine does not have that many.
    pub fn collect(dir: PathBuf, files: usize) -> Self {
        let mut tree = SourceTree {
            dir,
            files: 0,
            bytes: 0,
        };
        for (number, root) in candidates().iter().enumerate() {
            if tree.files < files {
                tree.copy(root, &tree.dir.join(format!("part-{number}")), files);
            }
        }
        assert!(
            tree.files >= files,
            "only {} real files found on this machine, {files} wanted",
            tree.files
        );
        tree.make_corner();
        tree
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Real files in it.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn copy(&mut self, from: &Path, to: &Path, files: usize) {
        let Ok(entries) = fs::read_dir(from) else { return };
        let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        if fs::create_dir_all(to).is_err() {
            return;
        }
        for path in entries {
            if self.files >= files {
                return;
            }
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            let target = to.join(path.file_name().expect("an entry has a name"));
            if meta.is_dir() {
                self.copy(&path, &target, files);
            } else if meta.is_symlink() {
                if let Ok(link) = fs::read_link(&path) {
                    let _ = symlink(link, &target);
                }
            } else if meta.is_file()
                && meta.len() <= FILE_BYTES_MAX
                && self.bytes + meta.len() <= TREE_BYTES_MAX
            {
                if fs::copy(&path, &target).is_err() {
                    continue;
                }
                if let (Ok(time), Ok(file)) = (meta.modified(), fs::File::open(&target)) {
                    let _ = file.set_modified(time);
                }
                self.files += 1;
                self.bytes += meta.len();
            }
        }
    }

    fn make_corner(&self) {
        let corner = self.dir.join("corner");
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(corner.join("empty directory"))?;
            fs::write(corner.join("empty"), "")?;
            fs::write(corner.join("-rf *"), "a name that shells dislike")?;
            fs::write(corner.join("two\nlines"), "a name of two lines")?;
            fs::write(corner.join("ünï\u{301}cödé"), "composed and decomposed")?;
            fs::write(
                corner.join(std::ffi::OsStr::from_bytes(b"latin-\xe9\xff")),
                "not UTF-8",
            )?;
            fs::write(corner.join("n".repeat(255)), "the longest name")?;
            symlink("../no/such/file", corner.join("dangling"))?;
            symlink("empty", corner.join("link"))?;
            fs::write(corner.join("one"), Content::new(1, 100_000).bytes())?;
            fs::hard_link(corner.join("one"), corner.join("another"))?;
            fs::write(corner.join("large"), Content::new(2, LARGE_BYTES).bytes())?;
            for mode in [0o000, 0o444, 0o755, 0o4711, 0o2750] {
                let path = corner.join(format!("mode-{mode:o}"));
                fs::write(&path, format!("{mode:o}"))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
            fs::set_permissions(corner.join("empty directory"), fs::Permissions::from_mode(0o1777))
        };
        use std::os::unix::ffi::OsStrExt;
        make().unwrap_or_else(|error| panic!("{}: {error}", corner.display()));
    }
}

/// Directories with many real files, the most interesting first.
fn candidates() -> Vec<PathBuf> {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let path = PathBuf::from(text.trim());
        (output.status.success() && path.is_absolute()).then_some(path)
    };
    let mut found = Vec::new();
    found.extend(said(
        "python3",
        &["-c", "import sysconfig; print(sysconfig.get_paths()['stdlib'])"],
    ));
    found.extend(said("rustc", &["--print", "sysroot"]).map(|root| root.join("lib/rustlib/src")));
    found.extend(said("rustc", &["--print", "sysroot"]).map(|root| root.join("share/doc")));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    found.extend(cargo.map(|cargo| cargo.join("registry/src")));
    for root in [
        "/usr/include",
        "/usr/lib/python3",
        "/usr/share",
        "/usr/lib",
        "/etc",
    ] {
        found.push(PathBuf::from(root));
    }
    found
}
