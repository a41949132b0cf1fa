//! The web pages of the roles.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{self, Cluster, Plan, Rng, Role, until};
use crate::mount_bucket;
use crate::store::Store;

const ROLES: [Role; 3] = [Role::Master, Role::Worker(0), Role::Mount(0)];
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn every_role_tells_its_metrics_and_whether_it_is_well() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["data"]);
    store.put("data", "file", &Rng::new(1).bytes(3 << 20));
    let cluster = Cluster::start(Plan { workers: 1, mounts: 1, ..Plan::default() });
    mount_bucket(&cluster, &store, "data", "/data");
    // The first time from the store, later from the cache.
    for path in ["/data/file", "/data/file"] {
        assert_eq!(cluster.cv(&["fs", "cat", path]).ok_bytes().len(), 3 << 20);
    }

    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md"))
        .expect("read docs/METRICS.md");
    let documented: BTreeSet<&str> =
        reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut told = BTreeSet::new();
    for role in ROLES {
        let (status, page) = cluster.page(role, "/metrics").expect("a page");
        assert!(status.contains(" 200 "), "{role:?}: {status}");
        let declared: BTreeSet<String> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(String::from).collect();
        let unknown: Vec<&String> = declared.iter().filter(|name| !documented.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{role:?} tells what no page explains: {unknown:?}");
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(
                value.parse::<f64>().is_ok() && declared.contains(name.split('{').next().unwrap_or(name)),
                "{line}"
            );
        }
        told.extend(declared);
        assert!(cluster.page(role, "/healthz").expect("a page").0.contains(" 200 "), "{role:?}");
    }
    let missing: Vec<&&str> = documented.iter().filter(|name| !told.contains(**name)).collect();
    assert!(missing.is_empty(), "no role tells {missing:?}");

    let of_worker = |line: &str| cluster.metric(Role::Worker(0), line).unwrap_or_else(|| panic!("no {line}"));
    assert!(of_worker("curvine_store_requests_total{mount=\"/data\"}") > 0);
    assert!(of_worker("curvine_store_read_bytes_total{mount=\"/data\"}") >= 3 << 20);
    assert!(of_worker("curvine_mount_misses_total{mount=\"/data\"}") > 0);
    assert!(of_worker("curvine_mount_hits_total{mount=\"/data\"}") > 0);
    assert_eq!(cluster.metric(Role::Master, "curvine_master_leading"), Some(1));
    assert_eq!(cluster.metric(Role::Master, "curvine_workers{state=\"live\"}"), Some(1));
    assert_eq!(cluster.metric(Role::Master, "curvine_sessions{kind=\"mount\"}"), Some(1));
    assert!(cluster.metric(Role::Mount(0), "curvine_mount_requests_total").is_some_and(|served| served > 0));

    // The successor of a serving process has the page, too.
    let serving = cluster.serving(Role::Mount(0)).expect("a serving process");
    kill_process(Pid::from_raw(serving as i32).expect("a pid"), Signal::KILL).expect("kill it");
    until("the successor's page", LIMIT, || {
        let successor = cluster.serving(Role::Mount(0)).is_some_and(|pid| pid != serving);
        (successor && cluster.page(Role::Mount(0), "/healthz").is_ok_and(|page| page.0.contains(" 200 "))).then_some(())
    });

    // Without a master nobody is well, and says why.
    cluster.kill(Role::Master);
    for role in [Role::Worker(0), Role::Mount(0)] {
        until("the loss of the master is told", LIMIT, || {
            let (status, why) = cluster.page(role, "/healthz").ok()?;
            (status.contains(" 503 ") && !why.trim().is_empty()).then_some(())
        });
    }
    cluster.begin(Role::Master);
    cluster.finish();
}
