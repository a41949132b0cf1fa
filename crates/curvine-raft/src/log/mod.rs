//! The segmented log: `log-<first index>.seg` files that a dedicated thread writes, recovered as a whole at the start.
//!
//! `segment` the format of a file, `recovery` what is found at the start, `memory` what is known of the log while it runs,
//! `read` reading entries back, `writer` the thread that changes files, `store` openraft's view of it all.

pub(crate) mod memory;
pub(crate) mod read;
pub(crate) mod recovery;
pub(crate) mod remains;
pub(crate) mod segment;
pub(crate) mod store;
pub(crate) mod writer;

#[cfg(test)]
mod recovery_test;
#[cfg(test)]
mod store_test;
