//! What the user sees: results on standard output, errors and notes on standard error, as text or as JSON lines.
//!
//! Owns the two streams, the words of errors and the exit code. Invariants: standard output has results only; an error that
//! was shown is never followed by exit code 0; bars and lines do not tear each other.

use crate::path::{base_name, printable};
use dfs_common::{ErrorKind, FsError, FsResult};
use indicatif::MultiProgress;
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// Everything was done.
pub const EXIT_OK: u8 = 0;
/// Some of it failed.
pub const EXIT_FAILED: u8 = 1;
/// Wrong usage, or no coordinator is known.
pub const EXIT_USAGE: u8 = 2;
/// The cluster cannot be reached, or did not answer in time.
pub const EXIT_UNREACHABLE: u8 = 3;
/// The cluster answers, but is not healthy.
pub const EXIT_UNHEALTHY: u8 = 4;
/// Problems of the file system are left.
pub const EXIT_PROBLEMS: u8 = 5;
/// Nobody reads standard output any more; what a shell shows for SIGPIPE.
pub const EXIT_CLOSED: u8 = 141;

/// Buffer of standard output.
const STDOUT_BYTES: usize = 64 << 10;

/// Both streams of one run.
pub struct Output {
    json: bool,
    quiet: bool,
    terminal: bool,
    bars: MultiProgress,
    stdout: Mutex<BufWriter<Stdout>>,
    closed: AtomicBool,
    code: AtomicU8,
}

impl Output {
    /// Output as JSON lines or text; `quiet` is without bars and notes.
    pub fn new(json: bool, quiet: bool) -> Self {
        Output {
            json,
            quiet,
            terminal: io::stderr().is_terminal(),
            bars: MultiProgress::new(),
            stdout: Mutex::new(BufWriter::with_capacity(STDOUT_BYTES, io::stdout())),
            closed: AtomicBool::new(false),
            code: AtomicU8::new(EXIT_OK),
        }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The bars on the terminal; `None` when nobody watches.
    pub fn bars(&self) -> Option<&MultiProgress> {
        (self.terminal && !self.quiet && !self.json).then_some(&self.bars)
    }

    /// A result: a line of text, or an object. Buffered; see [`Output::flush`].
    ///
    /// # Errors
    /// `Io` if standard output is closed or full: the command shall end.
    pub fn result(&self, text: impl FnOnce() -> String, object: impl FnOnce() -> Value) -> FsResult<()> {
        let mut line = if self.json { object().to_string() } else { text() };
        line.push('\n');
        self.write(|stdout| stdout.write_all(line.as_bytes()))
    }

    /// Bytes of a result as they are, for standard output.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub fn raw(&self, bytes: &[u8]) -> FsResult<()> {
        self.write(|stdout| stdout.write_all(bytes))
    }

    /// Shows the results so far.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub fn flush(&self) -> FsResult<()> {
        self.write(|stdout| stdout.flush())
    }

    fn write(&self, work: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>) -> FsResult<()> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match self.bars() {
            Some(bars) => bars.suspend(|| work(&mut stdout).and_then(|()| stdout.flush())),
            None => work(&mut stdout),
        };
        written.map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.closed.store(true, Ordering::Relaxed);
            }
            FsError::from(error).context("writing standard output")
        })
    }

    /// Whether standard output has no reader any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Shows an error; `subject` is the path it is about, if any.
    pub fn error(&self, subject: Option<&[u8]>, error: &FsError) {
        self.raise(exit_code(error.kind()));
        if self.json {
            let mut object = Map::new();
            object.insert("kind".to_owned(), kind_name(error.kind()).into());
            object.insert("message".to_owned(), sentence(subject, error).into());
            if let Some(subject) = subject {
                insert_bytes(&mut object, "path", subject);
            }
            self.stderr(&json!({ "error": object }).to_string());
        } else {
            let sentence = sentence(subject, error);
            match subject {
                Some(subject) => self.stderr(&format!("dfs: {}: {sentence}", printable(subject))),
                None => self.stderr(&format!("dfs: {sentence}")),
            }
        }
    }

    /// Says something that is neither a result nor an error, unless quiet.
    pub fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.json {
            self.stderr(&json!({ "note": text }).to_string());
        } else {
            self.stderr(&format!("dfs: {text}"));
        }
    }

    /// One line on standard error, in one piece. Nobody may be reading: the exit code says it all the same.
    fn stderr(&self, line: &str) {
        let line = format!("{line}\n");
        let write = || drop(io::stderr().lock().write_all(line.as_bytes()));
        match self.bars() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Makes the exit code at least `code`.
    pub fn raise(&self, code: u8) {
        self.code.fetch_max(code, Ordering::Relaxed);
    }

    /// The exit code so far.
    pub fn code(&self) -> u8 {
        self.code.load(Ordering::Relaxed)
    }
}

/// The exit code of an error.
fn exit_code(kind: ErrorKind) -> u8 {
    if is_unreachable(kind) {
        EXIT_UNREACHABLE
    } else {
        EXIT_FAILED
    }
}

/// Whether the cluster, not one file, is the trouble: trying the next file only costs the same patience again.
pub fn is_unreachable(kind: ErrorKind) -> bool {
    kind.is_retryable()
}

/// An error's sentence, or that of its errno if it has none. The path it is about is not said again.
pub fn sentence(subject: Option<&[u8]>, error: &FsError) -> String {
    let mut message = error.message();
    if let Some(subject) = subject {
        let name = base_name(subject).unwrap_or(subject);
        for (said, after) in [(subject, ": "), (subject, " "), (name, " ")] {
            let said = format!("{}{after}", said.escape_ascii());
            message = message.strip_prefix(&said).unwrap_or(message);
        }
    }
    match error.kind() {
        _ if message.is_empty() => errno_words(error),
        // What refused is not what users call it.
        ErrorKind::PermissionDenied | ErrorKind::NotPermitted => format!("{}: {message}", errno_words(error)),
        _ => message.to_owned(),
    }
}

/// `no such file or directory`.
fn errno_words(error: &FsError) -> String {
    let words = nix::errno::Errno::from_raw(error.errno()).desc();
    let mut characters = words.chars();
    match characters.next() {
        // "I/O error" stays as it is.
        Some(first) if characters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => words.to_owned(),
    }
}

/// `NotFound` as `not_found`.
fn kind_name(kind: ErrorKind) -> String {
    let mut name = String::new();
    for character in format!("{kind:?}").chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(character.to_lowercase());
    }
    name
}

/// Puts bytes into an object: as text under `key`, and in hexadecimal beside it if they are not UTF-8.
pub fn insert_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            object.insert(key.to_owned(), text.into());
        }
        Err(_) => {
            object.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{key}_bytes_hex"), hex.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_words_and_a_code_above_zero() {
        for kind in ErrorKind::ALL {
            assert!(!sentence(None, &(*kind).into()).is_empty(), "{kind:?}");
            assert!(exit_code(*kind) > EXIT_OK);
            assert!(
                kind_name(*kind)
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '_')
            );
        }
        assert_eq!(kind_name(ErrorKind::ChunkConflict), "chunk_conflict");
        assert_eq!(
            sentence(None, &ErrorKind::NotFound.into()),
            "no such file or directory"
        );
        assert_eq!(sentence(None, &ErrorKind::Io.into()), "I/O error");
        let about = FsError::from(ErrorKind::NotFound).context("/a");
        assert_eq!(sentence(Some(b"/a"), &about), "no such file or directory");
        for message in ["/a/b: b is gone", "b is gone", "/a/b is gone", "is gone"] {
            let about = FsError::new(ErrorKind::NotFound, message);
            assert_eq!(sentence(Some(b"/a/b"), &about), "is gone");
        }
        assert_eq!(exit_code(ErrorKind::TimedOut), EXIT_UNREACHABLE);
    }

    #[test]
    fn exit_code_never_falls() {
        let output = Output::new(true, true);
        output.raise(EXIT_UNREACHABLE);
        output.raise(EXIT_FAILED);
        assert_eq!(output.code(), EXIT_UNREACHABLE);
    }

    #[test]
    fn bytes_that_are_not_text_come_with_their_hexadecimal() {
        let mut object = Map::new();
        insert_bytes(&mut object, "name", b"a\xff");
        insert_bytes(&mut object, "path", "/ä".as_bytes());
        assert_eq!(
            Value::from(object),
            json!({ "name": "a\u{fffd}", "name_bytes_hex": "61ff", "path": "/ä" })
        );
    }
}
