//! `dfs status`: nodes, capacity and health.
//!
//! Invariant: exit code 0 means healthy, for scripts that look no further.

use super::nodes::{health_text, node_table, percent};
use crate::context::Context;
use crate::format::{bytes_text, uptime_text};
use crate::output::EXIT_UNHEALTHY;
use dfs_client::ClusterStatus;
use dfs_common::FsResult;
use dfs_common::cluster::NodeHealth;

/// Runs the command.
///
/// # Errors
/// `Unavailable`, `TimedOut` if the cluster does not answer; those of standard output.
pub async fn run(context: &Context) -> FsResult<()> {
    let status = context
        .admin()?
        .status()
        .await
        .map_err(|error| context.unreachable(error))?;
    if !status.healthy {
        context.output.raise(EXIT_UNHEALTHY);
    }
    context.output.result(
        || status_text(&status, &context.coordinator),
        || serde_json::json!(status),
    )
}

fn status_text(status: &ClusterStatus, coordinator: &str) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<12} {text}"));
    line("cluster", status.cluster.clone());
    line("health", health_sentence(status));
    line(
        "coordinator",
        format!(
            "{coordinator}, version {}, store {}, up {}",
            status.coordinator_version,
            status.store,
            uptime_text(status.uptime_secs)
        ),
    );
    line(
        "capacity",
        format!(
            "{} raw, {} used ({}), {} available",
            bytes_text(status.capacity_bytes),
            bytes_text(status.used_bytes),
            percent(status.used_bytes, status.capacity_bytes),
            bytes_text(status.available_bytes)
        ),
    );
    line(
        "content",
        format!(
            "{} in {} inodes and {} chunks",
            bytes_text(status.content_bytes),
            status.inodes,
            status.chunks
        ),
    );
    line(
        "replication",
        format!(
            "{} replicas, at least {} before a write is acknowledged",
            status.replication, status.replication_floor
        ),
    );
    let durability = match status.durability_delay_ms {
        0 => "changes are durable when they are acknowledged".to_owned(),
        delay => format!("changes are durable {delay} ms after they are acknowledged, or after fsync"),
    };
    line("durability", durability);
    line("sessions", status.sessions.to_string());
    lines.push(String::new());
    lines.push(node_table(&status.nodes));
    lines.join("\n")
}

/// `healthy`, or what is wrong as far as the status tells.
fn health_sentence(status: &ClusterStatus) -> String {
    if status.healthy {
        return "healthy".to_owned();
    }
    let mut reasons = Vec::new();
    if status.nodes.is_empty() {
        reasons.push("no datanodes have registered yet".to_owned());
    }
    for health in [NodeHealth::Suspect, NodeHealth::Down] {
        let count = status.nodes.iter().filter(|node| node.health == health).count();
        if count > 0 {
            reasons.push(format!(
                "{count} of {} nodes {}",
                status.nodes.len(),
                health_text(health)
            ));
        }
    }
    let read_only = status.nodes.iter().filter(|node| !node.writable).count();
    if read_only > 0 {
        reasons.push(format!(
            "{read_only} of {} nodes cannot be written",
            status.nodes.len()
        ));
    }
    if status.under_replicated > 0 {
        reasons.push(format!(
            "{} chunks have too few replicas",
            status.under_replicated
        ));
    }
    if reasons.is_empty() {
        reasons.push("the coordinator's store does not take changes: see its log".to_owned());
    }
    format!("NOT HEALTHY: {}", reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::cluster::NodeInfo;
    use dfs_common::{DiskIncarnation, NodeId};

    fn status() -> ClusterStatus {
        ClusterStatus {
            cluster: "c".to_owned(),
            coordinator_version: "1".to_owned(),
            store: "fjall".to_owned(),
            healthy: true,
            nodes: vec![NodeInfo {
                id: NodeId(1),
                address: "h:1".to_owned(),
                health: NodeHealth::Up,
                disk: DiskIncarnation(1),
                capacity_bytes: 10,
                used_bytes: 5,
                available_bytes: 5,
                chunks: 1,
                writable: true,
            }],
            under_replicated: 0,
            capacity_bytes: 10,
            used_bytes: 5,
            available_bytes: 5,
            inodes: 1,
            chunks: 1,
            content_bytes: 5,
            sessions: 0,
            lifelines: 0,
            replication: 3,
            replication_floor: 2,
            uptime_secs: 61,
            durability_delay_ms: 0,
        }
    }

    #[test]
    fn text_says_health_first_and_every_reason_against_it() {
        let mut status = status();
        let text = status_text(&status, "h:7400");
        assert!(text.contains("health       healthy\n"), "{text}");
        assert!(text.contains("10 B raw, 5 B used (50%), 5 B available"), "{text}");
        status.healthy = false;
        status.under_replicated = 7;
        status.nodes[0].health = NodeHealth::Down;
        status.nodes[0].writable = false;
        let sentence = health_sentence(&status);
        for words in [
            "NOT HEALTHY",
            "1 of 1 nodes down",
            "cannot be written",
            "7 chunks",
        ] {
            assert!(sentence.contains(words), "{sentence}");
        }
    }

    #[test]
    fn json_has_the_names_that_scripts_rely_on() {
        let text = serde_json::json!(status()).to_string();
        for part in [
            r#""healthy":true"#,
            r#""health":"up""#,
            r#""under_replicated":0"#,
            r#""capacity_bytes":10"#,
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
