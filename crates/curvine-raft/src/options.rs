//! The limits and directories of one replica.

use std::path::PathBuf;
use std::time::Duration;

use curvine_types::limits;

/// How a replica works; [`Options::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory made by `Replica::create`.
    pub dir: PathBuf,
    /// A log segment is closed when it has grown to this many bytes.
    pub segment_bytes: u64,
    /// A snapshot is taken when at least this many bytes of log, and as many as the last snapshot has, were written since it. So
    /// a small state restarts fast, and a large one is not written more often than the log itself.
    pub snapshot_log_bytes: u64,
    /// Snapshot files kept, the log behind the oldest of them too; at least 1.
    pub snapshots_kept: usize,
    /// Most commands in one log entry.
    pub batch_commands: usize,
    /// Most bytes in one log entry, unless a single command is larger.
    pub batch_bytes: usize,
    /// How long the state's lock is held while an entry is applied, plus one command: then readers get a turn.
    pub apply_hold: Duration,
    /// Log entries proposed and not yet applied. 1 gathers the largest entries and is the fastest up to some hundred callers
    /// (measured: 64 callers 125,000 commands/s, with 2 entries 91,000).
    pub entries_in_flight: usize,
    /// How long a command that is in no hurry waits for an entry that others make.
    pub gather_time: Duration,
    /// Commands that may wait for a batch; beyond: `Overloaded`.
    pub queue_limit: usize,
    /// Bytes of commands that may wait for a batch; beyond: `Overloaded`.
    pub queue_bytes: usize,
    /// Bytes of recent log entries kept in memory, so that applying and replicating them reads no file.
    pub cache_bytes: usize,
    /// Bytes of disk set aside, so that a full disk can be left in order; 0: none. A disk with less than twice that is taken for full.
    pub disk_reserve: u64,
    /// How long a proposal or a read barrier may take before it fails with `TimedOut`.
    pub request_timeout: Duration,
    /// How often a leader tells its followers that it is there.
    pub heartbeat: Duration,
    /// A follower that has heard nothing for a random time between this and twice as long starts an election.
    pub election_timeout: Duration,
    /// Longest wait for a follower to take one part of a snapshot.
    pub snapshot_timeout: Duration,
    /// Where other replicas reach this one, `host:port`; kept in the membership when the cluster is first started.
    pub address: String,
    /// A list of disk faults that a test plants; see `planted`.
    pub planted_faults: Option<PathBuf>,
    /// Whether a replica without any log starts a cluster of its own (one voter) or waits to be added to one.
    pub bootstrap: bool,
}

impl Options {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            snapshot_log_bytes: 64 << 20,
            snapshots_kept: 2,
            batch_commands: limits::BATCH_COMMANDS_MAX,
            batch_bytes: limits::BATCH_BYTES_MAX,
            apply_hold: Duration::from_micros(100),
            entries_in_flight: 1,
            gather_time: Duration::from_millis(2),
            queue_limit: 65_536,
            queue_bytes: 64 << 20,
            cache_bytes: 16 << 20,
            disk_reserve: 32 << 20,
            request_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_millis(250),
            election_timeout: Duration::from_millis(1000),
            snapshot_timeout: Duration::from_secs(10),
            address: String::new(),
            planted_faults: None,
            bootstrap: true,
        }
    }
}
