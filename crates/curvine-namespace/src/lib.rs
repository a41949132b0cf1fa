//! The metadata state machine: commands in, outcomes out.

pub mod api;
mod namespace;

pub use api::*;
pub use namespace::{Namespace, Snapshot};
