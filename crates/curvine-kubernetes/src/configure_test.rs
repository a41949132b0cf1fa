use super::*;

const CURRENT: &str = include_str!("../testdata/runtime.json");
const OLDER: &str = include_str!("../testdata/config.json");

fn identity(component: Component, pod: &str) -> Identity {
    let fqdn = match component {
        Component::Client => String::new(),
        other => format!("{pod}.svc-curvine-demo-{}.default.svc.cluster.local", other.name()),
    };
    Identity {
        component: Some(component),
        dataset: "curvine-demo".into(),
        namespace: "default".into(),
        domain: "cluster.local".into(),
        pod: pod.into(),
        pod_ip: "10.1.2.3".into(),
        node: "node-a".into(),
        mount_path: Some("/runtime-mnt/cache/default/curvine-demo/cache-fuse".into()),
        socket_dir: Some("/run/sockets".into()),
        fqdn,
        ..Identity::default()
    }
}

fn made(component: Component, pod: &str, text: &str) -> (ClusterConf, Vec<String>) {
    let runtime = crate::runtime::parse(text).unwrap();
    let (mut conf, mut warnings) = (ClusterConf::default(), Vec::new());
    amend(&mut conf, Some(component), runtime.as_ref(), &identity(component, pod), &mut warnings).unwrap();
    conf.validate().unwrap();
    (conf, warnings)
}

#[test]
fn a_master_advertises_the_name_of_its_pod_and_keeps_its_log_in_a_volume() {
    let (conf, warnings) = made(Component::Master, "curvine-demo-master-0", CURRENT);
    let name = "curvine-demo-master-0.svc-curvine-demo-master.default.svc.cluster.local";
    assert_eq!((conf.master.hostname.as_str(), conf.journal.hostname.as_str()), (name, name));
    assert_eq!(conf.client.master_addrs, [format!("{name}:8995")]);
    assert!(conf.journal.journal_addrs.is_empty(), "one master alone");
    assert_eq!(conf.journal.journal_dir, Path::new(JOURNAL_DIR));
    assert_eq!(conf.general.bind_hostname, "0.0.0.0");
    assert!(warnings.iter().any(|line| line.contains("class_key")) && warnings.len() == 2, "{warnings:?}");
}

#[test]
fn three_masters_know_each_other_in_order() {
    let text = CURRENT.replace("\"replicas\":1", "\"replicas\":3");
    let (conf, _) = made(Component::Master, "curvine-demo-master-1", &text);
    assert!(conf.master.hostname.starts_with("curvine-demo-master-1."));
    assert_eq!(conf.journal.journal_addrs.len(), 3);
    assert!(
        conf.journal.journal_addrs[2].starts_with("curvine-demo-master-2.")
            && conf.journal.journal_addrs[2].ends_with(":8996")
    );
    let (conf, _) = made(Component::Client, "curvine-demo-client-x", &text);
    assert_eq!(conf.client.master_addrs.len(), 3);
}

#[test]
fn a_worker_is_reached_by_its_address_and_known_by_its_node() {
    let (conf, _) = made(Component::Worker, "curvine-demo-worker-1", CURRENT);
    assert_eq!((conf.worker.hostname.as_str(), conf.worker.node.as_str()), ("10.1.2.3", "node-a"));
    assert_eq!(conf.worker.data_dir.len(), 4);
    assert_eq!(conf.worker.data_dir[0].path, Path::new("/dev/shm/default.curvine-demo-worker-1"));
    assert_eq!(conf.worker.data_dir[0].quota, Some(1 << 30));
    assert_eq!(conf.worker.socket_path, Path::new("/run/sockets/default.curvine-demo-worker-1.sock"));
}

#[test]
fn a_client_mounts_exactly_where_it_is_told_and_knows_its_node() {
    let (conf, warnings) = made(Component::Client, "curvine-demo-client-x2b4z", CURRENT);
    assert_eq!(conf.fuse.mnt_path, Path::new("/runtime-mnt/cache/default/curvine-demo/cache-fuse"));
    assert_eq!((conf.client.hostname.as_str(), conf.log.level.as_str()), ("node-a", "info"));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn ports_of_the_masters_reach_everybody() {
    let text = CURRENT.replace("\"rpc_port\":\"8995\"", "\"rpc_port\":\"7995\"");
    for (component, pod) in [(Component::Worker, "curvine-demo-worker-0"), (Component::Client, "c-x")] {
        let (conf, _) = made(component, pod, &text);
        assert!(conf.client.master_addrs[0].ends_with(":7995"), "{component:?}");
    }
    assert_eq!(made(Component::Worker, "curvine-demo-worker-0", &text).0.worker.rpc_port, 8997);
}

#[test]
fn the_older_schema_makes_the_same_cluster() {
    let (conf, _) = made(Component::Client, "curvine-demo-client-x", OLDER);
    assert_eq!(conf.client.master_addrs, ["curvine-demo-master-0.curvine-demo-master.default.svc.cluster.local:8995"]);
    let (conf, _) = made(Component::Worker, "curvine-demo-worker-0", OLDER);
    assert_eq!(conf.worker.data_dir[0].path, Path::new("/cache-data/default.curvine-demo-worker-0"));
    assert_eq!((conf.worker.data_dir[0].quota, conf.worker.data_dir[0].low), (Some(100 << 30), Some(50)));
}

#[test]
fn before_the_file_is_written_the_environment_is_enough() {
    let (conf, _) = made(Component::Master, "curvine-demo-master-0", "\"\"");
    assert!(conf.master.hostname.starts_with("curvine-demo-master-0.") && conf.journal.journal_addrs.is_empty());
    let (conf, warnings) = made(Component::Worker, "curvine-demo-worker-0", "\"\"");
    assert_eq!(conf.worker.data_dir.len(), 1);
    assert!(warnings.iter().any(|line| line.contains("/var/lib/curvine/worker")));
    let (conf, _) = made(Component::Client, "curvine-demo-client-x", "\"\"");
    assert_eq!(conf.client.master_addrs.len(), 2, "both names of the first master");
}

#[test]
fn what_a_config_file_says_is_kept() {
    let text =
        "[master]\nrpc_port = 6995\n[journal]\njournal_dir = \"/own\"\n[worker]\ndata_dir = [\"[HDD:1GB]/own-tier\"]\n";
    let mut conf = ClusterConf::parse(text, "own.toml").unwrap().0;
    conf.client.master_addrs.clear();
    let runtime = crate::runtime::parse("{\"master\":{\"name\":\"m\",\"service\":{\"name\":\"s\"}}}").unwrap();
    let worker = identity(Component::Worker, "w-0");
    amend(&mut conf, Some(Component::Worker), runtime.as_ref(), &worker, &mut Vec::new()).unwrap();
    assert_eq!(conf.worker.data_dir[0].path, Path::new("/own-tier"));
    assert_eq!(
        (conf.client.master_addrs[0].as_str(), conf.journal.journal_dir.to_str()),
        ("m-0.s.default.svc.cluster.local:6995", Some("/own"))
    );
}

#[test]
fn ipv6_addresses_get_their_brackets() {
    assert_eq!((address("fd00::1", 1), address("a.b", 2)), ("[fd00::1]:1".into(), "a.b:2".into()));
    let mut conf = ClusterConf::default();
    let worker = Identity { pod_ip: "fd00::7".into(), ..identity(Component::Worker, "w-0") };
    amend(&mut conf, Some(Component::Worker), None, &worker, &mut Vec::new()).unwrap();
    assert!(conf.general.bind_hostname == "::" && conf.worker.hostname.starts_with("w-0.svc-"));
}
