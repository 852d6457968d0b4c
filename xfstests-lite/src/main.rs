//! `xfstests-lite`: file-system cases, in the manner of xfstests, that run on any directory.
//!
//! A case states one behaviour and its source, and fails with a sentence. Run on a local file system it proves itself; run on
//! a DFS mount it shows a difference. Every case works below a directory of its own, which is removed afterwards.

mod case;
mod cases;

use case::{Case, Outcome};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// File-system cases for any directory.
#[derive(Debug, Parser)]
#[command(
    name = "xfstests-lite",
    version,
    after_help = "Exit codes: 0 all passed, 1 some failed, 2 wrong usage."
)]
struct Args {
    /// Run only cases of these groups
    #[arg(short, long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Leave these cases out
    #[arg(short = 'x', long = "exclude", value_name = "CASE")]
    excluded: Vec<String>,
    /// List the cases and what they pin, run nothing
    #[arg(short, long)]
    list: bool,
    /// Directories to test; each must exist and be writable
    #[arg(value_name = "DIR", required_unless_present = "list")]
    dirs: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let chosen: Vec<&Case> = cases::ALL
        .iter()
        .filter(|case| args.groups.is_empty() || args.groups.iter().any(|group| group == case.group))
        .filter(|case| !args.excluded.iter().any(|name| name == case.name))
        .collect();
    if chosen.is_empty() {
        eprintln!("xfstests-lite: no case is left: see --list");
        return ExitCode::from(2);
    }
    if args.list {
        for case in chosen {
            println!(
                "{:<10} {:<36} {} [{}]",
                case.group, case.name, case.behaviour, case.source
            );
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    let mut passed = 0;
    for dir in &args.dirs {
        if !dir.is_dir() {
            eprintln!("xfstests-lite: {} is not a directory", dir.display());
            return ExitCode::from(2);
        }
        for case in &chosen {
            match run(case, dir) {
                Outcome::Passed => {
                    passed += 1;
                    println!("ok      {} {}", dir.display(), case.name);
                }
                Outcome::Failed(why) => {
                    failed += 1;
                    println!("FAILED  {} {}: {why}", dir.display(), case.name);
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Runs a case in a new directory below `dir`.
fn run(case: &Case, dir: &Path) -> Outcome {
    let place = dir.join(format!("xfstests-lite-{}-{}", std::process::id(), case.name));
    if let Err(error) = std::fs::create_dir(&place) {
        return Outcome::Failed(format!("making {}: {error}", place.display()));
    }
    let outcome = match (case.run)(&place) {
        Ok(()) => Outcome::Passed,
        Err(why) => Outcome::Failed(why.to_string()),
    };
    match std::fs::remove_dir_all(&place) {
        Err(error) if matches!(outcome, Outcome::Passed) => {
            Outcome::Failed(format!("removing {}: {error}", place.display()))
        }
        _ => outcome,
    }
}
