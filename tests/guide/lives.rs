//! What bounds the life of files and of what is cached of them: times to live, the bytes that wait for their upload, and who is the
//! authority of a mount.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{self, Cluster, Plan, Rng, Role, until};
use crate::mount_bucket_with;
use crate::store::Store;

/// How long what happens in the background may take.
const SOON: Duration = Duration::from_secs(60);

fn json(cluster: &Cluster, typed: &[&str]) -> Value {
    let output = cluster.cv(typed).ok();
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("not JSON ({error}): {output}"))
}

#[test]
fn files_and_copies_are_gone_at_the_end_of_their_time_to_live() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["data"]);
    let content = Rng::new(41).bytes(300_000);
    for number in 0..3 {
        store.put("data", &format!("old/{number}"), &content);
        store.put("data", &format!("other/{number}"), &content);
    }
    let cluster = Cluster::start(Plan { workers: 1, mounts: 1, ..Plan::default() });
    mount_bucket_with(&cluster, &store, "data", "/b", &["--ttl", "30m", "--trash", "off"]).ok();
    let view = cluster.mount(0);
    cluster.cv(&["load", "/b"]).ok();
    fs::create_dir_all(view.join("own/deep/kept")).expect("mkdir");
    fs::write(view.join("own/deep/first"), &content).expect("write");
    fs::write(view.join("own/deep/kept/file"), &content).expect("write");

    cluster.cv(&["ttl", "set", "/own/deep/kept", "1h", "--action", "delete"]).ok();
    cluster.cv(&["ttl", "set", "/own", "6s", "--action", "delete"]).ok();
    cluster.cv(&["ttl", "set", "/b/old", "4s"]).ok();
    let stat = cluster.cv(&["stat", "cv:///own/deep/kept/file"]).ok();
    assert!(stat.contains("removed 60m after the last change (set on /own/deep/kept)"), "{stat}");
    let above = json(&cluster, &["ttl", "get", "/own/deep/kept", "--json"]);
    assert_eq!(
        (above["ttls"][0]["ttl_ms"].as_u64(), above["ttls"][1]["path"].as_str()),
        (Some(3_600_000), Some("/own"))
    );
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    assert_eq!(json(&cluster, &["ttl", "list", "--json"])["ttls"].as_array().map(Vec::len), Some(3));

    // What is changed again and again lives on.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(14) {
        fs::write(view.join("own/alive"), b"again").expect("write");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(view.join("own/alive").exists());
    until("what was not changed is removed", SOON, || (!view.join("own/deep/first").exists()).then_some(()));
    assert!(view.join("own/deep/kept/file").exists() && view.join("own/deep").is_dir());
    let copies = |path: &str| {
        let stat = json(&cluster, &["stat", path, "--json"]);
        stat["held"].as_array().map_or(0, |held| held.iter().filter(|held| held["present_bytes"] != 0).count())
    };
    until("old copies are dropped", SOON, || (copies("cv:///b/old/1") == 0).then_some(()));
    assert_eq!(copies("cv:///b/other/1"), 1);
    assert!(fs::read(view.join("b/old/1")).expect("read") == content);

    cluster.cv(&["ttl", "set", "/b/other", "1s", "--action", "delete"]).ok();
    until("objects are removed, too", SOON, || (!store.path("data", "other/1").exists()).then_some(()));
    cluster.cv(&["ttl", "clear", "/own"]).ok();
    let none = cluster.cv(&["ttl", "clear", "/own"]).fails();
    assert!(none.stderr.contains("no time to live"), "{none}");
    cluster.finish();
}

/// A bucket at `/b` that is written back, of which 12 MB may wait here for their upload, and how long writers wait above that.
fn of_few_dirty_bytes(wait: &str) -> (Store, Cluster) {
    let store = Store::start(&["data"]);
    let plan = Plan { workers: 1, mounts: 1, ..Plan::default() };
    let plan = plan.set("worker", "dirty_limit", "\"12MB\"").set("worker", "dirty_wait", format!("\"{wait}\""));
    let cluster = Cluster::start(plan);
    mount_bucket_with(&cluster, &store, "data", "/b", &["--ttl", "30m", "--write", "back"]).ok();
    (store, cluster)
}

#[test]
fn what_waits_for_its_upload_is_bounded_and_writers_are_held_back() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (store, cluster) = of_few_dirty_bytes("3s");
    let view = cluster.mount(0).join("b");
    let content = Rng::new(42).bytes(5 << 20);
    store.hold(true);
    let mut written = 0;
    let refused = loop {
        assert!(written < 12, "nobody is held back");
        let began = Instant::now();
        match fs::write(view.join(format!("file-{written}")), &content) {
            Ok(()) => written += 1,
            Err(error) => {
                assert!(began.elapsed() >= Duration::from_secs(2), "it waits before it fails");
                break error;
            }
        }
    };
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()), "{refused}");
    assert!((2..=5).contains(&written), "{written} files of 5 MB below a limit of 12 MB");
    let dirty = || {
        let stores = json(&cluster, &["report", "--json"]);
        let text = stores.to_string();
        let found = text.split("\"dirty_bytes\":").nth(1).and_then(|rest| rest.split([',', '}']).next()?.parse().ok());
        found.unwrap_or(0u64)
    };
    until("the report tells", SOON, || (dirty() >= 10 << 20).then_some(()));
    let told = cluster.metric(Role::Worker(0), "curvine_mount_dirty_bytes{mount=\"/b\"}");
    assert!(told >= Some(10 << 20), "{told:?}");
    assert_eq!(cluster.metric(Role::Worker(0), "curvine_mount_dirty_bytes_limit"), Some(12 << 20));
    // Not of other files, and not of what has no store.
    fs::write(cluster.mount(0).join("own"), &content).expect("write");
    // A restart counts what it finds.
    cluster.kill(Role::Worker(0));
    cluster.begin(Role::Worker(0));
    until("counted after a restart", SOON, || (dirty() >= 10 << 20).then_some(()));
    store.hold(false);
    until("there is room when the store has taken it", SOON, || {
        fs::write(view.join("last"), &content).is_ok().then_some(())
    });
    until("all of it is stored", SOON, || {
        (0..written)
            .all(|number| fs::read(store.path("data", &format!("file-{number}"))).is_ok_and(|have| have == content))
            .then_some(())
    });
    // A file that is larger than the limit is written all the same.
    let large = Rng::new(43).bytes(30 << 20);
    let file = fs::File::create(view.join("large")).expect("create");
    file.write_all_at(&large, 0).expect("write");
    drop(file);
    until("the large one is stored", SOON, || {
        fs::read(store.path("data", "large")).is_ok_and(|have| have == large).then_some(())
    });
    cluster.finish();
}

#[test]
fn what_waits_for_its_upload_is_counted_by_the_worker_that_takes_it_over() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["data"]);
    let cluster = Cluster::start(Plan { workers: 2, mounts: 1, ..Plan::default() });
    mount_bucket_with(&cluster, &store, "data", "/b", &["--ttl", "30m", "--write", "back"]).ok();
    store.hold(true);
    let content = Rng::new(45).bytes(5 << 20);
    fs::write(cluster.mount(0).join("b/dirty"), &content).expect("write");
    let dirty = |number| cluster.metric(Role::Worker(number), "curvine_mount_dirty_bytes{mount=\"/b\"}").unwrap_or(0);
    let holder = until("somebody has it", SOON, || (0..2).find(|number| dirty(*number) >= 5 << 20));
    let dir = format!("worker-{holder}/");
    let nodes = json(&cluster, &["node", "--json"]);
    let workers = nodes["workers"].as_array().expect("a list");
    let worker = workers.iter().find(|worker| worker.to_string().contains(&dir)).expect("the worker that has it");
    cluster.cv(&["node", "decommission", &worker["id"].to_string(), "--wait", "30s"]).ok();
    until("the other one counts it", SOON, || (dirty(1 - holder) >= 5 << 20).then_some(()));
    store.hold(false);
    until("it is stored", SOON, || {
        fs::read(store.path("data", "dirty")).is_ok_and(|have| have == content).then_some(())
    });
    until("nothing waits any more", SOON, || (dirty(1 - holder) == 0).then_some(()));
    cluster.finish();
}

#[test]
fn files_larger_than_the_limit_are_written_at_once() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (store, cluster) = of_few_dirty_bytes("8s");
    let view = cluster.mount(0).join("b");
    let content = Rng::new(44).bytes(25 << 20);
    // All of them are open before the first one is finished.
    let files: Vec<fs::File> =
        (0..3).map(|number| fs::File::create(view.join(format!("large-{number}"))).expect("create")).collect();
    let half = content.len() / 2;
    for part in [0..half, half..content.len()] {
        std::thread::scope(|scope| {
            for file in &files {
                scope.spawn(|| file.write_all_at(&content[part.clone()], part.start as u64).expect("write"));
            }
        });
    }
    drop(files);
    for number in 0..3 {
        until("each of them is stored", SOON, || {
            fs::read(store.path("data", &format!("large-{number}"))).is_ok_and(|have| have == content).then_some(())
        });
    }
    cluster.finish();
}

#[test]
fn in_fs_mode_curvine_is_the_authority_and_the_store_gets_a_copy() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["data"]);
    store.put("data", "dir/there", b"before");
    let cluster = Cluster::start(Plan::default());
    for more in [["--ttl", "1s"], ["--write", "through"], ["--access-mode", "read_only"]] {
        let refused =
            mount_bucket_with(&cluster, &store, "data", "/b", &[&["--write-type", "fs_mode"], &more[..]].concat());
        assert!(refused.fails().stderr.contains("fs_mode Curvine is the authority"));
    }
    mount_bucket_with(&cluster, &store, "data", "/b", &["--write-type", "fs_mode"]).ok();
    let views = [cluster.mount(0).join("b"), cluster.mount(1).join("b")];
    assert_eq!(fs::read(views[0].join("dir/there")).expect("read"), b"before");
    // What others do to the store is not seen, not even by a new leader, until somebody asks.
    store.put("data", "dir/new", b"from outside");
    store.put("data", "dir/there", b"another version");
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    assert_eq!(fs::read(views[1].join("dir/there")).expect("read"), b"before");
    assert_eq!(fs::read_dir(views[1].join("dir")).expect("list").count(), 1);
    // The store need not even be there for what is written.
    store.switch_off();
    fs::write(views[0].join("dir/written"), b"here first").expect("write");
    assert_eq!(fs::read(views[1].join("dir/written")).expect("read"), b"here first");
    store.switch_on();
    until("the copy", SOON, || {
        fs::read(store.path("data", "dir/written")).is_ok_and(|have| have == b"here first").then_some(())
    });
    cluster.cv(&["export", "/b"]).ok();
    until("a look into the store", SOON, || cluster.cv(&["mount", "resync", "/b"]).worked().then_some(()));
    assert_eq!(fs::read(views[1].join("dir/new")).expect("read"), b"from outside");
    assert_eq!(fs::read(views[0].join("dir/there")).expect("read"), b"another version");
    cluster.finish();
}
