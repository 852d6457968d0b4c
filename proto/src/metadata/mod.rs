//! The metadata service on the wire, whatever the transport: its methods, the calling side, the answering side.
//!
//! A new operation of the seam is added here once: in [`Method`], [`MetadataStub`] and [`MetadataHandler`].

mod handler;
mod method;
mod stub;

pub use handler::MetadataHandler;
pub use method::Method;
pub use stub::{MetadataStub, MetadataTransport};
