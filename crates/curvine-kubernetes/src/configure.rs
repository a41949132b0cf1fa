//! From the file of the runtime and the pod's identity to a config.
//!
//! What holds, the strongest first: the environment (`CURVINE_MASTER_HOSTNAME` and its like), options of the runtime, the config file
//! that `CURVINE_CONF_FILE` names, facts that follow from the runtime, built-in defaults.

use std::path::{Path, PathBuf};

use curvine_config::ClusterConf;
use curvine_types::Result;

use crate::identity::{Component, Identity};
use crate::runtime::{Part, Runtime};
use crate::{masters, options, tiers};

/// The master's log, unless said otherwise.
const JOURNAL_DIR: &str = "/var/lib/curvine/journal";
/// Where the cluster secret is if the pod was given one.
const SECRET_FILE: &str = "/etc/curvine/secret/secret";
/// Longest path of a Unix socket, without the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// A config and what its maker has to say.
#[derive(Clone, Debug)]
pub struct Settings {
    pub conf: ClusterConf,
    pub warnings: Vec<String>,
}

/// The config of this pod. `component` is `None` in pods that only ask, as those of data operations.
pub fn configure(
    component: Option<Component>,
    runtime: Option<&Runtime>,
    identity: &Identity,
    conf_file: Option<&Path>,
) -> Result<Settings> {
    let amend =
        |conf: &mut ClusterConf, warnings: &mut Vec<String>| amend(conf, component, runtime, identity, warnings);
    let (conf, warnings) = ClusterConf::load_with(conf_file, amend)?;
    Ok(Settings { conf, warnings })
}

fn amend(
    conf: &mut ClusterConf,
    component: Option<Component>,
    runtime: Option<&Runtime>,
    identity: &Identity,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let defaults = ClusterConf::default();
    let part = |component: Component| -> Option<&Part> {
        let runtime = runtime?;
        match component {
            Component::Master => runtime.master.as_ref(),
            Component::Worker => runtime.worker.as_ref(),
            Component::Client => runtime.client.as_ref(),
        }
    };
    // Everybody needs the ports of the masters; only the masters warn about their options.
    if let Some(master) = part(Component::Master) {
        let mut of_master = Vec::new();
        let mut ports = conf.clone();
        options::apply(&mut ports, Component::Master, &master.options, &mut of_master)?;
        conf.master.rpc_port = ports.master.rpc_port;
        conf.journal.rpc_port = ports.journal.rpc_port;
    }
    if component == Some(Component::Worker) {
        // A pod that is told to stop may be one that is scaled away; nobody says which.
        conf.worker.drain_on_stop = true;
    }
    if let Some((component, part)) = component.and_then(|component| Some((component, part(component)?))) {
        options::apply(conf, component, &part.options, warnings)?;
    }
    if conf.general.cluster_id == defaults.general.cluster_id && !identity.dataset.is_empty() {
        conf.general.cluster_id = format!("{}/{}", identity.namespace, identity.dataset);
    }
    if conf.general.bind_hostname.is_empty() {
        conf.general.bind_hostname = if identity.pod_ip.contains(':') { "::" } else { "0.0.0.0" }.to_string();
    }
    if conf.security.secret_file.as_os_str().is_empty() && Path::new(SECRET_FILE).exists() {
        conf.security.secret_file = SECRET_FILE.into();
    }
    if conf.client.hostname == defaults.client.hostname {
        conf.client.hostname = if identity.node.is_empty() { identity.pod.clone() } else { identity.node.clone() };
    }
    let hosts = masters::hosts(runtime, identity);
    if conf.client.master_addrs.is_empty() {
        conf.client.master_addrs = hosts.iter().map(|host| address(host, conf.master.rpc_port)).collect();
    }
    match component {
        Some(Component::Master) => master(conf, &defaults, &hosts, identity),
        Some(Component::Worker) => {
            let levels = part(Component::Worker).map(|part| part.levels.as_slice()).unwrap_or_default();
            worker(conf, &defaults, levels, identity, warnings)?;
        }
        Some(Component::Client) => client(conf, &defaults, runtime, identity),
        None => {}
    }
    Ok(())
}

fn master(conf: &mut ClusterConf, defaults: &ClusterConf, hosts: &[String], identity: &Identity) {
    let own = identity.ordinal().and_then(|own| hosts.get(own as usize)).filter(|_| hosts.len() > 1);
    let own = own.cloned().unwrap_or_else(|| identity.reachable_name());
    if conf.master.hostname == defaults.master.hostname {
        conf.master.hostname = own.clone();
    }
    if conf.journal.hostname == defaults.journal.hostname {
        conf.journal.hostname = own;
    }
    if conf.journal.journal_dir.as_os_str().is_empty() {
        conf.journal.journal_dir = JOURNAL_DIR.into();
    }
    if conf.journal.journal_addrs.is_empty() && hosts.len() > 1 {
        conf.journal.journal_addrs = hosts.iter().map(|host| address(host, conf.journal.rpc_port)).collect();
    }
}

fn worker(
    conf: &mut ClusterConf,
    defaults: &ClusterConf,
    levels: &[crate::runtime::Level],
    identity: &Identity,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if conf.worker.hostname == defaults.worker.hostname {
        // An address needs no DNS, which lags behind a pod that comes back; in a URL one of IPv6 would need brackets.
        let plain = !identity.pod_ip.is_empty() && !identity.pod_ip.contains(':');
        conf.worker.hostname = if plain { identity.pod_ip.clone() } else { identity.reachable_name() };
    }
    if conf.worker.node.is_empty() {
        conf.worker.node = identity.node.clone();
    }
    if conf.worker.data_dir.is_empty() {
        conf.worker.data_dir = tiers::data_dirs(levels, identity, tiers::kind_of, warnings)?;
    }
    if conf.worker.socket_path.as_os_str().is_empty()
        && let Some(dir) = &identity.socket_dir
    {
        let path: PathBuf = dir.join(format!("{}.sock", tiers::own_name(identity)));
        if path.as_os_str().len() <= SOCKET_PATH_MAX {
            conf.worker.socket_path = path;
        } else {
            warnings.push(format!("{} is too long for a Unix socket: clients of this node use TCP", path.display()));
        }
    }
    Ok(())
}

fn client(conf: &mut ClusterConf, defaults: &ClusterConf, runtime: Option<&Runtime>, identity: &Identity) {
    let target = identity.mount_path.clone().or_else(|| runtime.and_then(|runtime| runtime.target_path.clone()));
    if let Some(target) = target.filter(|_| conf.fuse.mnt_path == defaults.fuse.mnt_path) {
        conf.fuse.mnt_path = target;
    }
}

/// `host:port`, with brackets where IPv6 needs them.
pub fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
#[path = "configure_test.rs"]
mod tests;
