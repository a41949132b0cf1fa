//! The master: sessions, grants, leases, placement and mounts over the replicated namespace.
//!
//! `Master` is the process: the replica of the log, the listening server, and, while this replica leads, a `Leader`.

mod change;
mod coherence;
#[cfg(test)]
mod coherence_test;
mod content;
mod drain;
mod fsck;
mod grants;
mod keyed;
mod leader;
mod listings;
mod locks;
pub mod metrics;
mod mount_table;
mod mounts;
mod options;
mod peers;
mod permission;
mod quotas;
mod reads;
mod recall;
mod registry;
mod report;
mod server;
mod service;
mod sessions;
mod state;
mod store_keys;
mod store_names;
mod store_renames;
mod tasks;
mod trash;
mod trash_orders;
mod tree_moves;
mod ttl;
mod uploads;
mod workers;

pub use options::MasterOptions;
pub use server::Master;
pub use state::MetaState;
