//! The coordinator: namespace, sessions, membership and placement over an ordered key-value store.

pub mod store;
