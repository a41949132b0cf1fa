//! A load that says that all is there, over many small objects: everything is read with the store switched off. It prints what it took.
//!
//! `CURVINE_OBJECTS` says how many they are; the ignored test is the one of 100,000.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{self, Cluster, Plan};
use crate::mount_bucket;
use crate::store::Store;

/// Objects of each directory.
const IN_DIRECTORY: usize = 250;
/// Readers at once.
const READERS: usize = 8;

fn key(number: usize) -> String {
    format!("set/{:04}/{number:06}.bin", number / IN_DIRECTORY)
}

/// Between 0 and some 12 KB, each its own.
fn content(number: usize) -> Vec<u8> {
    let line = format!("{number} is what this object is about\n");
    line.as_bytes().iter().copied().cycle().take(number * 37 % 12_289).collect()
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

/// Reads all and compares it.
fn read_all(view: &Path, count: usize) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            scope.spawn(move || {
                for number in (reader..count).step_by(READERS) {
                    let path = view.join(key(number));
                    let have = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    assert!(have == content(number), "{}: {} bytes", path.display(), have.len());
                }
            });
        }
    });
    began.elapsed()
}

fn list_all(view: &Path) -> (usize, Duration) {
    let began = Instant::now();
    let dirs = std::fs::read_dir(view.join("set")).expect("list");
    let count = dirs.map(|dir| std::fs::read_dir(dir.expect("an entry").path()).expect("list").count()).sum();
    (count, began.elapsed())
}

fn a_load_of(count: usize) {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["data"]);
    for number in 0..count {
        store.put("data", &key(number), &content(number));
    }
    let limit = Duration::from_secs(300 + count as u64 / 20);
    let cluster = Cluster::start(Plan { limit, mounts: 1, ..Plan::default() });
    mount_bucket(&cluster, &store, "data", "/b", "24h").ok();
    let view = cluster.mount(0).join("b");

    let (listed, list) = list_all(&view);
    assert_eq!(listed, count);
    let began = Instant::now();
    let done = cluster.cv_limited(&["load", "/b/set", "--json"], limit).ok();
    let load = began.elapsed();
    let done: Value = serde_json::from_str(&done).unwrap_or_else(|error| panic!("{error}: {done}"));
    assert_eq!((done["state"].as_str(), done["files"].as_u64()), (Some("done"), Some(count as u64)), "{done}");
    store.take_requests();
    store.switch_off();
    let first = read_all(&view, count);
    let second = read_all(&view, count);
    assert!(store.take_requests().is_empty(), "a load that is done leaves nothing to ask the store for");
    println!(
        "{count} objects: list {list:.2?} ({:.0}/s), load {load:.2?} ({:.0}/s), first read {first:.2?} ({:.0}/s), second read {second:.2?} ({:.0}/s)",
        rate(count, list),
        rate(count, load),
        rate(count, first),
        rate(count, second)
    );
    cluster.finish();
}

#[test]
fn a_load_that_is_done_is_whole_without_the_store() {
    let count = std::env::var("CURVINE_OBJECTS").ok().and_then(|count| count.parse().ok());
    a_load_of(count.unwrap_or(2_000));
}

#[test]
#[ignore = "takes minutes"]
fn a_load_of_a_hundred_thousand_objects_is_whole_without_the_store() {
    a_load_of(100_000);
}
