//! Who this container is: what the environment, the kubelet's `/etc/hosts` and `/etc/resolv.conf` say of its pod.

use std::path::PathBuf;

use curvine_types::{Error, ErrorKind, Result};

/// A component of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Master,
    Worker,
    Client,
}

impl Component {
    pub const ALL: [Component; 3] = [Component::Master, Component::Worker, Component::Client];

    /// As Fluid writes it.
    pub fn name(self) -> &'static str {
        match self {
            Component::Master => "master",
            Component::Worker => "worker",
            Component::Client => "client",
        }
    }

    /// By the name that Fluid uses; `None`: another one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|component| component.name() == name)
    }
}

/// What is known of the pod. Empty texts: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// From `FLUID_RUNTIME_COMPONENT_TYPE`.
    pub component: Option<Component>,
    pub dataset: String,
    pub namespace: String,
    /// The file of the runtime.
    pub config_path: Option<PathBuf>,
    pub mount_path: Option<PathBuf>,
    /// The component's headless service.
    pub service: String,
    pub pod: String,
    pub pod_ip: String,
    pub node: String,
    /// The name under which other pods find this one.
    pub fqdn: String,
    /// `cluster.local`, unless the cluster has another domain.
    pub domain: String,
    /// Tier directories if the runtime names none.
    pub data_dir: String,
    /// Where sockets for clients of the same node go.
    pub socket_dir: Option<PathBuf>,
    /// The master that a data operation shall use, `host` or `host:port`.
    pub master: String,
    /// Where a role leaves the config that it runs with.
    pub run_dir: PathBuf,
}

impl Identity {
    /// Of this process.
    pub fn here() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::of(variable, &text("/proc/sys/kernel/hostname"), &text("/etc/hosts"), &text("/etc/resolv.conf"))
    }

    /// From the facts.
    pub fn of(variable: impl Fn(&str) -> Option<String>, hostname: &str, hosts: &str, resolv: &str) -> Self {
        let text = |name: &str| variable(name).unwrap_or_default();
        let pod = variable("POD_NAME").or_else(|| variable("HOSTNAME")).unwrap_or_else(|| hostname.trim().to_string());
        let namespace = variable("FLUID_DATASET_NAMESPACE").or_else(|| variable("POD_NAMESPACE")).unwrap_or_default();
        let domain = domain_of(resolv, &namespace).unwrap_or_else(|| "cluster.local".to_string());
        let service = text("FLUID_RUNTIME_COMPONENT_SVC_NAME");
        let in_service = || {
            (!service.is_empty() && !namespace.is_empty()).then(|| format!("{pod}.{service}.{namespace}.svc.{domain}"))
        };
        let fqdn = in_service().or_else(|| fqdn_of(hosts, &pod)).unwrap_or_default();
        Self {
            component: variable("FLUID_RUNTIME_COMPONENT_TYPE").and_then(|name| Component::from_name(&name)),
            dataset: text("FLUID_DATASET_NAME"),
            config_path: variable("FLUID_RUNTIME_CONFIG_PATH").map(Into::into),
            mount_path: variable("FLUID_RUNTIME_MOUNT_PATH").map(Into::into),
            pod_ip: text("POD_IP"),
            node: text("NODE_NAME"),
            data_dir: text("CURVINE_DATA_DIR"),
            socket_dir: variable("CURVINE_SOCKET_DIR").map(Into::into),
            master: text("CURVINE_MASTER"),
            run_dir: variable("CURVINE_RUN_DIR").unwrap_or_else(|| "/run/curvine".into()).into(),
            service,
            namespace,
            pod,
            fqdn,
            domain,
        }
    }

    /// The component, or how to say which it is. It is never guessed.
    pub fn component(&self) -> Result<Component> {
        self.component.ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                "which component is this? set FLUID_RUNTIME_COMPONENT_TYPE to master, worker or client",
            )
        })
    }

    /// The number at the end of the pod's name.
    pub fn ordinal(&self) -> Option<u32> {
        ordinal(&self.pod)
    }

    /// The best name for others to reach this pod by.
    pub fn reachable_name(&self) -> String {
        [&self.fqdn, &self.pod_ip, &self.pod].into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default()
    }
}

/// The number at the end of a pod's name.
pub fn ordinal(pod: &str) -> Option<u32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

/// The kubelet writes `10.0.0.5 pod.service.namespace.svc.cluster.local pod` for a pod in a headless service.
fn fqdn_of(hosts: &str, pod: &str) -> Option<String> {
    let prefix = format!("{pod}.");
    let names = |line: &str| {
        line.split('#').next().unwrap_or_default().split_whitespace().skip(1).map(str::to_string).collect()
    };
    let lines: Vec<Vec<String>> = hosts.lines().map(names).collect();
    lines.into_iter().flatten().find(|name| name.starts_with(&prefix) && name.contains(".svc."))
}

/// From the search list of the pod: `default.svc.cluster.local svc.cluster.local cluster.local`.
fn domain_of(resolv: &str, namespace: &str) -> Option<String> {
    let search = resolv.lines().rev().find_map(|line| line.trim().strip_prefix("search "))?;
    let prefix = format!("{namespace}.svc.");
    search
        .split_whitespace()
        .find_map(|name| name.strip_prefix(&prefix))
        .map(|domain| domain.trim_end_matches('.').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(variables: &[(&str, &str)], hosts: &str, resolv: &str) -> Identity {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        Identity::of(find, "curvine-demo-master-0\n", hosts, resolv)
    }

    #[test]
    fn a_pod_is_found_under_its_service() {
        let found = identity(
            &[
                ("FLUID_DATASET_NAMESPACE", "default"),
                ("FLUID_RUNTIME_COMPONENT_SVC_NAME", "svc-curvine-demo-master"),
                ("FLUID_RUNTIME_COMPONENT_TYPE", "master"),
            ],
            "",
            "search default.svc.corp.example svc.corp.example\n",
        );
        assert_eq!(found.fqdn, "curvine-demo-master-0.svc-curvine-demo-master.default.svc.corp.example");
        assert_eq!((found.component, found.ordinal()), (Some(Component::Master), Some(0)));
    }

    #[test]
    fn without_the_name_of_the_service_the_kubelet_says_it() {
        let hosts = "127.0.0.1 localhost\n10.1.2.3\tcurvine-demo-master-0.curvine-demo-master.ns.svc.cluster.local\tcurvine-demo-master-0\n";
        let found = identity(&[("FLUID_DATASET_NAMESPACE", "ns")], hosts, "");
        assert_eq!(found.fqdn, "curvine-demo-master-0.curvine-demo-master.ns.svc.cluster.local");
        let found = identity(&[("POD_IP", "10.1.2.3")], "", "");
        assert_eq!((found.fqdn.as_str(), found.reachable_name().as_str()), ("", "10.1.2.3"));
    }

    #[test]
    fn a_component_that_nobody_names_is_an_error_and_no_master() {
        let error = identity(&[("FLUID_RUNTIME_COMPONENT_TYPE", "sidecar")], "", "").component().unwrap_err();
        assert!(error.to_string().contains("FLUID_RUNTIME_COMPONENT_TYPE"));
    }

    #[test]
    fn ordinals_are_numbers() {
        assert_eq!((ordinal("a-master-10"), ordinal("client-x2b4z"), ordinal("plain")), (Some(10), None, None));
    }
}
