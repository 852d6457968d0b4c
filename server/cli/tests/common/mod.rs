//! A real cluster for the tests of `dfs`, scratch files, and comparing trees.

#![allow(dead_code)] // not every test needs all of it

use dfs_testkit::process::{ClusterOptions, Content, Finished, ProcessCluster, attempt, run};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

const LIMIT: Duration = Duration::from_secs(120);

/// A cluster and a directory for local files.
pub struct TestCluster {
    /// The cluster.
    pub cluster: ProcessCluster,
}

impl TestCluster {
    /// A healthy, empty one.
    pub fn start() -> Self {
        TestCluster {
            cluster: ProcessCluster::start(ClusterOptions::default()),
        }
    }

    /// A `dfs` command without logs, so that standard error has errors only.
    pub fn dfs(&self) -> Command {
        let mut command = self.cluster.dfs();
        command.env_remove("DFS_LOG");
        command
    }

    /// Runs a command that must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        run(self.dfs().args(args), LIMIT)
    }

    /// As [`TestCluster::ok`], with this umask.
    #[track_caller]
    pub fn umasked(&self, umask: &str, args: &[&str]) {
        let dfs = self.dfs();
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask $0 && exec \"$@\"", umask]);
        shell.arg(dfs.get_program()).args(dfs.get_args()).args(args);
        run(shell.env_remove("DFS_LOG"), LIMIT);
    }

    /// Runs a command that must succeed; its results.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        let text = run(self.dfs().args(args).arg("--json"), LIMIT);
        text.lines()
            .map(|line| serde_json::from_str(line).expect("results are JSON"))
            .collect()
    }

    /// Runs a command that must end with `code`.
    #[track_caller]
    pub fn fails(&self, args: &[&str], code: i32) -> Finished {
        let finished = attempt(self.dfs().args(args), LIMIT);
        assert_eq!(finished.status.code(), Some(code), "{}", finished.describe());
        finished
    }

    /// The names in a directory of DFS, those with a dot too.
    #[track_caller]
    pub fn names(&self, path: &str) -> Vec<String> {
        self.ok(&["ls", "-a", path]).lines().map(str::to_owned).collect()
    }

    /// The path of a local scratch file.
    pub fn path(&self, name: &str) -> String {
        let dir = self.cluster.base().subdir("scratch");
        dir.join(name)
            .to_str()
            .expect("temporary paths are text")
            .to_owned()
    }

    /// A local directory.
    pub fn dir(&self, name: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A local file.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// Fills a directory with everything that a copy can get wrong.
pub fn make_tree(dir: &str) {
    let dir = Path::new(dir);
    let odd = OsStr::from_bytes(b"odd \xff\n name");
    for sub in ["deep/er/est", "empty", "many", "read-only"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::create_dir(dir.join(odd)).unwrap();
    let files = [
        ("empty-file", 0),
        ("small", 5),
        ("frame", 64 << 10),
        ("piece", 1 << 20),
        ("piece-and-one", (1 << 20) + 1),
        ("deep/er/est/chunk", 8 << 20),
        ("large", 20_000_003),
        ("read-only/inside", 77),
    ];
    for (number, (name, length)) in files.into_iter().enumerate() {
        fs::write(dir.join(name), Content::new(number as u64, length).bytes()).unwrap();
    }
    for number in 0..60_u64 {
        fs::write(
            dir.join(format!("many/{number}")),
            Content::new(number, 100 * number as usize).bytes(),
        )
        .unwrap();
    }
    fs::write(dir.join(odd).join("n".repeat(255)), b"long").unwrap();
    fs::write(dir.join(odd).join(OsStr::from_bytes(b"\xfe")), b"bytes").unwrap();
    fs::write(dir.join(".hidden"), b"dot").unwrap();
    let mut holes = vec![0; 6 << 20];
    holes[3 << 20] = 1;
    fs::write(dir.join("zeros"), holes).unwrap();
    symlink("small", dir.join("link")).unwrap();
    symlink("../nowhere/at all", dir.join("dangling")).unwrap();
    symlink("deep", dir.join("link-to-directory")).unwrap();
    let mode =
        |name: &str, mode| fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("small", 0o640);
    mode("frame", 0o4711);
    mode("empty", 0o1777);
    mode("read-only/inside", 0o400);
    mode("read-only", 0o555);
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(dir.join("frame"), Some(1234), Some(2345)).unwrap();
        std::os::unix::fs::lchown(dir.join("link"), Some(1234), Some(2345)).unwrap();
        mode("frame", 0o4711);
    }
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for name in ["small", "empty", "deep"] {
        fs::File::open(dir.join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
}

/// Compares two trees: names, kinds, content, targets of links; with `attributes` modes, owners and times too.
#[track_caller]
pub fn assert_same(one: &str, other: &str, attributes: bool) {
    let mut compared = 0;
    compare(Path::new(one), Path::new(other), attributes, &mut compared);
    assert!(compared > 70, "only {compared} files");
}

fn compare(one: &Path, other: &Path, attributes: bool, compared: &mut usize) {
    *compared += 1;
    let metadata = |path: &Path| {
        path.symlink_metadata()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let (a, b) = (metadata(one), metadata(other));
    assert_eq!(a.file_type(), b.file_type(), "{}", other.display());
    if attributes {
        let of = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
        assert_eq!(of(&a), of(&b), "{}", other.display());
    }
    if a.is_symlink() {
        assert_eq!(fs::read_link(one).unwrap(), fs::read_link(other).unwrap());
    } else if a.is_file() {
        assert!(
            fs::read(one).unwrap() == fs::read(other).unwrap(),
            "{} differs",
            other.display()
        );
    } else {
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let names_here = names(one);
        assert_eq!(names_here, names(other), "{}", other.display());
        for name in names_here {
            compare(&one.join(&name), &other.join(&name), attributes, compared);
        }
    }
}
