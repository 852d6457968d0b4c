//! `dfs admin nodes`: the datanodes.

use crate::context::Context;
use crate::format::{bytes_text, table};
use dfs_common::FsResult;
use dfs_common::cluster::{NodeHealth, NodeInfo};

/// Columns of numbers in [`node_table`].
const RIGHT: u32 = 0b11_1100_0001;

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
    let output = &context.output;
    if output.is_json() {
        for node in &status.nodes {
            output.result(String::new, || serde_json::json!(node))?;
        }
        return Ok(());
    }
    output.result(|| node_table(&status.nodes), || serde_json::Value::Null)
}

/// What a node's health is called.
pub fn health_text(health: NodeHealth) -> &'static str {
    match health {
        NodeHealth::Up => "up",
        NodeHealth::Suspect => "suspect",
        NodeHealth::Down => "down",
    }
}

/// The nodes in a table with a heading.
pub fn node_table(nodes: &[NodeInfo]) -> String {
    if nodes.is_empty() {
        return "no datanodes have registered yet".to_owned();
    }
    let heading = [
        "NODE",
        "ADDRESS",
        "HEALTH",
        "WRITABLE",
        "USED",
        "USED%",
        "AVAILABLE",
        "CAPACITY",
        "CHUNKS",
        "DISK",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for node in nodes {
        rows.push(vec![
            node.id.to_string(),
            node.address.clone(),
            health_text(node.health).to_owned(),
            if node.writable { "yes" } else { "no" }.to_owned(),
            bytes_text(node.used_bytes),
            percent(node.used_bytes, node.capacity_bytes),
            bytes_text(node.available_bytes),
            bytes_text(node.capacity_bytes),
            node.chunks.to_string(),
            node.disk.to_string(),
        ]);
    }
    table(&rows, RIGHT)
}

/// `part` of `whole` in whole percent.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{}%", u128::from(part) * 100 / u128::from(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::{DiskIncarnation, NodeId};

    #[test]
    fn table_has_a_line_per_node() {
        let node = |id: u32, health| NodeInfo {
            id: NodeId(id),
            address: format!("host{id}:7500"),
            health,
            disk: DiskIncarnation(1),
            capacity_bytes: 100 << 30,
            used_bytes: 25 << 30,
            available_bytes: 75 << 30,
            chunks: 7,
            writable: health == NodeHealth::Up,
        };
        let text = node_table(&[node(1, NodeHealth::Up), node(12, NodeHealth::Down)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].trim_start().starts_with("1  host1:7500"), "{text}");
        assert!(lines[1].contains("up") && lines[1].contains("25%"), "{text}");
        assert!(lines[2].contains("down") && lines[2].contains("no"), "{text}");
        assert!(node_table(&[]).contains("no datanodes"));
        assert_eq!(percent(1, 0), "-");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
    }
}
