//! An object whose store sends slowly: whoever wants its beginning does not wait for the rest of the chunk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::harness::{self, Cluster, Plan};
use crate::mount_bucket;
use crate::objects::{Objects, Pace};
use crate::store::Store;

const SIZE: usize = 1 << 20;
/// So it takes three seconds to send the object.
const RATE: usize = 256 << 10;
const WHOLE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_millis(1500);

#[test]
fn the_first_bytes_of_a_slow_object_do_not_wait_for_the_last() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let content: Vec<u8> = (0..SIZE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let contents = [("slow".to_string(), Bytes::from(content.clone()))].into();
    let pace = Pace { rate: RATE, ..Pace::NONE };
    let store = Store::of(Objects { bucket: "data", contents, stored: SystemTime::now(), pace });
    let cluster = Cluster::start(Plan { mounts: 1, workers: 1, ..Plan::default() });
    mount_bucket(&cluster, &store, "data", "/b", "24h").ok();

    let file = File::open(cluster.mount(0).join("b/slow")).expect("open");
    let began = Instant::now();
    let mut first = [0; 4096];
    file.read_exact_at(&mut first, 0).expect("read the beginning");
    let took = began.elapsed();
    assert!(first[..] == content[..4096], "wrong bytes");
    assert!(took < SOON, "the first bytes came after {took:?}");
    let mut all = vec![0; SIZE];
    file.read_exact_at(&mut all, 0).expect("read all");
    let took = began.elapsed();
    assert!(all == content, "wrong bytes");
    assert!(took >= WHOLE * 3 / 4, "the store was not slow: {took:?}");

    let reads = store.take_requests().into_iter().filter(|request| request.starts_with("GET /data/slow")).count();
    assert_eq!(reads, 1, "the beginning was not fetched by itself");
    cluster.finish();
}
