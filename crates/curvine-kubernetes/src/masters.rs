//! Where the masters of a runtime are: their names in the order of their numbers, which never changes when others come or go.

use crate::identity::{Component, Identity, ordinal};
use crate::runtime::{Part, Runtime};

/// The host names of the masters, number 0 first. Not empty if anything is known of the runtime.
pub fn hosts(runtime: Option<&Runtime>, identity: &Identity) -> Vec<String> {
    let named = match runtime.and_then(|runtime| runtime.master.as_ref()) {
        Some(master) if !master.service.is_empty() && !master.name.is_empty() => replicas(master, identity),
        Some(master) if !master.pods.is_empty() && !master.service.is_empty() => pods(master, identity),
        _ => Vec::new(),
    };
    if !named.is_empty() {
        return named;
    }
    if identity.component == Some(Component::Master) {
        return vec![identity.reachable_name()];
    }
    guesses(&identity.dataset, identity)
}

fn replicas(master: &Part, identity: &Identity) -> Vec<String> {
    // A pod that runs although the file does not count it yet (or any more) knows itself.
    let own = match identity.component {
        Some(Component::Master) => identity.ordinal().map_or(0, |own| own.saturating_add(1)),
        _ => 0,
    };
    let count = master.replicas.max(1).max(own.min(64));
    (0..count).map(|number| in_service(&format!("{}-{number}", master.name), &master.service, identity)).collect()
}

/// Those that are ready, by number: names sort wrongly, master-10 before master-2.
fn pods(master: &Part, identity: &Identity) -> Vec<String> {
    let mut pods = master.pods.clone();
    if identity.component == Some(Component::Master) && !pods.contains(&identity.pod) {
        pods.push(identity.pod.clone());
    }
    pods.sort_by_key(|pod| (ordinal(pod), pod.clone()));
    pods.iter().map(|pod| in_service(pod, &master.service, identity)).collect()
}

/// Of a runtime of which only the name is known: the first master under both schemas' names of its service.
pub fn guesses(runtime: &str, identity: &Identity) -> Vec<String> {
    if runtime.is_empty() {
        return Vec::new();
    }
    let pod = format!("{runtime}-master-0");
    let services = [format!("svc-{runtime}-master"), format!("{runtime}-master")];
    services.iter().map(|service| in_service(&pod, service, identity)).collect()
}

fn in_service(pod: &str, service: &str, identity: &Identity) -> String {
    match identity.namespace.as_str() {
        // The search list of the pod completes it.
        "" => format!("{pod}.{service}"),
        namespace => format!("{pod}.{service}.{namespace}.svc.{}", identity.domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(component: Option<Component>, pod: &str) -> Identity {
        Identity {
            component,
            namespace: "ns".into(),
            domain: "cluster.local".into(),
            pod: pod.into(),
            dataset: "d".into(),
            ..Identity::default()
        }
    }

    fn runtime(master: Part) -> Runtime {
        Runtime { master: Some(master), ..Runtime::default() }
    }

    #[test]
    fn masters_are_in_the_order_of_their_numbers() {
        let master = Part { name: "d-master".into(), service: "svc-d-master".into(), replicas: 12, ..Part::default() };
        let hosts = hosts(Some(&runtime(master)), &identity(None, "x"));
        assert_eq!(hosts.len(), 12);
        assert_eq!(hosts[2], "d-master-2.svc-d-master.ns.svc.cluster.local");
        assert_eq!(hosts[10], "d-master-10.svc-d-master.ns.svc.cluster.local");
    }

    #[test]
    fn ready_pods_of_the_older_schema_are_ordered_by_number_too() {
        let pods = ["d-master-10", "d-master-2", "d-master-0"].map(String::from).to_vec();
        let master = Part { service: "d-master".into(), pods, ..Part::default() };
        let names = hosts(Some(&runtime(master)), &identity(Some(Component::Master), "d-master-1"));
        let numbers: Vec<Option<u32>> = names.iter().map(|name| ordinal(name.split('.').next().unwrap())).collect();
        assert_eq!(numbers, [Some(0), Some(1), Some(2), Some(10)]);
    }

    #[test]
    fn before_the_file_is_written_the_first_master_is_found_by_its_name() {
        let names = hosts(None, &identity(Some(Component::Client), "d-client-abc"));
        assert_eq!(names, ["d-master-0.svc-d-master.ns.svc.cluster.local", "d-master-0.d-master.ns.svc.cluster.local"]);
        let own = Identity { fqdn: "own.name".into(), ..identity(Some(Component::Master), "d-master-0") };
        assert_eq!(hosts(None, &own), ["own.name"]);
    }

    #[test]
    fn a_master_that_is_being_added_counts_itself() {
        let master = Part { name: "d-master".into(), service: "s".into(), replicas: 1, ..Part::default() };
        assert_eq!(hosts(Some(&runtime(master)), &identity(Some(Component::Master), "d-master-2")).len(), 3);
    }
}
