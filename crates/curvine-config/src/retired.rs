//! Keys of earlier config files that mean nothing any more: accepted with a warning that says why, so that an existing file
//! keeps working and nobody believes that such a key does something.

/// What happens to a retired key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Accepted with this reason.
    Warn(&'static str),
    /// `false` is what happens anyway; `true` is refused with this reason.
    MustBeFalse(&'static str),
}

use Fate::{MustBeFalse, Warn};

const NEVER_FORMAT: &str = "nothing is ever formatted at a start, delete the directories by hand if you mean it";
const RUNTIME: &str = "the runtime sizes its threads by the machine";
const POOLS: &str = "connections are multiplexed, there is no pool to size";
const CHUNKS: &str = "data moves in requests of up to 1 MB, see client.read_window and client.write_window";
const RETRIES: &str = "every operation has one deadline that includes its retries, see client.rpc_timeout_ms";
const RAFT: &str = "elections are timed by the replicas themselves, and one master alone leads at once";
const SNAPSHOTS: &str = "snapshots follow the bytes of log written, see journal.snapshot_log_size";
const WEB: &str = "see fuse.web_port";
const LOSS: &str = "a worker is lost when its lease ends, see master.lease_time";
const REPLICAS: &str = "this version keeps one replica of a block";
const TTL: &str = "times to live are set on paths, with cv ttl";
const QUOTA: &str = "eviction is the workers' own, by the quotas of worker.data_dir";
const AUDIT: &str = "this version writes no audit log";
const LEASES: &str = "caching follows leases, not timers";
const MODES: &str = "the I/O mode is chosen for each open file by who else has it open";
const UFS_REPLAY: &str = "this version does not write to under file systems";
const LOGS: &str = "logs go to standard output, see [log]";
const JOBS: &str = "this version has no jobs, cv load does its work itself";

/// Section, key (`*`: the whole section), fate. Sections of one meaning share a line of reasons.
#[rustfmt::skip]
pub(crate) const RETIRED: &[(&str, &[&str], Fate)] = &[
    ("", &["format_master", "format_worker"], MustBeFalse(NEVER_FORMAT)),

    ("master", &["meta_dir"], Warn("metadata are in memory, made durable by log and snapshots in journal.journal_dir")),
    ("master", &["io_threads", "worker_threads", "actor_threads", "executor_threads", "meta_request_concurrent"], Warn(RUNTIME)),
    ("master", &["io_timeout", "io_close_idle"], Warn("dead connections are found by pings")),
    ("master", &["min_block_size", "max_block_size"], Warn("new files have master.block_size")),
    ("master", &["min_replication", "max_replication", "block_replication_enabled", "block_replication_concurrency_limit",
                 "block_replication_retry_interval"], Warn(REPLICAS)),
    ("master", &["max_path_len", "max_path_depth"], Warn("requests name a parent directory and a name, never a path")),
    ("master", &["retry_cache_enable", "retry_cache_size", "retry_cache_ttl"], Warn("each session's last 1,024 results are kept in the log, always")),
    ("master", &["block_report_limit", "heartbeat_interval"], Warn("heartbeats follow master.lease_time, reports are paged by size")),
    ("master", &["worker_check_interval", "worker_blacklist_interval", "worker_lost_interval"], Warn(LOSS)),
    ("master", &["worker_policy"], Warn("new files go to the writer's own node if it has a worker")),
    ("master", &["audit_logging_enabled"], Warn(AUDIT)),
    ("master", &["ttl_checker_interval", "ttl_bucket_interval", "ttl_checker_retry_attempts", "ttl_max_retry_duration"], Warn(TTL)),
    ("master", &["enable_quota_eviction", "quota_eviction_mode", "quota_eviction_policy", "quota_eviction_high_rate",
                 "quota_eviction_low_rate", "quota_eviction_scan_page", "quota_eviction_dry_run", "quota_eviction_capacity"], Warn(QUOTA)),
    ("master", &["lock_expire_time"], Warn("locks end with their session, see master.lease_time")),
    ("master", &["conn_limit", "global_limit"], Warn("see master.max_connections and master.memory_limit")),
    ("master", &["log"], Warn(LOGS)),
    ("master", &["compatibility"], Warn("versions are compared in the first frame of each connection")),

    ("journal", &["enable"], Warn("there is always a log")),
    ("journal", &["group_name"], Warn("a cluster is told apart by its UUID")),
    ("journal", &["io_threads"], Warn(RUNTIME)),
    ("journal", &["writer_channel_size", "writer_flush_batch_size", "writer_flush_batch_ms"], Warn("a batch is closed when the one before it is durable")),
    ("journal", &["snapshot_interval", "snapshot_entries", "retain_checkpoint_num"], Warn(SNAPSHOTS)),
    ("journal", &["raft_tick_interval_ms", "raft_election_tick", "raft_heartbeat_tick", "raft_min_election_ticks",
                  "raft_max_election_ticks", "raft_check_quorum", "raft_max_inflight_msgs"], Warn(RAFT)),
    ("journal", &["conn_timeout_ms", "io_timeout_ms", "ignore_reply_error", "max_retry_num", "retry_interval_secs"], Warn(RETRIES)),
    ("journal", &["skip_failed_ufs_replay_after_retry", "scan_batch_size", "ufs_copy_timeout"], Warn(UFS_REPLAY)),

    ("worker", &["weight"], Warn("files go where there is room")),
    ("worker", &["io_slow_threshold"], Warn("slow requests are not logged by this version")),
    ("worker", &["io_threads", "executor_threads", "scheduler_threads"], Warn("see worker.disk_threads; the rest is sized by the machine")),
    ("worker", &["io_timeout"], Warn("every request carries its own deadline")),
    ("worker", &["enable_splice", "enable_send_file", "pipe_buf_size", "pipe_pool_init_cap", "pipe_pool_max_cap", "pipe_pool_idle_time"],
                Warn("sendfile is used wherever it can be")),
    ("worker", &["block_replication_concurrency_limit", "block_replication_chunk_size"], Warn(REPLICAS)),
    ("worker", &["spdk_disk"], Warn("tier directories are file systems, a file there must be open to the kernel")),
    ("worker", &["log"], Warn(LOGS)),

    ("client", &["io_threads"], Warn(RUNTIME)),
    ("client", &["replicas"], Warn(REPLICAS)),
    ("client", &["block_size"], Warn("one value for the cluster, see master.block_size")),
    ("client", &["write_chunk_size", "write_chunk_num", "read_chunk_size", "read_chunk_num", "read_parallel", "max_read_parallel",
                 "enable_read_ahead", "drop_cache_len", "enable_smart_prefetch", "large_file_size", "small_file_size",
                 "sequential_read_threshold", "max_cache_block_handles"], Warn(CHUNKS)),
    ("client", &["short_circuit"], Warn("the local worker's Unix socket is used wherever it is there, see worker.socket_path")),
    ("client", &["storage_type"], Warn("the worker chooses among its tiers in configured order")),
    ("client", &["ttl_ms", "ttl_action"], Warn(TTL)),
    ("client", &["auto_cache_enabled", "enable_unified_fs", "enable_rust_read_ufs"], Warn("what is read through a mount of an under file system is always cached")),
    ("client", &["conn_retry_max_duration_ms", "conn_retry_min_sleep_ms", "conn_retry_max_sleep_ms", "rpc_retry_max_duration_ms",
                 "rpc_retry_min_sleep_ms", "rpc_retry_max_sleep_ms", "max_sync_wait_timeout_ms"], Warn(RETRIES)),
    ("client", &["master_conn_pool_size", "enable_block_conn_pool", "block_conn_idle_size", "block_conn_idle_time_ms"], Warn(POOLS)),
    ("client", &["failed_worker_ttl_ms"], Warn(LOSS)),
    ("client", &["audit_logging_enabled"], Warn(AUDIT)),
    ("client", &["mount_update_ttl_ms"], Warn("the master knows the mount table")),
    ("client", &["log"], Warn(LOGS)),

    ("fuse", &["metrics_enabled"], Warn(WEB)),
    ("fuse", &["mnt_number", "tasks_per_mnt", "mnt_per_task", "worker_threads"], Warn("one mount, with fuse.io_threads readers")),
    ("fuse", &["umask"], Warn("the kernel applies each process's own umask")),
    ("fuse", &["negative_timeout_ms", "enable_meta_cache", "meta_cache_timeout", "meta_cache_capacity", "meta_cache_ttl",
               "node_cache_timeout", "node_cache_size", "cache_readdir", "open_direct_on_stale"], Warn(LEASES)),
    ("fuse", &["direct_io", "non_seekable"], Warn(MODES)),
    ("fuse", &["write_back_cache"], Warn("a write is answered when it is safe; the kernel's write-back cache is never asked for")),
    ("fuse", &["check_permission"], Warn("the kernel always checks permissions")),
    ("fuse", &["state_dir"], Warn("no state is kept in files")),
    ("fuse", &["list_limit"], Warn("directories are read in pages of the kernel's own size")),
    ("fuse", &["enable_splice", "path_lock_stripes"], Warn("requests name inodes, and data goes from the socket's buffer to the kernel")),
    ("fuse", &["audit_logging_enabled"], Warn(AUDIT)),
    ("fuse", &["log"], Warn(LOGS)),

    ("log", &["log_dir", "file_name", "max_log_files", "display_thread", "display_position", "targets"], Warn("logs go to standard output, let the service manager keep them")),
    ("cli", &["log", "log_dir", "file_name"], Warn("the tool's log goes to standard error")),

    ("job", &["*"], Warn(JOBS)),
    ("transfer", &["*"], Warn("there is no transfer service, cv load does its work itself")),
    ("fault_injection", &["*"], Warn("faults are injected by tests, not by running processes")),
    ("s3_gateway", &["*"], Warn("this version has no S3 gateway")),
];

/// The fate of a key that is not known; `None`: it never was.
pub(crate) fn fate(section: &str, key: &str) -> Option<Fate> {
    RETIRED.iter().find(|(of, keys, _)| *of == section && keys.contains(&key)).map(|(_, _, fate)| *fate)
}
