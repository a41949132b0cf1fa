//! The replicated log: openraft behind a batch interface, segmented storage, snapshots.

mod machine;
mod node_file;
mod options;
mod replica;
mod status;

pub use machine::{SnapshotSource, StateMachine};
pub use node_file::NodeFile;
pub use options::Options;
pub use replica::Replica;
pub use status::{LeaderState, Member, Mode, Status};
