//! The metadata state machine: commands of the log in, outcomes out.
//!
//! No I/O, no clock, no randomness: the time comes with each batch, and all state is in [`Namespace`]. It lies in
//! persistent trees, so that a [`Snapshot`] is taken in constant time and written by another thread while commands go on.

mod acl;
pub mod api;
mod check;
mod commands;
mod label;
mod memory;
mod namespace;
mod read;
mod record;
mod repair;
mod report;
mod siphash;
mod snapshot;
mod stamp;
mod state;
mod store;
mod trash_read;
mod tree;
mod ttl_read;
mod window;

pub use acl::Acl;
pub use api::*;
pub use commands::{has_ended, is_task, moved_name};
pub use namespace::Namespace;
pub use snapshot::{Head, Snapshot, snapshot_of_portable};

#[cfg(test)]
mod tests;
