//! `cv stats`, `cv report`, `cv stat` and `cv doctor` against a whole cluster.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{self, Cluster, Plan, Rng, Role, Run, until};
use crate::mount_bucket;
use crate::store::Store;

const LIMIT: Duration = Duration::from_secs(30);

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
}

fn code(run: &Run) -> Option<i32> {
    run.status.and_then(|status| status.code())
}

fn findings<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    report["checks"].as_array().expect("a list").iter().filter(|finding| finding["check"] == check).collect()
}

/// Whoever else has mounts on this machine, dead ones maybe, is left out; `others` says whether one of those is wrong.
fn without_others(mut report: Value, cluster: &Cluster) -> Value {
    let own = cluster.dir().display().to_string();
    let list = report["checks"].as_array_mut().expect("a list");
    let is_other = |finding: &Value| {
        finding["check"] == "mounts" && finding["state"] == "wrong" && !finding["text"].to_string().contains(&own)
    };
    let others = list.iter().any(is_other);
    list.retain(|finding| !is_other(finding));
    report["others"] = others.into();
    report
}

#[test]
fn tools_tell_what_is_done_for_a_mount_where_its_bytes_are_and_what_is_wrong() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["data"]);
    store.put("data", "dir/file", &Rng::new(2).bytes((2 << 20) + 5));
    let cluster = Cluster::start(Plan { mounts: 1, ..Plan::default() });
    mount_bucket(&cluster, &store, "data", "/data");

    // Not read yet: nobody has a byte of it, and that is fine.
    let stat = json(&cluster.cv(&["stat", "/data/dir/file", "--json"]).ok());
    assert_eq!((stat["content"].as_str(), stat["object"]["key"].as_str()), (Some("ufs"), Some("dir/file")), "{stat}");
    assert!(stat["missing"].is_null() && stat["this_mount"].is_null(), "{stat}");
    assert_eq!(cluster.cv(&["fs", "cat", "/data/dir/file"]).ok_bytes().len(), (2 << 20) + 5);
    let here = cluster.mount(0).join("data/dir/file");
    let text = cluster.cv(&["stat", &here.display().to_string()]).ok();
    for part in ["object      dir/file of mount", "this mount", "copies      1 whole", "needs nothing from the store"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }

    // What is only on one worker, and that worker is gone.
    let only = cluster.mount(0).join("only");
    std::fs::write(&only, Rng::new(3).bytes(3 << 20)).expect("write");
    let held = json(&cluster.cv(&["stat", &only.display().to_string(), "--json"]).ok());
    assert_eq!(held["content"], "blocks", "{held}");

    let lines = cluster.cv(&["stats", "--interval", "200ms", "--count", "2", "--json"]).ok();
    assert_eq!(lines.lines().count(), 2);
    for line in lines.lines() {
        assert_eq!(json(line)["workers"]["answered"], 2, "{line}");
    }
    let text = cluster.cv(&["stats", "-i", "100ms", "-n", "1"]).ok();
    assert!(text.lines().count() == 3 && text.contains("hit%"), "{text}");
    until("the heartbeats bring the counts to the master", LIMIT, || {
        let report = json(&cluster.cv(&["report", "json"]).ok());
        let mount = &report["stats"]["mounts"][0];
        (mount["path"] == "/data" && mount["read_bytes"].as_u64() >= Some(2 << 20)).then_some(())
    });
    assert!(cluster.cv(&["report"]).ok().contains("/data: "));

    let run = cluster.cv(&["doctor", "--json"]);
    let report = without_others(json(&run.text()), &cluster);
    let expected = if report["others"] == true { Some(3) } else { code(&run).filter(|code| *code == 4).or(Some(0)) };
    assert_eq!(code(&run), expected, "{run}");
    for check in
        ["config", "masters", "log", "clocks", "workers", "tiers", "stores", "fuse", "kernel", "ulimit", "mounts"]
    {
        let found = findings(&report, check);
        assert!(!found.is_empty() && found.iter().all(|finding| finding["state"] != "wrong"), "{check}: {report:#}");
    }

    // The worker that alone has the file, and then the store.
    let worker = held["held"][0]["worker"].as_u64().expect("a worker");
    let address = held["held"][0]["address"].as_str().expect("an address").to_string();
    let role = if address.ends_with(&cluster.worker_port(0).to_string()) { Role::Worker(0) } else { Role::Worker(1) };
    cluster.kill(role);
    store.switch_off();
    until("the loss is noticed", LIMIT, || {
        let report = json(&cluster.cv(&["doctor", "--json"]).text());
        let wrong = |check: &str| findings(&report, check).iter().any(|finding| finding["state"] == "wrong");
        (wrong("workers") && wrong("stores")).then_some(())
    });
    let run = cluster.cv(&["doctor"]);
    assert_eq!(code(&run), Some(3), "{run}");
    assert!(
        run.text().contains(&format!("worker {worker} ({address}) is lost")) && run.text().contains("-> "),
        "{run}"
    );
    let run = cluster.cv(&["stat", "/only"]);
    assert_eq!(code(&run), Some(3), "{run}");
    assert!(run.text().contains("READING     FAILS"), "{run}");

    // Without any master it still ends, and says so.
    cluster.kill(Role::Master);
    let run = cluster.cv(&["doctor", "--json"]);
    assert_eq!(code(&run), Some(3), "{run}");
    assert!(findings(&json(&run.text()), "masters").iter().any(|finding| finding["state"] == "wrong"), "{run}");
}
