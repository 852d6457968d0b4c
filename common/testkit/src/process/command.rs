//! Programs that tests run to their end: `rsync`, `git`, `sqlite3`, `dfs`.
//!
//! Invariant: no program outlives its limit, and a failure shows the command line with all it said.

use super::deadline::until;
use std::fmt::Write;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Programs that take longer are mentioned in the test's output.
const SLOW: Duration = Duration::from_millis(500);

/// What a program did.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, as text for messages and parsing.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// The command line, for messages.
    pub line: String,
}

impl Finished {
    /// Everything about it, for the message of an assertion.
    pub fn describe(&self) -> String {
        let mut text = format!("`{}` ended with {}", self.line, self.status);
        for (name, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !output.is_empty() {
                let _ = write!(text, "\n{name}: {}", tail(output, 4000));
            }
        }
        text
    }
}

/// Runs a program that must succeed, and gives its standard output.
///
/// # Panics
/// When it cannot be started, fails, or is not done within `limit`.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> String {
    let finished = attempt(command, limit);
    assert!(finished.status.success(), "{}", finished.describe());
    finished.stdout
}

/// Runs a program that may fail.
///
/// # Panics
/// When it cannot be started, or is not done within `limit`; it is killed then.
#[track_caller]
pub fn attempt(command: &mut Command, limit: Duration) -> Finished {
    let line = line_of(command);
    // Files, not pipes: nothing to drain, and a child of the child that lives on holds nobody up.
    let mut stdout = tempfile::tempfile().expect("a temporary file can be made");
    let mut stderr = tempfile::tempfile().expect("a temporary file can be made");
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a descriptor can be copied"))
        .stderr(stderr.try_clone().expect("a descriptor can be copied"))
        .spawn()
        .unwrap_or_else(|error| panic!("`{line}` cannot be started: {error}"));
    let status = ends_within(&mut child, limit);
    if began.elapsed() > SLOW {
        println!("{:.1?}: {}", began.elapsed(), tail(&line, 300));
    }
    let finished = Finished {
        status: status.unwrap_or_default(),
        stdout: text_of(&mut stdout),
        stderr: text_of(&mut stderr),
        line,
    };
    assert!(
        status.is_some(),
        "not done within {limit:?} and killed: {}",
        finished.describe()
    );
    finished
}

/// Waits for the end of `child`; `None` and kills it when `limit` has passed.
fn ends_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    until(
        "end of a child",
        limit + Duration::from_secs(60),
        || match child.try_wait() {
            Ok(Some(status)) => Some(Some(status)),
            _ if Instant::now() < end => None,
            _ => {
                // A process that hangs in the kernel does not end by this: it is left, the test fails.
                let _ = child.kill();
                Some(None)
            }
        },
    )
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let _ = write!(line, " {}", arg.to_string_lossy());
    }
    line
}

fn text_of(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of `text`: at most `bytes_max`, from the beginning of a line where there is one.
pub(super) fn tail(text: &str, bytes_max: usize) -> &str {
    let start = text.len().saturating_sub(bytes_max);
    let start = (start..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    match text[start..].split_once('\n') {
        Some((_, rest)) if start > 0 => rest,
        _ => &text[start..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_kept() {
        let finished = attempt(
            Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]),
            Duration::from_secs(10),
        );
        assert_eq!(
            (finished.stdout.as_str(), finished.stderr.as_str()),
            ("a\n", "b\n")
        );
        assert_eq!(finished.status.code(), Some(3));
        assert!(finished.describe().contains("exit 3"));
    }

    #[test]
    #[should_panic(expected = "not done within")]
    fn program_that_does_not_end_is_killed() {
        attempt(Command::new("sleep").arg("60"), Duration::from_millis(50));
    }

    #[test]
    fn tail_starts_with_a_line() {
        assert_eq!(tail("one\ntwo\nthree", 8), "three");
        assert_eq!(tail("one\ntwo", 100), "one\ntwo");
        assert_eq!(tail("éé", 3), "é");
    }
}
