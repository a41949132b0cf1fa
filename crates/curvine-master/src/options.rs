//! What a master is started with.

use std::path::PathBuf;
use std::time::Duration;

use curvine_rpc::Limits;
use curvine_types::Secret;
use curvine_types::limits::BLOCK_SIZE_DEFAULT;

/// Settings of a master; [`MasterOptions::new`] has the defaults.
#[derive(Clone)]
pub struct MasterOptions {
    /// Log, snapshots and identity of this replica.
    pub journal_dir: PathBuf,
    /// Name by which clients and workers reach this master.
    pub hostname: String,
    /// Where to listen: `host:port`.
    pub bind: String,
    /// The logs of all masters, `host:port` each, this one's included; one or none: this master is alone.
    pub masters: Vec<String>,
    /// Which of them is this one.
    pub log_address: String,
    /// Where to listen for the other masters; only if there are any.
    pub log_bind: String,
    pub secret: Secret,
    /// How long a session or a worker lives without being heard.
    pub lease_time: Duration,
    /// Leases over all sessions; beyond it replies come without.
    pub lease_limit: usize,
    /// Unit of placement of new files, in bytes.
    pub block_size: u64,
    /// Owner and mode of the root directory of a new cluster.
    pub root_mode: u32,
    pub limits: Limits,
    /// A snapshot is taken when this many bytes of log have been written since the last one.
    pub snapshot_log_bytes: u64,
    /// A list of disk faults of the log that a test plants.
    pub planted_log_faults: Option<PathBuf>,
}

impl MasterOptions {
    /// The defaults for a journal directory.
    pub fn new(journal_dir: impl Into<PathBuf>) -> Self {
        Self {
            journal_dir: journal_dir.into(),
            hostname: "localhost".to_string(),
            bind: "127.0.0.1:8995".to_string(),
            masters: Vec::new(),
            log_address: String::new(),
            log_bind: "127.0.0.1:8996".to_string(),
            secret: Secret::default(),
            lease_time: Duration::from_secs(10),
            lease_limit: 8 << 20,
            block_size: BLOCK_SIZE_DEFAULT,
            root_mode: 0o755,
            limits: Limits::default(),
            snapshot_log_bytes: 64 << 20,
            planted_log_faults: None,
        }
    }
}
