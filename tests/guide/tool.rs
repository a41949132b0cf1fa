//! `cv`, as scripts and people use it, against a cluster whose mounts see what it does.

use serde_json::Value;

use crate::harness::{self, Cluster, Plan, Rng, Role, Sh, until};
use crate::store::{ACCESS, SECRET, Store, is_content};
use crate::text;

fn json(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("not JSON ({error}): {output}"))
}

#[test]
fn files_go_in_and_out_by_cv_and_the_mounts_see_them() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan::default());
    let mount = cluster.mount(0);
    let local = cluster.dir().join("local");
    let content = Rng::new(11).bytes(2_500_000);
    std::fs::write(&local, &content).expect("write");

    cluster.cv(&["fs", "mkdir", "-p", "/a/b/c"]).ok();
    cluster.cv(&["fs", "put", &text(&local), "/a/b/c/file"]).ok();
    assert!(std::fs::read(mount.join("a/b/c/file")).expect("read") == content, "the mount has what cv put");
    assert!(cluster.cv(&["fs", "cat", "/a/b/c/file"]).ok_bytes() == content);
    let back = cluster.dir().join("back");
    cluster.cv(&["fs", "get", "/a/b/c/file", &text(&back)]).ok();
    assert!(std::fs::read(&back).expect("read") == content);

    std::fs::write(mount.join("a/small"), b"from the mount").expect("write");
    assert_eq!(cluster.cv(&["fs", "cat", "/a/small"]).ok(), "from the mount");
    let listing = cluster.cv(&["fs", "ls", "/a"]).ok();
    assert!(listing.contains("small") && listing.contains('b'), "{listing}");
    let stat = cluster.cv(&["fs", "stat", "/a/small", "--json"]).ok();
    assert!(json(&stat).to_string().contains("14"), "its size is 14: {stat}");
    let blocks = cluster.cv(&["fs", "blocks", "/a/b/c/file"]).ok();
    assert!(!blocks.trim().is_empty());
    let used = cluster.cv(&["fs", "du", "/a"]).ok();
    assert!(used.contains("2500014"), "{used}");
    cluster.cv(&["fs", "df"]).ok();

    cluster.cv(&["fs", "mv", "/a/small", "/a/renamed"]).ok();
    assert!(!mount.join("a/small").exists());
    assert_eq!(std::fs::read(mount.join("a/renamed")).expect("read"), b"from the mount");
    cluster.cv(&["fs", "rm", "/a/renamed"]).ok();
    assert!(!mount.join("a/renamed").exists());
    cluster.cv(&["fs", "rm", "/a"]).fails();
    assert!(mount.join("a/b/c/file").exists(), "a directory is only removed with -r");
    cluster.cv(&["fs", "rm", "-r", "/a"]).ok();
    assert!(!mount.join("a").exists());
    cluster.cv(&["fs", "cat", "/nothing"]).fails();
    cluster.finish();
}

#[test]
fn the_state_of_the_cluster_is_told() {
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { mounts: 0, ..Plan::default() });
    assert!(cluster.cv(&["report"]).ok().contains("orker"), "the summary tells of workers");
    assert!(json(&cluster.cv(&["report", "json"]).ok()).is_object());
    let nodes = cluster.cv(&["node", "--list"]).ok();
    assert_eq!(nodes.matches("live").count(), 2, "{nodes}");
    assert!(cluster.cv(&["version"]).ok().contains(env!("CARGO_PKG_VERSION")));
    cluster.kill(Role::Worker(1));
    until("a lost worker is told", std::time::Duration::from_secs(30), || {
        cluster.cv(&["node", "--list"]).ok().contains("lost").then_some(())
    });
    cluster.begin(Role::Worker(1));

    let broken = std::process::Command::new(harness::cluster::CURVINE)
        .args(["cv", "fs", "ls", "/", "--conf", "/nowhere/curvine-cluster.toml"])
        .output()
        .expect("run cv");
    assert_eq!(broken.status.code(), Some(1), "an unreadable --conf is an error");
    assert!(String::from_utf8_lossy(&broken.stderr).contains("/nowhere/curvine-cluster.toml"));
    cluster.finish();
}

#[test]
fn loading_brings_a_bucket_into_the_cache_before_anybody_reads_it() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["models"]);
    let mut rng = Rng::new(12);
    for number in 0..20 {
        store.put("models", &format!("dir/{number}"), &rng.bytes(300_000));
    }
    store.put("models", "large", &rng.bytes(9 << 20));
    let cluster = Cluster::start(Plan::default());
    let options = [
        format!("endpoint_url={}", store.endpoint()),
        format!("access={ACCESS}"),
        format!("secret={SECRET}"),
        "region_name=us-east-1".to_string(),
    ];
    let mut arguments = vec!["mount", "s3://models", "/models", "--ttl", "30m"];
    options.iter().for_each(|option| arguments.extend(["-c", option]));
    cluster.cv(&arguments).ok();
    cluster.cv(&["load", "/models", "--watch"]).ok();
    assert!(store.take_requests().iter().any(|request| is_content(request)), "the load reads the store");

    store.switch_off();
    let bucket = text(&store.path("models", ""));
    Sh::run(r#"diff -r "$1" "$2""#, &[&bucket, &text(&cluster.mount(1).join("models"))]).ok();
    assert!(store.take_requests().is_empty());

    let table = json(&cluster.cv(&["mount", "--json"]).ok()).to_string();
    assert!(table.contains("s3://models") && !table.contains(SECRET) && !table.contains(ACCESS), "{table}");
    cluster.cv(&["umount", "/models"]).ok();
    assert!(!cluster.cv(&["mount"]).ok().contains("s3://models"));
    assert!(store.path("models", "large").exists(), "nothing in the store is touched");
    cluster.finish();
}
