//! A real HDFS mounted into a whole cluster: `make test-hdfs` runs this beside one (scripts/hdfs.sh).

#![cfg(feature = "hdfs")]

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_types::Result;
use curvine_ufs::{Condition, Expect, Source, Ufs};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use harness::{Cluster, Plan, Rng, Role, until};

const SOON: Duration = Duration::from_secs(30);

/// The HDFS as somebody else sees it, below a directory that is new.
struct Hdfs {
    url: String,
    ufs: Arc<dyn Ufs>,
    runtime: tokio::runtime::Runtime,
}

struct Content(Vec<u8>);

impl Source for Content {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn token(&self) -> &str {
        "of the test"
    }

    fn read<'a>(&'a self, offset: u64, len: u64) -> BoxFuture<'a, Result<Bytes>> {
        let part = Bytes::copy_from_slice(&self.0[offset as usize..(offset + len) as usize]);
        std::future::ready(Ok(part)).boxed()
    }

    fn begun<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn check<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }
}

impl Hdfs {
    fn new(name: &str) -> Self {
        let base = std::env::var("HDFS_TEST_URL").expect("HDFS_TEST_URL: run this by `make test-hdfs`");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let path = format!("mounts/{name}-{}", std::process::id());
        let url = format!("{base}/{path}");
        let ufs = runtime.block_on(async {
            let open = |url: &str| curvine_ufs::open(url, &BTreeMap::new(), &BTreeMap::new()).expect("open");
            open(&base).make_directory(&format!("{path}/")).await.expect("make a directory");
            open(&url)
        });
        Self { url, ufs, runtime }
    }

    fn put(&self, key: &str, content: &[u8]) {
        let source = Content(content.to_vec());
        self.runtime.block_on(self.ufs.store(key, &source, &Condition::Any)).expect("store");
    }

    /// Files with their numbers as names and contents.
    fn put_many(&self, dir: &str, count: usize) {
        let put = async |number: usize| {
            let source = Content(number.to_string().into_bytes());
            self.ufs.store(&format!("{dir}/{number:03}"), &source, &Condition::Any).await.expect("store");
        };
        self.runtime.block_on(futures::stream::iter(0..count).map(put).buffer_unordered(16).collect::<Vec<()>>());
    }

    fn holds(&self, key: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(async {
            let there = self.ufs.stat(key).await.expect("stat")?;
            Some(self.ufs.read(key, 0, there.size, &Expect::of(&there)).await.expect("read").to_vec())
        })
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let page = self.runtime.block_on(self.ufs.list(prefix, "", 1000)).expect("list");
        page.entries.into_iter().map(|object| object.key).collect()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("list");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs an HDFS: make test-hdfs"]
fn an_hdfs_is_read_and_changed_through_mounts() {
    let _alone = harness::alone();
    let hdfs = Hdfs::new("through");
    let large = Rng::new(1).bytes(11 << 20);
    hdfs.put("models/weights.bin", &large);
    hdfs.put("models/readme", b"hello");
    hdfs.put_many("many", 250);
    let cluster = Cluster::start(Plan::default());
    cluster.cv(&["mount", &hdfs.url, "/h", "--check"]).ok();
    let gone = cluster.cv(&["mount", &format!("{}/nothing", hdfs.url), "/n", "--check"]).fails();
    assert!(gone.stderr.contains("check the url's path"), "{gone}");
    let nobody = cluster.cv(&["mount", "hdfs://127.0.0.1:9/x", "/n", "--check"]).fails();
    assert!(nobody.stderr.contains("nobody listens there"), "{nobody}");
    cluster.cv(&["mount", &hdfs.url, "/h", "--ttl", "30m"]).ok();
    let [one, two] = [cluster.mount(0).join("h"), cluster.mount(1).join("h")];

    assert_eq!(names(&one), ["many", "models"]);
    assert_eq!(names(&two.join("many")), (0..250).map(|number| format!("{number:03}")).collect::<Vec<_>>());
    assert!(fs::read(one.join("models/weights.bin")).expect("read") == large);
    assert!(fs::read(two.join("models/weights.bin")).expect("read") == large);
    assert_eq!(fs::read(two.join("many/123")).expect("read"), b"123");

    // What is written is in the HDFS when close returns.
    let content = Rng::new(2).bytes(5_000_003);
    fs::create_dir(one.join("out")).expect("make a directory");
    fs::write(one.join("out/f"), &content).expect("write");
    assert!(hdfs.holds("out/f").expect("there") == content);
    assert!(fs::read(two.join("out/f")).expect("read") == content);
    let mut file = fs::File::options().append(true).open(two.join("out/f")).expect("open");
    file.write_all(b"and more").expect("write");
    drop(file);
    assert!(hdfs.holds("out/f").expect("there") == [&content[..], b"and more"].concat());
    fs::write(one.join("models/readme"), b"hello again").expect("write");
    assert_eq!(hdfs.holds("models/readme").expect("there"), b"hello again");

    fs::rename(one.join("out/f"), one.join("out/g")).expect("rename");
    assert_eq!(hdfs.names("out/"), ["out/g"]);
    fs::rename(two.join("out"), two.join("moved")).expect("rename a directory");
    assert_eq!((hdfs.names("moved/"), hdfs.holds("out/g")), (vec!["moved/g".to_string()], None));
    assert!(fs::read(one.join("moved/g")).expect("read").starts_with(&content));
    fs::remove_dir(one.join("moved")).expect_err("it is not empty");
    fs::remove_file(one.join("moved/g")).expect("delete");
    fs::remove_dir(one.join("moved")).expect("remove a directory");
    assert_eq!(hdfs.names(""), ["many/", "models/"]);

    // What others change is there after a resync, long before the ttl.
    hdfs.put("models/readme", b"by somebody else");
    hdfs.put("models/new", b"new");
    cluster.cv(&["mount", "resync", "/h"]).ok();
    assert_eq!(fs::read(one.join("models/readme")).expect("read"), b"by somebody else");
    assert_eq!(names(&two.join("models")), ["new", "readme", "weights.bin"]);
    let told = cluster.cv(&["mount", "check", "/h"]).ok();
    assert!(told.contains(" 0 of them cannot be shown"), "{told}");
    cluster.finish();
}

#[test]
#[ignore = "needs an HDFS: make test-hdfs"]
fn what_was_written_back_is_in_the_hdfs_also_after_kills() {
    let _alone = harness::alone();
    let hdfs = Hdfs::new("back");
    let cluster = Cluster::start(Plan { mounts: 1, ..Plan::default() });
    cluster.cv(&["mount", &hdfs.url, "/b", "--write", "back"]).ok();
    let view = cluster.mount(0).join("b");
    let content = Rng::new(3).bytes(3_000_000);
    for number in 0..20 {
        fs::write(view.join(format!("f{number}")), &content[number..]).expect("write");
    }
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    for number in 0..20 {
        until("the upload", SOON, || {
            hdfs.holds(&format!("f{number}")).filter(|there| *there == content[number..]).map(|_| ())
        });
    }
    until("nothing waits any more", SOON, || cluster.cv(&["umount", "/b"]).worked().then_some(()));
    assert_eq!(hdfs.names("").len(), 20, "nothing unfinished is left");
    cluster.finish();
}
