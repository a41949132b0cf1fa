//! The worker: serves, fills and deletes file data.
//!
//! A thin shell over `curvine-blockstore` (what is on the local disks) and `curvine-ufs` (where absent data comes from).
//! What always holds: authoritative content is served only under a lease from the master; blocking disk work runs on a
//! bounded pool; data in memory has a budget; every wait ends by a deadline.
//!
//! The way of a read: `service` -> `read` -> plan of the block store -> `sendfile`, or `reply` (a verified buffer); absent
//! parts of a cached copy -> `fetch` (one flight per chunk) -> `source` (where it comes from) -> store -> back into the block
//! store.

mod authoritative;
mod cached;
mod clock;
mod copies;
mod dirty;
mod disk;
mod drain;
mod engine;
mod fetch;
mod flight;
mod load;
mod local;
mod look;
mod membership;
pub mod metrics;
mod options;
mod per_mount;
mod pins;
mod read_part;
mod reply;
mod service;
mod source;
mod stats;
mod store_change;
mod store_object;
mod take;
mod worker;

#[cfg(test)]
mod local_test;
#[cfg(test)]
mod test_util;
#[cfg(test)]
mod worker_test;

pub use drain::Drained;
pub use options::WorkerOptions;
pub use worker::{Worker, WorkerGauges};
