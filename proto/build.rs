//! Generates the services from `proto/dfs/v1/*.proto` with protox, a protoc in Rust: no system compiler is needed.

/// What the metadata store holds can be shown as JSON and read back (`json.rs`).
const AS_JSON: [&str; 20] = [
    "Attr",
    "ChunkRange",
    "NodeInfo",
    "PlacementGroup",
    "StoredChunk",
    "StoredCounters",
    "StoredCursor",
    "StoredDentry",
    "StoredDurability",
    "StoredExtent",
    "StoredFreedChunk",
    "StoredInode",
    "StoredNode",
    "StoredOrphan",
    "StoredQuota",
    "StoredReap",
    "StoredRestore",
    "StoredSession",
    "StoredUsage",
    "Timestamp",
];
const BYTES_AS_JSON: [&str; 7] = [
    "ChunkRange.chunk",
    "StoredChunk.sha256",
    "StoredCursor.name",
    "StoredExtent.data.inline",
    "StoredInode.symlink_target",
    "StoredNode.secret",
    "StoredSession.secret",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["types", "metadata", "chunk", "cluster", "admin", "stored"]
        .map(|name| format!("dfs/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let derive = "#[derive(serde::Serialize, serde::Deserialize)]";
    let mut generate = tonic_prost_build::configure().bytes(".");
    for message in AS_JSON {
        let path = format!(".dfs.v1.{message}");
        generate = generate
            .message_attribute(&path, derive)
            .message_attribute(&path, "#[serde(default, deny_unknown_fields)]");
    }
    generate = generate
        .enum_attribute(".dfs.v1.StoredExtent.data", derive)
        .enum_attribute(
            ".dfs.v1.StoredExtent.data",
            "#[serde(rename_all = \"snake_case\")]",
        );
    for field in BYTES_AS_JSON {
        generate = generate.field_attribute(
            format!(".dfs.v1.{field}"),
            "#[serde(with = \"crate::json::bytes\")]",
        );
    }
    generate.compile_fds(descriptors)?;
    Ok(())
}
