//! The replicated log: openraft behind a batch interface, segmented storage, snapshots.
//!
//! The way of a command: `Replica::propose` -> `proposer` (joins the entry being gathered) -> openraft -> `log::writer` (one
//! fdatasync) -> quorum -> `applier` (the state machine, in slices) -> back to each caller by position.
//!
//! What must hold, whatever fails: an acknowledged command is on stable storage of a quorum and in the state; a damaged file is
//! noticed and refused by name, never skipped; after a failed write nothing is acknowledged any more.
//!
//! * `log/` segments, recovery, the writer thread; `snapshot/` snapshot files; `vote`, `node_file` the small files
//! * `proposer`, `barrier` changes and linearizable reads; `applier`, `snapshotter` the state machine's side
//! * `leadership`, `health` what state the replica is in; `network`, `serving`, `transport` other replicas

mod applier;
mod barrier;
#[cfg(test)]
mod cluster_test;
mod disk;
mod entry;
mod format;
mod health;
mod leadership;
mod log;
mod machine;
mod member_address;
mod network;
mod node_file;
mod options;
mod planted;
mod proposer;
mod replica;
#[cfg(test)]
mod replica_test;
mod reserve;
mod salvage;
#[cfg(test)]
mod salvage_test;
mod serving;
mod snapshot;
mod snapshotter;
mod status;
mod sweep;
#[cfg(test)]
mod testing;
mod transport;
mod vote;

pub use machine::{SnapshotSource, StateMachine};
pub use member_address::MemberAddress;
pub use node_file::NodeFile;
pub use options::Options;
pub use proposer::Hurry;
pub use replica::Replica;
pub use salvage::{Foundation, Salvage, Salvaged, found, salvage};
pub use serving::RaftService;
pub use status::{Holds, LeaderState, Member, Mode, Status};
pub use transport::{RaftTransport, RpcTransport};
