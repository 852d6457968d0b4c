//! The wire: generated messages and services, conversion to and from the vocabulary of `dfs-common`, and both sides of
//! the gRPC transport for the two service seams.

/// Generated from `proto/dfs/v1/*.proto`; the comments there are the wire contract.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("dfs.v1");
}
