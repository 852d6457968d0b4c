//! Errors that end a whole call, as gRPC status.
//!
//! The kind travels in the metadata key [`ERROR_KIND_KEY`] and decides; gRPC's own code is for generic tools and for
//! failures that no DFS server made: those of the transport, whose outcome is unknown, become `Unavailable` or `TimedOut`.

use crate::convert::bounded;
use dfs_common::error::reason;
use dfs_common::{ErrorKind, FsError};
use std::error::Error;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Metadata key of the [`ErrorKind`]'s decimal code.
pub const ERROR_KIND_KEY: &str = "dfs-error-kind";

/// An error as status; its text is cut at [`dfs_common::limits::ERROR_MESSAGE_BYTES_MAX`].
pub fn to_status(error: &FsError) -> Status {
    let mut metadata = MetadataMap::with_capacity(1);
    metadata.insert(ERROR_KIND_KEY, MetadataValue::from(error.kind() as u32));
    Status::with_metadata(code(error.kind()), bounded(error.message()), metadata)
}

/// The error of a status, whoever made it.
pub fn from_status(status: &Status) -> FsError {
    let message = bounded(status.message());
    if let Some(value) = status.metadata().get(ERROR_KIND_KEY) {
        let code = value.to_str().ok().and_then(|text| text.parse().ok());
        return FsError::new(ErrorKind::from_code(code.unwrap_or(0)), message.to_string());
    }
    let kind = foreign_kind(status);
    let text = match kind {
        ErrorKind::Unavailable => format!("the server cannot be reached ({})", cause(status)),
        ErrorKind::TimedOut => format!("the server did not answer in time ({message})"),
        ErrorKind::UnknownVersion => {
            "the server does not offer this service: check the address, and run the same release on both sides".to_string()
        }
        ErrorKind::TooBig => format!("the message is too large: send less at once ({message})"),
        _ => format!("the call failed ({}: {message})", status.code()),
    };
    FsError::new(kind, bounded(&text).to_string())
}

/// The innermost cause of a failure of the transport: "connection refused" says more than "transport error".
fn cause(status: &Status) -> String {
    let mut text = status.message().to_string();
    let mut source = status.source();
    while let Some(error) = source {
        text = match error.downcast_ref() {
            Some(error) => reason(error),
            None => error.to_string(),
        };
        source = error.source();
    }
    text
}

/// The kind of a status without a DFS kind: it was made by tonic, on this side or the other, or by a proxy.
fn foreign_kind(status: &Status) -> ErrorKind {
    match status.code() {
        Code::Unimplemented => ErrorKind::UnknownVersion,
        Code::DeadlineExceeded => ErrorKind::TimedOut,
        Code::Cancelled if status.message().contains("Timeout expired") => ErrorKind::TimedOut,
        Code::Cancelled | Code::Unavailable | Code::Aborted | Code::ResourceExhausted => {
            ErrorKind::Unavailable
        }
        // tonic's answer to a message above the limit, when it is sent and when it is received.
        Code::OutOfRange => ErrorKind::TooBig,
        Code::Unauthenticated | Code::PermissionDenied => ErrorKind::Unauthenticated,
        // A connection that broke during the call has the broken connection as its source.
        _ if status.source().is_some() => ErrorKind::Unavailable,
        // A stream that the peer reset without a status: its process or its handler died.
        Code::Unknown | Code::Internal if status.message().contains("h2 protocol error") => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Io,
    }
}

/// The nearest gRPC code, for tools that know nothing of DFS.
fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoAttribute | ErrorKind::Stale => Code::NotFound,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::PermissionDenied | ErrorKind::NotPermitted | ErrorKind::ReadOnly => Code::PermissionDenied,
        ErrorKind::Unauthenticated | ErrorKind::SessionFenced => Code::Unauthenticated,
        ErrorKind::Invalid
        | ErrorKind::NameTooLong
        | ErrorKind::Range
        | ErrorKind::TooBig
        | ErrorKind::FileTooBig
        | ErrorKind::BadHandle => Code::InvalidArgument,
        ErrorKind::NoSpace | ErrorKind::QuotaExceeded | ErrorKind::TooManyLinks | ErrorKind::TooManyLocks => {
            Code::ResourceExhausted
        }
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Interrupted => Code::Cancelled,
        ErrorKind::NotSupported => Code::Unimplemented,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Io => Code::Internal,
        ErrorKind::BatchAborted | ErrorKind::Deadlock | ErrorKind::WouldBlock | ErrorKind::StaleOperation => {
            Code::Aborted
        }
        ErrorKind::NotDirectory
        | ErrorKind::IsDirectory
        | ErrorKind::NotEmpty
        | ErrorKind::CrossDevice
        | ErrorKind::Busy
        | ErrorKind::Loop
        | ErrorKind::ChunkConflict
        | ErrorKind::TextBusy
        | ErrorKind::UnknownVersion => Code::FailedPrecondition,
    }
}
