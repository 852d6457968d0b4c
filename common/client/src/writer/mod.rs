//! Writing: into memory, from there to datanodes, and then into the file's map.

pub(crate) mod flusher;
pub(crate) mod grants;
pub(crate) mod quota;
pub(crate) mod save;
pub(crate) mod upload;
pub(crate) mod write;
