//! What a client can be told. Every queue, cache and wait of the client has its limit here.

use std::path::Path;
use std::time::Duration;

use curvine_proto::{Caller, SessionKind};
use curvine_types::Secret;

/// Settings of one [`crate::FileSystem`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Addresses of the masters, `host:port` or `unix:/path`.
    pub master_addrs: Vec<String>,
    /// Of this machine; a worker with the same one is local.
    pub hostname: String,
    /// Stable name of this client, for example host and mount path.
    pub client_name: String,
    pub kind: SessionKind,
    pub secret: Secret,
    /// An earlier session of the same name is known to be dead.
    pub replace: bool,
    /// Who acts, for sessions whose permissions the master checks.
    pub caller: Option<Caller>,
    /// Deadline of an operation on metadata.
    pub rpc_timeout: Duration,
    /// Deadline of one request for data; an operation goes on with other attempts until both timeouts together have passed.
    pub data_timeout: Duration,
    /// Deadline of connecting to one address.
    pub connect_timeout: Duration,
    /// Connections to each worker.
    pub worker_connections: usize,
    /// Requests of up to 1 MiB in flight for one read, and the most MiB that are read ahead for one handle.
    pub read_window: usize,
    /// Write requests in flight for one handle.
    pub write_window: usize,
    /// Bytes of file data in flight or read ahead, over all handles.
    pub memory_limit: u64,
    /// Inodes whose attributes are cached.
    pub cached_inodes: usize,
    /// Names, present and absent, that are cached over all directories.
    pub cached_names: usize,
    /// Mutations in flight; below the result window of the master.
    pub mutations_in_flight: usize,
    /// Handles open at once.
    pub open_handles: usize,
    /// Recalls whose notifications are on their way at once.
    pub notifications_in_flight: usize,
    /// Longest time that anybody may believe an attribute or a name without asking.
    pub max_ttl: Duration,
    /// How long a list of workers is used before it is asked for again.
    pub worker_list_ttl: Duration,
    /// Small writes through one handle that may go into the metadata before the file gets a place on a worker.
    pub inline_writes: usize,
    /// A planted fault: recalls are answered and nothing is given up. Whoever tests coherence must be able to find it.
    pub ignore_recalls: bool,
}

impl ClientOptions {
    /// Defaults for a client of these masters.
    pub fn new(master_addrs: Vec<String>, client_name: impl Into<String>) -> Self {
        Self { master_addrs, client_name: client_name.into(), ..Self::default() }
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            master_addrs: vec!["127.0.0.1:8995".into()],
            hostname: local_hostname(),
            client_name: "client".into(),
            kind: SessionKind::Library,
            secret: Secret::default(),
            replace: false,
            caller: None,
            rpc_timeout: Duration::from_secs(30),
            data_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            worker_connections: 2,
            read_window: 16,
            write_window: 8,
            memory_limit: 256 << 20,
            cached_inodes: 200_000,
            cached_names: 400_000,
            mutations_in_flight: 512,
            open_handles: 1 << 20,
            notifications_in_flight: 32,
            max_ttl: Duration::from_secs(10),
            worker_list_ttl: Duration::from_secs(5),
            inline_writes: 4,
            ignore_recalls: false,
        }
    }
}

/// The name that the kernel gives this machine.
pub fn local_hostname() -> String {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname"))
        .map(|name| name.trim().to_string())
        .unwrap_or_else(|_| "localhost".into())
}

impl From<&curvine_config::ClusterConf> for ClientOptions {
    /// What the file says. The name, the kind of session, the caller and the secret (`ClusterConf::secret`) are the program's to add.
    fn from(conf: &curvine_config::ClusterConf) -> Self {
        let client = &conf.client;
        Self {
            master_addrs: client.master_addrs.clone(),
            hostname: client.hostname.clone(),
            rpc_timeout: client.rpc_timeout_ms,
            data_timeout: client.data_timeout_ms,
            connect_timeout: client.conn_timeout_ms,
            worker_connections: client.worker_connections,
            read_window: client.read_window,
            write_window: client.write_window,
            memory_limit: client.memory_limit,
            cached_inodes: client.cached_inodes,
            cached_names: client.cached_names,
            mutations_in_flight: client.mutations_in_flight,
            open_handles: client.open_handles,
            worker_list_ttl: client.worker_list_ttl,
            inline_writes: client.inline_writes,
            ..Self::default()
        }
    }
}
