//! How fast an object is read for the first time and again, against a plain client of the same store in the same run. Figures are
//! printed and never judged: they are those of the machine and of the build (`CURVINE_TEST_PROGRAM`). `CURVINE_OBJECT_MIB` is the size.
//!
//! The store answers once as fast as it can, which shows what a byte costs where processors are short, and once as one far away does.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use opendal::{HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;

use crate::harness::{self, Cluster, Plan, Rng};
use crate::mount_bucket;
use crate::objects::{Objects, Pace};
use crate::store::{ACCESS, SECRET, Store, is_content};

const MIB: usize = 1 << 20;
/// Bytes of one range that the plain client asks for, and how many of them at once: as a worker does.
const RANGE: usize = 4 * MIB;
const AT_ONCE: usize = 8;
const ROUNDS: usize = 3;
/// As usual stores of objects: one request brings some 90 MB/s, and begins after 20 ms.
const FAR: Pace = Pace { latency: Duration::from_millis(20), rate: 90_000_000, page: Duration::from_millis(100) };

struct Figures {
    first_byte: Duration,
    whole: Duration,
}

/// Reads an object by OpenDAL alone.
async fn read_plainly(operator: &Operator, key: &str, size: usize) -> Figures {
    let began = Instant::now();
    operator.read_with(key).range(0..4096).await.expect("the first page");
    let first_byte = began.elapsed();
    let began = Instant::now();
    let reader = operator.reader_with(key).chunk(RANGE).concurrent(AT_ONCE).await.expect("a reader");
    let mut stream = reader.into_stream(0..size as u64).await.expect("a stream");
    let mut got = 0;
    while let Some(part) = stream.next().await {
        got += part.expect("a part").len();
    }
    assert_eq!(got, size);
    Figures { first_byte, whole: began.elapsed() }
}

/// Reads a file of the mount from its beginning to its end.
fn read_mounted(path: &Path, piece: &mut [u8], size: usize) -> Duration {
    let began = Instant::now();
    let mut file = File::open(path).expect("open");
    let mut got = 0;
    loop {
        match file.read(piece).expect("read") {
            0 => break,
            more => got += more,
        }
    }
    assert_eq!(got, size);
    began.elapsed()
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

fn rate(size: usize, took: Duration) -> f64 {
    size as f64 / 1e6 / took.as_secs_f64().max(1e-9)
}

/// The same operator as a worker has, without anything of ours.
fn plain_client(store: &Store) -> Operator {
    let builder = services::S3::default()
        .bucket("data")
        .root("/")
        .endpoint(&store.endpoint())
        .region("us-east-1")
        .access_key_id(ACCESS)
        .secret_access_key(SECRET);
    let transport = HttpTransporter::new(ReqwestTransport::default());
    let operator = Operator::new(builder).expect("a client");
    operator.with_context(OperationContext::new().with_http_transport(transport))
}

fn compare(name: &str, pace: Pace) {
    let size = harness::number("CURVINE_OBJECT_MIB", 1024) as usize * MIB;
    let content = Bytes::from(Rng::new(7).bytes(size));
    // Each round reads objects that nobody has read before: one for the first byte, one for all of it.
    let both = |round| [(format!("first-{round}"), content.clone()), (format!("whole-{round}"), content.clone())];
    let contents = (0..ROUNDS).flat_map(both).collect();
    let store = Store::of(Objects { bucket: "data", contents, stored: SystemTime::now(), pace });
    let limit = Duration::from_secs(1800);
    let cluster = Cluster::start(Plan { limit, mounts: 1, workers: 1, ..Plan::default() });
    mount_bucket(&cluster, &store, "data", "/b", "24h").ok();
    let view = cluster.mount(0).join("b");
    assert_eq!(std::fs::read_dir(&view).expect("list").count(), 2 * ROUNDS);

    let operator = plain_client(&store);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut piece = vec![0; MIB];
    let (mut plain_first, mut plain, mut first, mut cold, mut warm) = (vec![], vec![], vec![], vec![], vec![]);
    let mut requests = 0;
    for round in 0..ROUNDS {
        let whole = format!("whole-{round}");
        let figures = runtime.block_on(read_plainly(&operator, &whole, size));
        plain_first.push(figures.first_byte);
        plain.push(figures.whole);
        let began = Instant::now();
        let file = File::open(view.join(format!("first-{round}"))).expect("open");
        file.read_exact_at(&mut piece[..4096], 0).expect("read");
        first.push(began.elapsed());
        assert_eq!(piece[..4096], content[..4096]);
        store.take_requests();
        cold.push(read_mounted(&view.join(&whole), &mut piece, size));
        requests = store.take_requests().into_iter().filter(|request| is_content(request)).count();
        cluster.drop_caches();
        warm.push(read_mounted(&view.join(&whole), &mut piece, size));
        let asked: Vec<_> = store.take_requests().into_iter().filter(|request| is_content(request)).collect();
        assert!(asked.is_empty(), "what was read before is read again: {asked:?}");
    }
    let [plain_first, plain, first, cold, warm] = [plain_first, plain, first, cold, warm].map(median);
    println!(
        "an object of {} MiB in {name}: plain client {:.0} MB/s, first 4 KiB {plain_first:.2?}; mount, cold {:.0} MB/s ({:.2}x, {requests} requests), open and first 4 KiB {first:.2?} ({:.2}x), again without the page cache {:.0} MB/s",
        size / MIB,
        rate(size, plain),
        rate(size, cold),
        rate(size, cold) / rate(size, plain),
        first.as_secs_f64() / plain_first.as_secs_f64(),
        rate(size, warm)
    );
    cluster.finish();
}

#[test]
#[ignore = "measures: make bench-store"]
fn an_object_is_read_as_fast_as_by_a_plain_client() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let _ = rustls::crypto::ring::default_provider().install_default();
    compare("a store far away", FAR);
    compare("a store that answers at once", Pace::NONE);
}
