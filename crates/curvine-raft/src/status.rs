//! What a replica tells about itself.

use std::collections::BTreeMap;
use std::time::Duration;

/// Who leads, as this replica knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderState {
    /// This replica leads and has applied everything that was committed before it did: it may serve.
    pub leading: bool,
    /// The leader's node id, 0: nobody known.
    pub leader: u64,
    /// Where clients reach the leader, empty: nobody known.
    pub address: String,
    /// While `leading`: the number of this leadership, as `Replica::incarnation`.
    pub incarnation: u64,
}

/// Whether the replica can take changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All is well.
    Working,
    /// The disk is full: reads go on, changes are refused until there is space again.
    ReadOnly(String),
    /// The log could not be written or the consensus stopped: only a restart, after the cause is removed, helps.
    Failed(String),
}

/// A member of the replica set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: u64,
    /// The text of a [`MemberAddress`](crate::MemberAddress).
    pub address: String,
    pub voter: bool,
}

/// How long commands held the state's lock since the process started; time in which nobody could read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    pub longest: Duration,
    /// Holds of more than 1 ms.
    pub over_1ms: u64,
    /// Of each kind of command that ever took more than 200 us, how long it took at most.
    pub longest_by_command: BTreeMap<&'static str, Duration>,
}

/// Gauges and state, for status pages and metrics.
#[derive(Clone, Debug)]
pub struct Status {
    pub node: u64,
    pub mode: Mode,
    pub leader: LeaderState,
    pub term: u64,
    /// Index of the last log entry, 0: none.
    pub last_index: u64,
    /// Index of the last entry that the state machine has.
    pub applied: u64,
    /// Index of the newest snapshot, 0: none.
    pub snapshot_index: u64,
    /// Why the last attempt to take a snapshot failed.
    pub snapshot_error: Option<String>,
    /// Bytes of the log's segment files.
    pub log_bytes: u64,
    pub log_segments: usize,
    /// Bytes of log written since the newest snapshot.
    pub log_bytes_since_snapshot: u64,
    /// Bytes of log entries held in memory.
    pub cache_bytes: usize,
    /// How long the state's lock was held for commands.
    pub holds: Holds,
    /// Commands waiting for a batch.
    pub queue_commands: usize,
    /// Bytes of commands waiting for a batch.
    pub queue_bytes: usize,
    /// Log entries proposed and not yet applied.
    pub entries_in_flight: usize,
    /// Of a leader: how long ago a majority of the voters has answered it. It goes on being the leader without one, but nothing
    /// is acknowledged.
    pub majority_age: Duration,
    pub members: Vec<Member>,
}
