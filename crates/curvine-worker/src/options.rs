//! What a worker is started with.

use std::path::PathBuf;
use std::time::Duration;

use curvine_blockstore::{TierConfig, TierKind};
use curvine_config::{ClusterConf, DataDirKind};
use curvine_types::{Result, Secret};

/// Settings of one worker; every limit is a named field.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// `host:port` of each master.
    pub masters: Vec<String>,
    /// Name under which clients reach this worker.
    pub hostname: String,
    /// Name of the machine, if `hostname` is not it: who has the same one reaches this worker by its socket.
    pub node: String,
    /// The masters say which cluster this is, whatever lies in the directories: data of another one is left alone beside it.
    pub ask_cluster_first: bool,
    /// `host:port` to listen on; port 0 takes a free one.
    pub bind: String,
    /// Port of the web pages, told to the master; 0: none.
    pub web_port: u16,
    /// Unix socket for clients on this node.
    pub socket: Option<PathBuf>,
    /// Proves membership of the cluster.
    pub secret: Secret,
    /// Tier directories, fastest first.
    pub tiers: Vec<TierConfig>,
    /// Most bytes of data in memory: requests being received, replies being built, ranges being fetched.
    pub memory_limit: u64,
    /// Most disk operations at once.
    pub disk_threads: usize,
    /// Most requests at once to the store of one mount.
    pub ufs_concurrency: usize,
    /// Most bytes fetched beyond what a reader asked for.
    pub read_ahead_max: u64,
    /// Deadline of one request to a store, retries included.
    pub ufs_timeout: Duration,
    /// Deadline of one request to the master.
    pub master_timeout: Duration,
    /// Most file descriptors kept open.
    pub open_files: usize,
    /// How long a failed tier directory is left alone before it is tried again.
    pub probe_after: Duration,
    /// Largest file of an under file system that is copied whole when it is used on this node; 0: none.
    pub copy_max_size: u64,
    /// Percent of the tiers that such copies may take.
    pub copy_percent: u64,
    /// Most bytes of one mount that wait for their upload; 0: half of the tiers.
    pub dirty_limit: u64,
    /// How long a writer waits for room below that.
    pub dirty_wait: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            masters: Vec::new(),
            hostname: "localhost".to_string(),
            node: String::new(),
            ask_cluster_first: false,
            bind: "0.0.0.0:8997".to_string(),
            web_port: 0,
            socket: None,
            secret: Secret::default(),
            tiers: Vec::new(),
            memory_limit: 512 << 20,
            disk_threads: 32,
            ufs_concurrency: 64,
            read_ahead_max: 32 << 20,
            ufs_timeout: Duration::from_secs(20),
            master_timeout: Duration::from_secs(10),
            open_files: 4096,
            probe_after: Duration::from_secs(30),
            copy_max_size: 1 << 30,
            copy_percent: 30,
            dirty_limit: 0,
            dirty_wait: Duration::from_secs(20),
        }
    }
}

impl WorkerOptions {
    /// The settings of the sections `[worker]`, `[client]` (where the masters are) and `[security]`.
    pub fn from_conf(conf: &ClusterConf) -> Result<Self> {
        let worker = &conf.worker;
        let tiers: Vec<TierConfig> = worker
            .data_dir
            .iter()
            .map(|dir| TierConfig {
                dir: dir.path.clone(),
                kind: match dir.kind {
                    DataDirKind::Mem => TierKind::Mem,
                    DataDirKind::Ssd => TierKind::Ssd,
                    DataDirKind::Hdd => TierKind::Hdd,
                },
                quota: dir.quota,
                reserve: worker.dir_reserved,
                watermarks: dir.high.map(|high| (high, dir.low.unwrap_or(high))),
            })
            .collect();
        let socket = match worker.socket_path.to_str() {
            Some("none") => None,
            Some("") => tiers.first().map(|tier| tier.dir.join("worker.sock")),
            _ => Some(worker.socket_path.clone()),
        };
        let listen = if conf.general.bind_hostname.is_empty() { &worker.hostname } else { &conf.general.bind_hostname };
        Ok(Self {
            masters: conf.client.master_addrs.iter().map(ToString::to_string).collect(),
            hostname: worker.hostname.clone(),
            node: worker.node.clone(),
            ask_cluster_first: false,
            bind: if listen.contains(':') && !listen.starts_with('[') {
                format!("[{listen}]:{}", worker.rpc_port)
            } else {
                format!("{listen}:{}", worker.rpc_port)
            },
            web_port: worker.web_port,
            socket,
            secret: conf.secret()?,
            tiers,
            memory_limit: worker.memory_limit,
            disk_threads: worker.disk_threads,
            ufs_concurrency: worker.ufs_concurrency,
            read_ahead_max: worker.ufs_read_ahead,
            ufs_timeout: worker.ufs_timeout,
            master_timeout: worker.master_timeout,
            open_files: worker.open_files,
            probe_after: worker.probe_after,
            copy_max_size: worker.copy_max_size,
            copy_percent: worker.copy_percent as u64,
            dirty_limit: worker.dirty_limit,
            dirty_wait: worker.dirty_wait,
        })
    }
}
