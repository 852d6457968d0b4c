//! Writers that keep a ledger. Each works in a directory of its own until its first error, which is the crash.

use super::LIMIT;
use super::ledger::Ledger;
use dfs_testkit::process::{Content, Pending, start, until};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

type Step = fn(&Path, u64, &mut Ledger) -> io::Result<()>;

/// All kinds of writers, by name.
const WRITERS: [(&str, Step); 7] = [
    ("copy-synced", copy_synced),
    ("copy-closed", copy_closed),
    ("replace", replace),
    ("append", append),
    ("remove", remove),
    ("large", large),
    ("unlinked", unlinked),
];

/// What is owed to a writer, and the error that ended it.
type Outcome = (Ledger, Option<io::Error>);

/// Writers at work.
pub struct Work {
    steps: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    writers: Vec<(String, Pending<Outcome>)>,
}

/// Starts one writer of each kind in a new directory of `dir`.
pub fn start_all(dir: &Path, round: u64) -> Work {
    start_some(dir, round, |_| true)
}

/// [`start_all`] without the writer of large files: many short steps.
pub fn start_small(dir: &Path, round: u64) -> Work {
    start_some(dir, round, |kind| kind != "large")
}

fn start_some(dir: &Path, round: u64, wanted: fn(&str) -> bool) -> Work {
    let (steps, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let start = |(kind, step): (&str, Step)| {
        let name = format!("{kind}-{round}");
        let path = dir.join(&name);
        fs::create_dir(&path).unwrap();
        let (steps, over) = (steps.clone(), over.clone());
        (name, start(kind, move || write(path, step, round, &steps, &over)))
    };
    let writers = WRITERS.into_iter().filter(|(kind, _)| wanted(kind)).map(start);
    let writers = writers.collect();
    Work { steps, over, writers }
}

fn write(dir: PathBuf, step: Step, round: u64, steps: &AtomicUsize, over: &AtomicBool) -> Outcome {
    let mut ledger = Ledger::default();
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        if let Err(error) = step(&dir, round << 32 | number, &mut ledger) {
            return (ledger, Some(error));
        }
        steps.fetch_add(1, Ordering::Relaxed);
    }
    (ledger, None)
}

impl Work {
    /// Waits until the writers together did this many steps.
    pub fn wait_for_steps(&self, steps: usize) {
        until("steps of the writers", LIMIT, || {
            (self.steps.load(Ordering::Relaxed) >= steps).then_some(())
        });
    }

    /// Steps that were done so far.
    pub fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Ends the writers, and gives their directories and ledgers, and one sentence for each that was told of an error.
    pub fn end_unharmed(self) -> (Vec<(String, Ledger)>, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        let (mut ledgers, mut errors) = (Vec::new(), Vec::new());
        for (name, writer) in self.writers {
            let (ledger, error) = writer.wait(LIMIT);
            errors.extend(error.map(|error| format!("{name} was told: {error}")));
            ledgers.push((name, ledger));
        }
        (ledgers, errors)
    }

    /// Ends the writers, which the crash may have done, and gives their directories and ledgers.
    pub fn end(self) -> Vec<(String, Ledger)> {
        self.over.store(true, Ordering::Relaxed);
        self.writers
            .into_iter()
            .map(|(name, writer)| (name, writer.wait(LIMIT).0))
            .collect()
    }
}

/// A length that is sometimes nothing, mostly small, sometimes more than a block.
fn length_of(seed: u64) -> usize {
    match seed % 7 {
        0 => 0,
        1..=4 => (seed as usize * 7919) % 20_000,
        _ => (seed as usize * 104_729) % 300_000,
    }
}

fn create(dir: &Path, name: &str) -> io::Result<File> {
    File::options().write(true).create_new(true).open(dir.join(name))
}

/// A file under its final name, synced.
fn copy_synced(dir: &Path, seed: u64, ledger: &mut Ledger) -> io::Result<()> {
    let (name, content) = (format!("file-{seed}"), Content::new(seed, length_of(seed)));
    ledger.write_starts(&name, content);
    let mut file = create(dir, &name)?;
    content.write_to(&mut file, 50_000)?;
    file.sync_all()?;
    ledger.durable(&name, content.length);
    Ok(())
}

/// A file under its final name, only closed; also what a directory and its name owe.
fn copy_closed(dir: &Path, seed: u64, ledger: &mut Ledger) -> io::Result<()> {
    let (name, content) = (format!("file-{seed}"), Content::new(seed, length_of(seed)));
    ledger.write_starts(&name, content);
    let mut file = create(dir, &name)?;
    content.write_to(&mut file, 3_000)?;
    // What std's drop does, with the error: the promise counts only if close(2) gave it.
    nix::unistd::close(file).map_err(io::Error::from)?;
    ledger.durable(&name, content.length);
    let name = format!("directory-{seed}");
    ledger.directory(&name, false);
    fs::create_dir(dir.join(&name))?;
    ledger.directory(&name, true);
    Ok(())
}

/// A new version under a temporary name, synced every other time, closed, and renamed over the old one.
fn replace(dir: &Path, seed: u64, ledger: &mut Ledger) -> io::Result<()> {
    let (name, content) = (
        format!("file-{}", seed % 3),
        Content::new(seed, 1 + length_of(seed)),
    );
    let temporary = format!(".new-{seed}");
    let mut file = create(dir, &temporary)?;
    content.write_to(&mut file, 64_000)?;
    if seed.is_multiple_of(2) {
        file.sync_all()?;
    }
    nix::unistd::close(file).map_err(io::Error::from)?;
    ledger.replace_starts(&name, content);
    fs::rename(dir.join(temporary), dir.join(&name))?;
    ledger.replaced(&name, content);
    Ok(())
}

/// Records appended to one file, each synced.
fn append(dir: &Path, seed: u64, ledger: &mut Ledger) -> io::Result<()> {
    const RECORD: usize = 777;
    let number = (seed & 0xffff_ffff) as usize;
    let whole = Content::new(seed >> 32, 1_000 * RECORD);
    if number == 0 {
        ledger.write_starts("log", whole);
    }
    let (from, to) = (number * RECORD, (number + 1) * RECORD);
    let Some(record) = whole.bytes().get(from..to).map(<[u8]>::to_vec) else {
        return Ok(());
    };
    let mut file = File::options().append(true).create(true).open(dir.join("log"))?;
    file.write_all(&record)?;
    file.sync_data()?;
    ledger.durable("log", to);
    Ok(())
}

/// A synced file that is removed again, and one that stays.
fn remove(dir: &Path, seed: u64, ledger: &mut Ledger) -> io::Result<()> {
    copy_synced(dir, seed, ledger)?;
    if seed.is_multiple_of(2) {
        let name = format!("file-{seed}");
        ledger.remove_starts(&name);
        fs::remove_file(dir.join(&name))?;
        ledger.removed(&name);
    }
    Ok(())
}

/// A file of several chunks, synced in the middle.
fn large(dir: &Path, seed: u64, ledger: &mut Ledger) -> io::Result<()> {
    let (name, content) = (format!("file-{seed}"), Content::new(seed, 20 << 20));
    let half = content.length / 2 + 1;
    let bytes = content.bytes();
    ledger.write_starts(&name, content);
    let mut file = create(dir, &name)?;
    file.write_all(&bytes[..half])?;
    file.sync_data()?;
    ledger.durable(&name, half);
    file.write_all(&bytes[half..])?;
    file.sync_all()?;
    ledger.durable(&name, content.length);
    Ok(())
}

/// A file that lives on after its name is gone, until it is closed.
fn unlinked(dir: &Path, seed: u64, ledger: &mut Ledger) -> io::Result<()> {
    let (name, content) = (format!("file-{seed}"), Content::new(seed, 1 + length_of(seed)));
    ledger.write_starts(&name, content);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.join(&name))?;
    ledger.remove_starts(&name);
    fs::remove_file(dir.join(&name))?;
    ledger.removed(&name);
    content.write_to(&mut file, 10_000)?;
    file.sync_all()?;
    let mut found = vec![0; content.length];
    file.read_exact_at(&mut found, 0)?;
    match content.is(&found) {
        true => Ok(()),
        false => Err(io::Error::other("an unlinked file has other content")),
    }
}
