//! Where the programs under test are.
//!
//! Owns: the rule `DFS_BIN_DIR`, else beside the running test (`target/<profile>/`). It builds nothing: a test that
//! builds what it tests hides which version that was.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `dfs-server`.
    Server,
    /// `dfs`.
    Cli,
    /// `dfs-mount`.
    Mount,
}

impl Program {
    /// Its file name.
    pub fn file_name(self) -> &'static str {
        match self {
            Program::Server => "dfs-server",
            Program::Cli => "dfs",
            Program::Mount => "dfs-mount",
        }
    }
}

/// The directory of the programs under test.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Those of this test run.
    ///
    /// # Panics
    /// When one is missing, with the command that builds it.
    pub fn find() -> Self {
        let dir = match std::env::var_os("DFS_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => beside_this_test(),
        };
        let found = Binaries(dir);
        for program in [Program::Server, Program::Cli, Program::Mount] {
            let path = found.path(program);
            assert!(
                path.is_file(),
                "{} is missing: run `cargo build --workspace --bins` first, with the profile of this test, or set \
                 DFS_BIN_DIR",
                path.display()
            );
        }
        found
    }

    /// The path of `program`.
    pub fn path(&self, program: Program) -> PathBuf {
        self.0.join(program.file_name())
    }

    /// The directory, to be put on a `PATH`.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// A command that runs `program`, with logs at a level that explains a failure unless `DFS_LOG` says otherwise and
    /// without the settings of whoever runs the tests.
    pub fn command(&self, program: Program) -> Command {
        let mut command = Command::new(self.path(program));
        self.set_environment(&mut command);
        command
    }

    /// The environment of every program of the product.
    pub(super) fn set_environment(&self, command: &mut Command) {
        if std::env::var_os("DFS_LOG").is_none() {
            command.env("DFS_LOG", "info");
        }
        command
            .env_remove("DFS_COORDINATOR")
            .env("XDG_CONFIG_HOME", "/nonexistent");
    }

    /// None at all, for tests of what surrounds them.
    #[cfg(test)]
    pub(super) fn anywhere() -> Self {
        Binaries(PathBuf::from("/nonexistent"))
    }
}

/// `target/<profile>` of `target/<profile>/deps/<test>`.
fn beside_this_test() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let dir = test.parent().expect("a program is in a directory");
    if dir.ends_with("deps") {
        dir.parent()
            .expect("deps is in the profile's directory")
            .to_owned()
    } else {
        dir.to_owned()
    }
}
