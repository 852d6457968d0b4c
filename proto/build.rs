//! Generates the services from `proto/dfs/v1/*.proto` with protox, a protoc in Rust: no system compiler is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["types", "metadata", "chunk", "cluster", "admin", "stored"]
        .map(|name| format!("dfs/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
