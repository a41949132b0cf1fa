//! Workers that leave: what only they have goes to others or into the stores, and nobody who reads or writes notices.

mod harness;

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use harness::{Cluster, Plan, Role, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn plan(workers: usize, mounts: usize) -> Plan {
    let plan = Plan { workers, mounts, ..Plan::default() };
    plan.set("worker", "drain_on_stop", "true").set("worker", "drain_timeout", "\"25s\"")
}

/// The workers as `cv node` shows them, by their ports' order of registration.
fn workers(cluster: &Cluster) -> Vec<Value> {
    let list: Value = serde_json::from_str(&cluster.cv(&["node", "--json"]).ok()).expect("JSON");
    list["workers"].as_array().expect("a list").clone()
}

fn state_of(cluster: &Cluster, id: u64) -> String {
    let worker = workers(cluster).into_iter().find(|worker| worker["id"] == id).expect("a worker");
    worker["state"].as_str().expect("a state").to_string()
}

/// The worker that has a file's bytes.
fn holder(cluster: &Cluster, path: &str) -> u64 {
    let blocks: Value =
        serde_json::from_str(&cluster.cv(&["fs", "blocks", path, "--format", "json"]).ok()).expect("JSON");
    let text = blocks.to_string();
    let ids = workers(cluster).into_iter().map(|worker| worker["id"].as_u64().expect("a number"));
    let found: Vec<u64> = ids.filter(|id| text.contains(&format!("\"worker\":{id}"))).collect();
    assert_eq!(found.len(), 1, "{text}");
    found[0]
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 12) as u8).wrapping_add(seed)).collect()
}

fn sound(cluster: &Cluster) {
    let run = cluster.cv(&["fsck", "--json"]);
    assert_eq!(run.code(), Some(0), "{run}");
}

#[test]
fn a_worker_that_stops_leaves_everything_to_the_others() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan(2, 2));
    let (here, there) = (cluster.mount(0), cluster.mount(1));
    for number in 0..6u8 {
        std::fs::write(here.join(format!("file-{number}")), pattern(number, 700_000)).expect("write");
    }
    std::fs::write(here.join("small"), "small").expect("write");
    // With a hole in it, which stays one.
    let mut sparse = std::fs::File::create(here.join("sparse")).expect("make a file");
    sparse.write_all(&pattern(1, 300_000)).expect("write");
    sparse.seek(SeekFrom::Start(30 << 20)).expect("seek");
    sparse.write_all(b"end").expect("write");
    drop(sparse);
    // One that an application of another node goes on writing all the time.
    std::fs::write(here.join("log"), pattern(9, 200_000)).expect("write");
    let log = std::fs::File::options().read(true).write(true).open(there.join("log")).expect("open");
    log.write_all_at(b"before", 0).expect("write");
    let going = holder(&cluster, "/file-0");
    assert_eq!(holder(&cluster, "/sparse"), going);

    let leaves = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for turn in 0..40u64 {
                log.write_all_at(format!("turn {turn:03}\n").as_bytes(), 200_000 + turn * 9).expect("write meanwhile");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let status = cluster.terminate(Role::Worker(0));
        writing.join().expect("writing");
        status
    });
    assert!(leaves.success(), "{}", cluster.log_tail(Role::Worker(0)));
    let said = cluster.log_text(Role::Worker(0));
    assert!(said.contains("nothing is only here any more"), "{said}");
    assert_eq!(state_of(&cluster, going), "leaving");
    assert_ne!(holder(&cluster, "/file-0"), going);

    cluster.drop_caches();
    for root in [&here, &there] {
        for number in 0..6u8 {
            let content = std::fs::read(root.join(format!("file-{number}"))).expect("read");
            assert!(content == pattern(number, 700_000), "file-{number}");
        }
        let sparse = std::fs::read(root.join("sparse")).expect("read");
        assert!(sparse[..300_000] == pattern(1, 300_000)[..] && sparse.ends_with(b"\0end"));
        assert_eq!(sparse.len(), (30 << 20) + 3);
        let content = std::fs::read(root.join("log")).expect("read");
        assert!(content.starts_with(b"before") && content.ends_with(b"turn 039\n") && content.len() == 200_360);
        assert_eq!(std::fs::read(root.join("small")).expect("read"), b"small");
    }
    sound(&cluster);
    log.write_all_at(b"after", 0).expect("write");

    // It comes back, is in service again, and what moved away is taken out of its directories.
    cluster.begin(Role::Worker(0));
    until("it is back in service", PATIENCE, || (state_of(&cluster, going) == "in_service").then_some(()));
    until("its old copies are gone", PATIENCE, || (files_below(&cluster.dir().join("worker-0")) == 0).then_some(()));
    std::fs::write(here.join("new"), pattern(3, 300_000)).expect("write");
    assert_eq!(holder(&cluster, "/new"), going, "it takes new files again");
    assert!(std::fs::read(there.join("log")).expect("read").starts_with(b"aftere"));
    drop(log);
    sound(&cluster);
    for mount in [0, 1] {
        assert!(cluster.terminate(Role::Mount(mount)).success());
    }
    cluster.no_panics();
}

/// Files of contents, which lie in numbered directories below the tiers.
fn files_below(dir: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            count += files_below(&entry.path());
        } else if entry.metadata().is_ok_and(|meta| meta.len() >= 200_000) && kind.is_file() {
            count += 1;
        }
    }
    count
}

#[test]
fn an_operator_takes_a_worker_out_of_service_for_as_long_as_he_likes() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { workers: 2, mounts: 1, ..Plan::default() });
    let root = cluster.mount(0);
    std::fs::write(root.join("a"), pattern(1, 500_000)).expect("write");
    let first = holder(&cluster, "/a");
    cluster.cv(&["node", "decommission", "99"]).fails();
    cluster.cv(&["node", "decommission", &first.to_string(), "--wait", "30s"]).ok();
    assert_ne!(holder(&cluster, "/a"), first);
    // It is so after a restart of everything, and nothing new goes there.
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    cluster.kill(Role::Worker(0));
    cluster.begin(Role::Worker(0));
    assert_eq!(state_of(&cluster, first), "decommissioned");
    std::fs::write(root.join("b"), pattern(2, 500_000)).expect("write");
    assert_ne!(holder(&cluster, "/b"), first);
    // With nobody left to take it, it stays where it is, and that is said.
    let second = holder(&cluster, "/b");
    let left = cluster.cv(&["node", "decommission", &second.to_string(), "--wait", "2s"]);
    assert_eq!(left.code(), Some(3), "{left}");
    assert!(left.stderr.contains("2 files") && left.stderr.contains("room"), "{left}");
    cluster.cv(&["node", "recommission", &first.to_string()]).ok();
    until("it goes there", PATIENCE, || (holder(&cluster, "/b") == first).then_some(()));
    cluster.drop_caches();
    assert!(std::fs::read(root.join("a")).expect("read") == pattern(1, 500_000));
    assert!(std::fs::read(root.join("b")).expect("read") == pattern(2, 500_000));
    sound(&cluster);
    cluster.finish();
}

#[test]
fn the_last_worker_saves_what_has_a_store_and_says_loudly_what_has_none() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan(1, 1));
    let (root, store) = (cluster.mount(0), cluster.dir().join("store"));
    std::fs::create_dir(&store).expect("make a directory");
    let url = format!("file://{}", store.display());
    cluster.cv(&["mount", &url, "/store", "--write", "back"]).ok();
    std::fs::write(root.join("store/dirty"), pattern(5, 900_000)).expect("write");
    assert!(cluster.terminate(Role::Worker(0)).success(), "{}", cluster.log_tail(Role::Worker(0)));
    assert!(std::fs::read(store.join("dirty")).expect("the store has it") == pattern(5, 900_000));

    cluster.begin(Role::Worker(0));
    std::fs::write(root.join("own"), pattern(6, 400_000)).expect("write");
    assert_eq!(cluster.terminate(Role::Worker(0)).code(), Some(1));
    let said = cluster.log_text(Role::Worker(0));
    assert!(
        said.contains("ERROR") && said.contains("files that are nowhere else") && said.contains("worker-0"),
        "{said}"
    );
    // It is loud, and not lost.
    cluster.begin(Role::Worker(0));
    assert!(std::fs::read(root.join("own")).expect("read") == pattern(6, 400_000));
    assert!(cluster.terminate(Role::Mount(0)).success());
    cluster.no_panics();
}
