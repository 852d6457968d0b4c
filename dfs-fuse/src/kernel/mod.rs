//! What this program needs of the kernel besides file operations: mount points, tuning, invalidations.

pub mod invalidation;
pub mod mount;
pub mod place;
pub mod tuning;
