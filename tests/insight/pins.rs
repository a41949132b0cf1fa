//! Pins, against a cache that is far too small for what is read.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{self, Cluster, Plan, Rng, Role, until};
use crate::mount_bucket;
use crate::store::Store;

const LIMIT: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

#[test]
fn what_is_pinned_is_read_without_the_store_after_much_else_went_through_the_cache() {
    let _alone = harness::alone();
    let mut store = Store::start(&["data"]);
    let mut rng = Rng::new(5);
    let kept = rng.bytes(4 * MIB);
    store.put("data", "keep/deep/file", &kept);
    for number in 0..12 {
        store.put("data", &format!("other/{number}"), &rng.bytes(2 * MIB));
    }
    let disk = tempfile::tempdir().expect("make a directory");
    let dirs = format!("[\"[SSD:12MB]{}\"]", disk.path().join("ssd").display());
    let plan = Plan { workers: 1, mounts: 0, ..Plan::default() };
    let cluster = Cluster::start(plan.set("worker", "data_dir", dirs));
    mount_bucket(&cluster, &store, "data", "/data");
    cluster.cv(&["fs", "ls", "/data/keep/deep"]).ok();
    // One part is there before it is pinned, the other comes afterwards.
    cluster.cv(&["fs", "cat", "/data/other/0"]).ok_bytes();
    cluster.cv(&["pin", "/data/keep", "/data/other/0"]).ok();
    assert_eq!(cluster.cv(&["pins"]).ok().lines().count(), 2);
    cluster.cv(&["load", "/data/keep", "--watch"]).ok();
    let pinned = || cluster.metric(Role::Worker(0), "curvine_worker_pinned_bytes");
    until("the worker has heard of both", LIMIT, || (pinned() == Some(6 << 20)).then_some(()));
    let read_others = || {
        for number in 1..12 {
            assert_eq!(cluster.cv(&["fs", "cat", &format!("/data/other/{number}")]).ok_bytes().len(), 2 * MIB);
        }
    };
    read_others();
    read_others();
    assert!(cluster.metric(Role::Worker(0), "curvine_mount_evictions_total{mount=\"/data\"}") > Some(8));
    let stat = cluster.cv(&["stat", "/data/keep/deep/file", "--json"]).ok();
    let stat: Value = serde_json::from_str(&stat).expect("JSON");
    assert_eq!((&stat["held"][0]["pinned"], &stat["held"][0]["present_bytes"]), (&true.into(), &(4 * MIB).into()));

    // A restart forgets nothing of it.
    cluster.kill(Role::Worker(0));
    cluster.begin(Role::Worker(0));
    until("pins are known again", LIMIT, || (pinned() == Some(6 << 20)).then_some(()));
    cluster.cv(&["unpin", "/data/other/0"]).ok();
    until("one is let go", LIMIT, || (pinned() == Some(4 << 20)).then_some(()));
    read_others();
    store.switch_off();
    assert!(cluster.cv(&["fs", "cat", "/data/keep/deep/file"]).ok_bytes() == kept);
    cluster.cv(&["unpin", "/data/keep/deep"]).fails();
    cluster.finish();
}
