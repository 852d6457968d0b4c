//! `dfs admin fsck`: checks and repairs the file system while it is used.
//!
//! Invariant: exit code 0 means that nothing is wrong, and that nothing was left unknown.

use crate::args::FsckArgs;
use crate::context::Context;
use crate::format::bytes_text;
use crate::output::{EXIT_PROBLEMS, EXIT_UNHEALTHY, insert_bytes};
use crate::path::printable;
use dfs_client::{FsckEvent, FsckSummary};
use dfs_common::FsResult;
use serde_json::{Map, Value, json};

/// Runs the command.
///
/// # Errors
/// `Busy` (another check runs), `Unavailable`, `TimedOut`, those of the coordinator's store and of standard output.
pub async fn run(context: &Context, args: FsckArgs) -> FsResult<()> {
    let mut phase = String::new();
    let admin = context.admin()?;
    let checked = admin.fsck(args.repair, !args.no_chunks, |event| {
        if let FsckEvent::Phase(now) = event {
            if now != phase {
                context.output.note(&now);
                phase = now;
            }
            return Ok(());
        }
        context
            .output
            .result(|| event_text(&event), || event_json(&event))
    });
    let summary = checked.await.map_err(|error| context.unreachable(error))?;
    if summary.left > 0 || summary.lost > 0 {
        context.output.raise(EXIT_PROBLEMS);
    } else if summary.degraded > 0 || summary.unknown > 0 {
        context.output.raise(EXIT_UNHEALTHY);
    }
    context.output.result(
        || summary_text(&summary, args.repair),
        || json!({ "summary": summary }),
    )
}

fn event_text(event: &FsckEvent) -> String {
    match event {
        FsckEvent::Phase(text) => text.clone(),
        FsckEvent::Found(text) => format!("problem: {text}"),
        FsckEvent::Repaired(text) => format!("repaired: {text}"),
        FsckEvent::Left(text) => format!("left: {text}"),
        FsckEvent::Lost {
            ino,
            path,
            chunks,
            bytes,
        } => {
            let file = match path.is_empty() {
                true => format!("inode {ino}, which has no path,"),
                false => printable(path),
            };
            format!(
                "lost content: {file} has {chunks} chunks that no datanode has ({})",
                bytes_text(*bytes)
            )
        }
    }
}

fn event_json(event: &FsckEvent) -> Value {
    match event {
        FsckEvent::Phase(text) => json!({ "phase": text }),
        FsckEvent::Found(text) => json!({ "problem": text }),
        FsckEvent::Repaired(text) => json!({ "repaired": text }),
        FsckEvent::Left(text) => json!({ "left": text }),
        FsckEvent::Lost {
            ino,
            path,
            chunks,
            bytes,
        } => {
            let mut object = Map::new();
            object.insert("ino".to_owned(), (*ino).into());
            if !path.is_empty() {
                insert_bytes(&mut object, "path", path);
            }
            object.insert("chunks".to_owned(), (*chunks).into());
            object.insert("bytes".to_owned(), (*bytes).into());
            json!({ "lost": object })
        }
    }
}

fn summary_text(summary: &FsckSummary, repair: bool) -> String {
    let mut lines = vec![format!(
        "checked {} inodes and {} chunks: {}",
        summary.inodes,
        summary.chunks,
        match (summary.found, repair) {
            (0, _) => "no problems".to_owned(),
            (found, false) => format!("{found} problems; --repair repairs what needs no guessing"),
            (found, true) => format!(
                "{found} problems, {} repairs, {} problems left",
                summary.repaired, summary.left
            ),
        }
    )];
    if summary.asked_datanodes {
        lines.push(format!(
            "copies: {} chunks have all, {} too few, {} none, {} unknown",
            summary.whole, summary.degraded, summary.lost, summary.unknown
        ));
    }
    if !summary.silent_nodes.is_empty() {
        let nodes: Vec<String> = summary.silent_nodes.iter().map(u32::to_string).collect();
        lines.push(format!("did not answer: node {}", nodes.join(", ")));
    }
    if summary.lost_files > 0 {
        lines.push(format!("{} files have lost content", summary.lost_files));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_file_is_named_by_its_path_whatever_its_bytes() {
        let lost = |path: &[u8]| FsckEvent::Lost {
            ino: 7,
            path: path.to_vec(),
            chunks: 2,
            bytes: 4096,
        };
        let text = event_text(&lost(b"/a\xff"));
        assert!(text.contains("/a\\xff has 2 chunks"), "{text}");
        assert!(event_text(&lost(b"")).contains("inode 7"));
        assert_eq!(event_json(&lost(b"/a\xff"))["lost"]["path_bytes_hex"], "2f61ff");
    }

    #[test]
    fn summary_says_what_is_left_and_who_did_not_answer() {
        let mut summary = FsckSummary {
            inodes: 3,
            ..FsckSummary::default()
        };
        assert_eq!(
            summary_text(&summary, false),
            "checked 3 inodes and 0 chunks: no problems"
        );
        (summary.found, summary.repaired, summary.left) = (4, 3, 1);
        summary.asked_datanodes = true;
        summary.silent_nodes = vec![2, 5];
        let text = summary_text(&summary, true);
        for words in ["4 problems, 3 repairs, 1 problems left", "node 2, 5", "0 unknown"] {
            assert!(text.contains(words), "{text}");
        }
    }
}
