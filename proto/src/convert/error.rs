//! Errors inside replies. Those that end a whole call travel as a status: see [`crate::status`].

use crate::v1;
use dfs_common::limits::ERROR_MESSAGE_BYTES_MAX;
use dfs_common::{ErrorKind, FsError};

/// An error's wire form; its text is cut at [`ERROR_MESSAGE_BYTES_MAX`].
pub fn error_to_wire(error: &FsError) -> v1::Error {
    v1::Error {
        kind: error.kind() as u32,
        message: bounded(error.message()).to_string(),
    }
}

/// An error from the wire; never fails, so that no error is lost: unknown kinds are `Io`, long text is cut.
pub fn error_from_wire(error: v1::Error) -> FsError {
    let mut message = error.message;
    message.truncate(bounded(&message).len());
    FsError::new(ErrorKind::from_code(error.kind), message)
}

/// The longest start of `message` that the wire takes, cut between characters.
pub(crate) fn bounded(message: &str) -> &str {
    let mut end = message.len().min(ERROR_MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}
