//! The mount table as an operator handles it: a store is tried out, mounted, changed in place, compared again, looked through.

use std::fs;

use crate::harness::{self, Cluster, Plan};
use crate::store::{SECRET, Store};
use crate::{mount_bucket, mount_bucket_with, text};

#[test]
fn a_mount_is_tried_out_changed_in_place_and_compared_with_its_store() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["models"]);
    store.put("models", "dir/one", b"one");
    let cluster = Cluster::start(Plan { mounts: 1, ..Plan::default() });
    let view = cluster.mount(0).join("m");

    // Nothing is mounted by what only looks.
    let refused = mount_bucket_with(&cluster, &store, "nothing", "/m", &["--check"]).fails();
    assert!(refused.stderr.contains("no such bucket") && !refused.stderr.contains(SECRET), "{refused}");
    mount_bucket_with(&cluster, &store, "models", "/m", &["--check"]).ok();
    let dry = mount_bucket_with(&cluster, &store, "models", "/m", &["--dry-run", "--ttl", "90s"]).ok();
    assert!(dry.contains("would mount s3://models at /m") && dry.contains("90000") && !dry.contains(SECRET), "{dry}");
    let nobody = ["-c", "endpoint_url=http://127.0.0.1:9", "-c", "access=a", "-c", "secret=b"];
    let refused = cluster.cv(&[&["mount", "s3://models", "/m", "--check"][..], &nobody].concat()).fails();
    assert!(refused.stderr.contains("nobody listens there"), "{refused}");
    let refused = cluster.cv(&["mount", "s3://models", "/m", "-c", "colour=red"]).fails();
    assert!(refused.stderr.contains("colour") && refused.stderr.contains("endpoint_url"), "{refused}");
    assert!(!cluster.cv(&["mount"]).ok().contains("s3://models"));

    mount_bucket(&cluster, &store, "models", "/m", "30m").ok();
    assert_eq!(fs::read(view.join("dir/one")).expect("read"), b"one");

    // A wrong credential is refused and what worked stays; a right change is there at once.
    let refused = cluster.cv(&["mount", "--update", "/m", "-c", "secret=not-the-secret"]).fails();
    assert!(refused.stderr.contains("does not belong") || refused.stderr.contains("denies"), "{refused}");
    store.put("models", "dir/two", b"two");
    assert!(!view.join("dir/two").exists() || fs::read(view.join("dir/two")).is_ok());
    let secret = cluster.dir().join("store-secret");
    fs::write(&secret, SECRET).expect("write");
    let option = format!("secret=@{}", text(&secret));
    cluster.cv(&["mount", "--update", "/m", "-c", &option, "--access-mode", "read_only"]).ok();
    let table = cluster.cv(&["mount", "--json"]).ok();
    assert!(table.contains("\"read_only\": true") && table.contains("1800000") && !table.contains(SECRET), "{table}");
    assert!(fs::write(view.join("new"), b"x").is_err());
    cluster.cv(&["mount", "--update", "/elsewhere", "--ttl", "1s"]).fails();

    // What changed in the store since it was looked at is there after a resync, long before the ttl.
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(view.join("dir")).expect("list").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    cluster.cv(&["mount", "resync", "/m"]).ok();
    assert_eq!(names(), ["one", "two"]);
    store.put("models", "dir/one", b"other");
    store.put("models", "dir/three", b"three");
    store.delete("models", "dir/two");
    let told = cluster.cv(&["mount", "resync", "/m"]).ok();
    assert!(told.contains("2 files are as the store has them; 0 failed"), "{told}");
    assert_eq!(names(), ["one", "three"]);
    assert_eq!(fs::read(view.join("dir/one")).expect("read"), b"other");

    let told = cluster.cv(&["mount", "check", "/m"]).ok();
    assert!(told.contains(" 0 of them cannot be shown"), "{told}");
    cluster.cv(&["mount", "check", "/nothing"]).fails();
    cluster.finish();
}
