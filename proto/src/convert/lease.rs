//! Leases: what a session may do with a file, and recalls.

use super::{at_most, invalid};
use crate::v1;
use dfs_common::lease::{Access, Obeyed, Recall, RecallPage};
use dfs_common::limits::RECALLS_PENDING_MAX;
use dfs_common::{FsResult, Ino};

/// The wire form of what a session may do with a file.
pub fn access_to_wire(access: &Access) -> v1::Access {
    v1::Access {
        ino: access.ino.0,
        content: access.content,
        buffer: access.buffer,
        pages: access.pages,
    }
}

/// What the session may do with a file, from the wire.
pub fn access_from_wire(access: v1::Access) -> Access {
    Access {
        ino: Ino(access.ino),
        content: access.content,
        buffer: access.buffer,
        pages: access.pages,
    }
}

/// Recalls on the wire.
pub fn recall_page_to_wire(page: &RecallPage) -> v1::RecallsReply {
    let numbers = |inos: &[Ino]| inos.iter().map(|ino| ino.0).collect();
    let recall = |recall: &Recall| v1::Recall {
        sequence: recall.sequence,
        inos: numbers(&recall.inos),
        contents: numbers(&recall.contents),
        buffers: numbers(&recall.buffers),
    };
    v1::RecallsReply {
        stream: page.stream,
        recalls: page.recalls.iter().map(recall).collect(),
    }
}

/// Recalls from the wire.
///
/// # Errors
/// `Invalid` for more than [`RECALLS_PENDING_MAX`], or numbers that do not grow.
pub fn recall_page_from_wire(reply: v1::RecallsReply) -> FsResult<RecallPage> {
    at_most(reply.recalls.len(), RECALLS_PENDING_MAX, "recalls")?;
    if !reply.recalls.is_sorted_by(|a, b| a.sequence < b.sequence) {
        return Err(invalid("recalls are out of order"));
    }
    let inos = |numbers: Vec<u64>| numbers.into_iter().map(Ino).collect();
    let recall = |recall: v1::Recall| Recall {
        sequence: recall.sequence,
        inos: inos(recall.inos),
        contents: inos(recall.contents),
        buffers: inos(recall.buffers),
    };
    Ok(RecallPage {
        stream: reply.stream,
        recalls: reply.recalls.into_iter().map(recall).collect(),
    })
}

/// What a client has done about the recalls of a stream, on the wire.
pub fn recalls_request(identity: v1::Identity, stream: u64, obeyed: &Obeyed) -> v1::RecallsRequest {
    v1::RecallsRequest {
        identity: Some(identity),
        stream,
        acknowledged: obeyed.below,
        received: obeyed.received,
        beside: obeyed.beside.clone(),
    }
}

/// What a client has done about the recalls of a stream, from the wire.
///
/// # Errors
/// `Invalid` for more than [`RECALLS_PENDING_MAX`] numbers.
pub fn obeyed_from_wire(request: &v1::RecallsRequest) -> FsResult<Obeyed> {
    at_most(request.beside.len(), RECALLS_PENDING_MAX, "recalls")?;
    Ok(Obeyed {
        received: request.received.max(request.acknowledged),
        below: request.acknowledged,
        beside: request.beside.clone(),
    })
}
