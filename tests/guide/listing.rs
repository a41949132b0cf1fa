//! A directory whose store takes long to list it: readers get what has come, and nobody else waits for the end.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::harness::{self, Cluster, Plan};
use crate::mount_bucket;
use crate::objects::{Objects, Pace};
use crate::store::Store;

const OBJECTS: usize = 20_000;
const PAGE: Duration = Duration::from_millis(400);
/// Twenty pages of a thousand, one after the other.
const WHOLE: Duration = Duration::from_secs(8);
/// Long for one page, short for all of them.
const SOON: Duration = Duration::from_secs(4);

fn name(number: usize) -> String {
    format!("object-{number:05}")
}

#[test]
fn the_first_names_of_a_long_listing_come_at_once() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let contents = (0..OBJECTS).map(|number| (name(number), Bytes::from(name(number)))).collect();
    let pace = Pace { page: PAGE, ..Pace::NONE };
    let store = Store::of(Objects { bucket: "data", contents, stored: SystemTime::now(), pace });
    let cluster = Cluster::start(Plan { mounts: 2, workers: 1, ..Plan::default() });
    mount_bucket(&cluster, &store, "data", "/b", "24h").ok();

    let began = Instant::now();
    let mut entries = fs::read_dir(cluster.mount(0).join("b")).expect("list");
    let first = entries.next().expect("a name").expect("a name");
    assert!(began.elapsed() < SOON, "the first name came after {:?}", began.elapsed());
    // Somebody else opens what the listing has not met yet.
    let last = name(OBJECTS - 1);
    let content = fs::read(cluster.mount(1).join("b").join(&last)).expect("read the last object");
    assert_eq!((content, began.elapsed() < WHOLE), (last.clone().into_bytes(), true), "after {:?}", began.elapsed());
    // And lists it, too: that is the same listing of the store.
    let other = std::thread::spawn({
        let dir = cluster.mount(1).join("b");
        move || fs::read_dir(dir).expect("list").map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    });
    let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    names.push(first.file_name());
    assert!(began.elapsed() >= WHOLE, "it was the first listing of all, in {:?}", began.elapsed());
    for names in [names, other.join().expect("no panic")] {
        let distinct: HashSet<_> = names.iter().collect();
        assert_eq!((names.len(), distinct.len()), (OBJECTS, OBJECTS), "each name once");
    }
    let listings = store.take_requests().into_iter().filter(|request| request.contains("list-type")).count();
    assert!(listings < OBJECTS / 1000 + 10, "{listings} pages were asked for");

    // Known by now, and all of it.
    let began = Instant::now();
    assert_eq!(fs::read_dir(cluster.mount(1).join("b")).expect("list").count(), OBJECTS);
    assert!(began.elapsed() < WHOLE);
    cluster.finish();
}
