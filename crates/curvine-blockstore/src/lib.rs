//! Tiers, sparse cache files, chunk index, checksums and recovery: the data of a worker on its local disks.
//!
//! One sparse local file per content (inode, generation), every byte at its natural offset, and an index log per tier
//! directory that says what of it is known. What always holds:
//!
//! * What was acknowledged survives the death of the process; what was synced or sealed survives the death of the machine.
//! * Data that is not known to be right is an error or absent, never zeroes.
//! * Only clean copies of what exists elsewhere are evicted.
//! * A file whose descriptor was given away is never punched or cut by the store, only unlinked, and stays charged while it is used.
//! * Memory, descriptors and disk space have limits.
//!
//! The store is synchronous and may be called by many threads at once; no lock that other contents need is held
//! while the disk works.

mod chunks;
mod content;
mod copy;
mod disk;
mod eviction;
mod expose;
mod files;
mod fill;
mod free;
mod index;
mod lease;
mod moves;
mod orphans;
mod pins;
mod place;
mod read;
mod record;
mod recovery;
mod release;
mod seal;
mod store;
mod tier;
mod types;
mod watermarks;
mod write;
mod writers;

#[cfg(test)]
mod expose_test;
#[cfg(test)]
mod fill_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod moves_test;
#[cfg(test)]
mod recovery_test;
#[cfg(test)]
mod test_util;
#[cfg(test)]
mod write_test;

pub use copy::{CopyFrom, CopyTo};
pub use disk::{DiskOp, Faults, crc32c};
pub use store::{BlockStore, Gauges, OnEvict};
pub use types::*;
