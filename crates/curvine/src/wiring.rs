//! From the config to the settings of each role.

use std::path::PathBuf;

use curvine_client::ClientOptions;
use curvine_config::ClusterConf;
use curvine_master::MasterOptions;
use curvine_proto::{Caller, SessionKind};
use curvine_raft::MemberAddress;
use curvine_rpc::{Budget, Limits};
use curvine_types::Result;
use curvine_worker::WorkerOptions;

/// The address that a server of `hostname` binds.
pub fn bind_address(conf: &ClusterConf, hostname: &str, port: u16) -> String {
    let host = if conf.general.bind_hostname.is_empty() { hostname } else { &conf.general.bind_hostname };
    // An IPv6 address needs brackets before a port.
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The master's settings.
pub fn master(conf: &ClusterConf) -> Result<MasterOptions> {
    let limits = Limits {
        max_connections: conf.master.max_connections,
        inflight_bytes: Budget::new(usize::try_from(conf.master.memory_limit).unwrap_or(usize::MAX)),
        ..Limits::default()
    };
    let planted = std::env::var_os("CURVINE_FAULT_LOG_DISK").filter(|_| conf.general.testing);
    Ok(MasterOptions {
        masters: conf.journal.journal_addrs.clone(),
        log_address: log_address(conf),
        log_bind: bind_address(conf, &conf.journal.hostname, conf.journal.rpc_port),
        planted_log_faults: planted.map(PathBuf::from),
        hostname: conf.master.hostname.clone(),
        bind: bind_address(conf, &conf.master.hostname, conf.master.rpc_port),
        secret: conf.secret()?,
        lease_time: conf.master.lease_time,
        lease_limit: conf.master.lease_limit,
        block_size: conf.master.block_size,
        root_mode: conf.master.root_mode,
        limits,
        snapshot_log_bytes: conf.journal.snapshot_log_size,
        ..MasterOptions::new(&conf.journal.journal_dir)
    })
}

/// How this master is entered among the members of the log.
pub fn member_address(conf: &ClusterConf) -> String {
    MemberAddress { log: log_address(conf), rpc: format!("{}:{}", conf.master.hostname, conf.master.rpc_port) }
        .to_string()
}

/// Where the other masters reach the log of this one.
fn log_address(conf: &ClusterConf) -> String {
    format!("{}:{}", conf.journal.hostname, conf.journal.rpc_port)
}

/// The settings of a mount's client.
pub fn mount_client(conf: &ClusterConf, client_name: String, replace: bool) -> Result<ClientOptions> {
    let secret = conf.secret()?;
    let ignore_recalls =
        conf.general.testing && std::env::var_os("CURVINE_FAULT_IGNORE_RECALLS").is_some_and(|set| set == "1");
    if ignore_recalls {
        tracing::warn!("recalls are ignored, as a fault that a test planted");
    }
    let kind = SessionKind::Mount;
    Ok(ClientOptions { client_name, kind, secret, replace, ignore_recalls, ..ClientOptions::from(conf) })
}

/// The settings of a tool's client: the master checks what its user may do.
pub fn tool_client(conf: &ClusterConf) -> Result<ClientOptions> {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let caller = Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
    };
    Ok(ClientOptions {
        client_name: format!("cv on {}, process {}", curvine_client::local_hostname(), std::process::id()),
        kind: SessionKind::Library,
        secret: conf.secret()?,
        caller: Some(caller),
        ..ClientOptions::from(conf)
    })
}

/// The worker's settings.
pub fn worker(conf: &ClusterConf) -> Result<WorkerOptions> {
    Ok(WorkerOptions {
        bind: bind_address(conf, &conf.worker.hostname, conf.worker.rpc_port),
        socket: worker_socket(conf),
        ..WorkerOptions::from_conf(conf)?
    })
}

/// Longest path of a Unix socket, without the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// The worker's Unix socket: as configured, or in the first tier directory if the path fits.
pub fn worker_socket(conf: &ClusterConf) -> Option<PathBuf> {
    let configured = &conf.worker.socket_path;
    if configured.as_os_str() == "none" {
        return None;
    }
    if !configured.as_os_str().is_empty() {
        return Some(configured.clone());
    }
    let path = std::path::absolute(conf.worker.data_dir.first()?.path.join("worker.sock")).ok()?;
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        tracing::warn!(path = %path.display(), "too long for a Unix socket, clients of this machine use TCP; see worker.socket_path");
        return None;
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_bind_their_own_name_unless_told_otherwise() {
        let mut conf = ClusterConf::default();
        assert_eq!(bind_address(&conf, "m0", 1), "m0:1");
        conf.general.bind_hostname = "::".into();
        assert_eq!(bind_address(&conf, "m0", 1), "[::]:1");
    }

    #[test]
    fn the_socket_is_in_the_first_tier_directory_or_where_it_is_told() {
        let conf = |text: &str| ClusterConf::parse(text, "test").unwrap().0;
        let dirs = "[worker]\ndata_dir = [\"[MEM]/mem\", \"/ssd\"]\n";
        assert_eq!(worker_socket(&conf(dirs)), Some("/mem/worker.sock".into()));
        assert_eq!(worker_socket(&conf(&format!("{dirs}socket_path = \"/run/w\""))), Some("/run/w".into()));
        assert_eq!(worker_socket(&conf(&format!("{dirs}socket_path = \"none\""))), None);
        assert_eq!(worker_socket(&conf(&format!("[worker]\ndata_dir = [\"/{}\"]", "x".repeat(120)))), None);
    }
}
