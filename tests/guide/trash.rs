//! What is removed through a mount: how long its store keeps it, and how it comes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{self, Cluster, Plan, Role, Sh, until};
use crate::store::Store;
use crate::{mount_bucket_with, text};

/// How long what happens in the background may take.
const SOON: Duration = Duration::from_secs(60);

fn trash(cluster: &Cluster, path: &str) -> Vec<Value> {
    let listed = cluster.cv(&["trash", "list", path, "--json"]).ok();
    let mut listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
    match listed["trash"].take() {
        Value::Array(entries) => entries,
        other => panic!("not a list: {other}"),
    }
}

/// Has the store looked at; a master that has just begun has no worker for that yet.
fn resync(cluster: &Cluster, at: &str) {
    until("a look into the store", SOON, || cluster.cv(&["mount", "resync", at]).worked().then_some(()));
}

fn content(number: usize) -> Vec<u8> {
    format!("content of {number}").into_bytes()
}

/// What becomes of a tree of `count` files, removed at once, on a mount of a store that shows its objects in `bucket`.
fn remove_and_restore(cluster: &Cluster, bucket: &Path, at: &str, count: usize) {
    let views = [cluster.mount(0).join(&at[1..]), cluster.mount(1).join(&at[1..])];
    let key = |number: usize| format!("data/{}/{number}", number % 5);
    let stored = |number: usize| -> PathBuf { bucket.join(key(number)) };
    assert_eq!(fs::read(views[1].join(key(7))).expect("read"), content(7));
    Sh::run(r#"rm -rf "$1"/data"#, &[&text(&views[0])]).ok();
    for view in &views {
        assert!(!view.join("data").exists(), "removed means that no mount shows it");
    }
    until("all of it is kept", SOON, || {
        let entries = trash(cluster, at);
        (entries.len() == count + 6 && entries.iter().all(|entry| entry["held"] == false)).then_some(())
    });
    assert!((0..count).all(|number| stored(number).exists()));

    // Not even a look into the store shows it, nor after a restart.
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    resync(cluster, at);
    assert_eq!(fs::read_dir(&views[1]).expect("list").count(), 0);
    assert_eq!(trash(cluster, &format!("{at}/data/3")).len(), count / 5 + 1);

    // A new file takes the name, and the store has both.
    fs::create_dir_all(views[0].join("data/1")).expect("mkdir");
    fs::write(views[0].join(key(1)), b"new").expect("write");
    assert_eq!(fs::read(stored(1)).expect("read"), b"new");
    assert_eq!(fs::read_dir(views[1].join("data/1")).expect("list").count(), 1);
    assert!(!views[0].join(".curvine-trash").exists());

    let restored = cluster.cv(&["trash", "restore", &format!("{at}/data")]).fails();
    assert!(restored.stderr.contains(&key(1)) && restored.stderr.contains("something else"), "{restored}");
    assert!(restored.text().contains("failed 1"), "{restored}");
    for number in (0..count).filter(|number| *number != 1) {
        let there = fs::read(views[number % 2].join(key(number)));
        assert_eq!(there.unwrap_or_else(|error| panic!("{}: {error}", key(number))), content(number));
    }
    assert_eq!(fs::read(views[1].join(key(1))).expect("read"), b"new");
    fs::rename(views[1].join(key(1)), views[1].join("new")).expect("rename");
    cluster.cv(&["trash", "restore", &format!("{at}/{}", key(1))]).ok();
    assert_eq!(fs::read(views[0].join(key(1))).expect("read"), content(1));
    assert!(trash(cluster, "/").is_empty());
    // A directory that something was removed from moves without it.
    fs::remove_file(views[0].join(key(6))).expect("unlink");
    fs::rename(views[0].join("data"), views[0].join("moved")).expect("rename a directory");
    resync(cluster, at);
    assert!(!views[1].join("moved/1/6").exists() && !views[1].join("data").exists());
    assert_eq!(fs::read(views[1].join("moved/1/11")).expect("read"), content(11));
}

#[test]
fn what_is_removed_in_bulk_stays_in_a_bucket_and_comes_back() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["data"]);
    for number in 0..60 {
        store.put("data", &format!("data/{}/{number}", number % 5), &content(number));
    }
    let cluster = Cluster::start(Plan::default());
    mount_bucket_with(&cluster, &store, "data", "/b", &["--ttl", "30m", "--trash", "20"]).ok();
    remove_and_restore(&cluster, &store.path("data", ""), "/b", 60);
    cluster.finish();
}

#[test]
fn what_is_removed_in_bulk_stays_in_a_directory_and_comes_back() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let dir = tempfile::tempdir().expect("make a directory");
    for number in 0..60 {
        let path = dir.path().join(format!("data/{}/{number}", number % 5));
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        fs::write(path, content(number)).expect("write");
    }
    let cluster = Cluster::start(Plan::default());
    let url = format!("file://{}", dir.path().display());
    cluster.cv(&["mount", &url, "/d", "--ttl", "30m", "--trash", "20"]).ok();
    remove_and_restore(&cluster, dir.path(), "/d", 60);
    cluster.finish();
}

#[test]
fn what_is_few_or_due_is_deleted_from_the_store_also_after_a_restart() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["data"]);
    for number in 0..30 {
        store.put("data", &format!("dir/{number}"), &content(number));
    }
    let cluster = Cluster::start(Plan::default());
    mount_bucket_with(&cluster, &store, "data", "/b", &["--ttl", "30m"]).ok();
    let view = cluster.mount(0).join("b");
    let stored = |number: usize| store.path("data", &format!("dir/{number}")).exists();
    for number in 0..3 {
        fs::remove_file(view.join(format!("dir/{number}"))).expect("unlink");
    }
    // Somebody else stores another version meanwhile: it is not ours to delete.
    store.put("data", "dir/2", b"not the one that was removed");
    until("few are deleted", SOON, || (!stored(0) && !stored(1) && trash(&cluster, "/").is_empty()).then_some(()));
    assert!(stored(2));
    resync(&cluster, "/b");
    assert_eq!(fs::read(view.join("dir/2")).expect("read"), b"not the one that was removed");

    cluster.cv(&["mount", "--update", "/b", "--trash", "all", "--trash-retention", "1h"]).ok();
    for number in 3..20 {
        fs::remove_file(view.join(format!("dir/{number}"))).expect("unlink");
    }
    assert_eq!(trash(&cluster, "/b/dir").len(), 17);
    let refused = cluster.cv(&["umount", "/b"]).fails();
    assert!(refused.stderr.contains("cv trash empty"), "{refused}");
    cluster.cv(&["trash", "empty", "/b/dir/3"]).ok();
    assert!(!stored(3) && stored(4));
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    assert_eq!(trash(&cluster, "/b").len(), 16);
    until("workers are back", SOON, || {
        cluster.cv(&["mount", "--update", "/b", "--trash-retention", "1s"]).worked().then_some(())
    });
    until("what is due is deleted", SOON, || trash(&cluster, "/").is_empty().then_some(()));
    assert!((3..20).all(|number| !stored(number)) && stored(20));
    cluster.cv(&["mount", "--update", "/b", "--trash", "off"]).ok();
    fs::remove_file(view.join("dir/20")).expect("unlink");
    assert!(!stored(20) && stored(21));
    Sh::run(r#"rm -rf "$1"/dir && test -z "$(ls -A "$1")""#, &[&text(&view)]).ok();
    cluster.cv(&["umount", "/b"]).ok();
    cluster.finish();
}
