//! A real HDFS, by its own protocol and by WebHDFS: `make test-hdfs` runs this beside one (scripts/hdfs.sh).

#![cfg(feature = "hdfs")]

#[path = "support/conformance.rs"]
mod conformance;
#[path = "support/writes.rs"]
mod writes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use conformance::{Traits, conform, seen_by};
use curvine_types::ErrorKind;
use curvine_ufs::{Condition, Expect, Policy, Ufs, open_with, split_secrets};
use writes::Plain;

/// Where the HDFS is, such as `hdfs://127.0.0.1:8020`.
fn base() -> String {
    std::env::var("HDFS_TEST_URL").expect("HDFS_TEST_URL: run this by `make test-hdfs`")
}

fn open(url: &str, given: &[(&str, &str)]) -> curvine_types::Result<Arc<dyn Ufs>> {
    let given = given.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let (options, secrets) = split_secrets(url, given);
    open_with(url, &options, &secrets, Policy { retries: 1, ..Policy::default() })
}

/// A new directory of the HDFS.
async fn fresh(name: &str) -> Arc<dyn Ufs> {
    let path = format!("{name}-{}", std::process::id());
    open(&base(), &[]).unwrap().make_directory(&format!("tests/{path}/")).await.unwrap();
    open(&format!("{}/tests/{path}", base()), &[]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an HDFS: make test-hdfs"]
async fn an_hdfs_conforms() {
    let ufs = fresh("native").await;
    let other = open(&format!("{}/tests/native-{}", base(), std::process::id()), &[]).unwrap();
    conform(&*ufs, Traits { shows_empty: true, escapes: true, conditions: true }, seen_by(other)).await;
    assert_eq!(ufs.stat(".curvine-uploads").await.unwrap(), None);
    let parent = open(&format!("{}/tests", base()), &[]).unwrap();
    let key = format!("native-{}/.curvine-uploads", std::process::id());
    assert_eq!(parent.stat(&key).await.unwrap(), None, "nothing unfinished is left");
}

#[cfg(feature = "webhdfs")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an HDFS: make test-hdfs"]
async fn an_hdfs_conforms_by_webhdfs() {
    let web = std::env::var("HDFS_TEST_WEB").expect("HDFS_TEST_WEB: run this by `make test-hdfs`");
    let native = fresh("web").await;
    let ufs = open(&format!("webhdfs://{web}/tests/web-{}", std::process::id()), &[("webhdfs.user", "root")]).unwrap();
    conform(&*ufs, Traits { shows_empty: true, escapes: false, conditions: true }, seen_by(native.clone())).await;
    let parent = open(&format!("{}/tests", base()), &[]).unwrap();
    let uploads = format!("web-{}/.curvine-uploads", std::process::id());
    assert_eq!(parent.stat(&uploads).await.unwrap(), None, "nothing unfinished is left");

    let nothing = open(&format!("webhdfs://{web}/no/such"), &[]).unwrap();
    assert!(nothing.list("", "", 1).await.unwrap_err().to_string().contains("check the url's path"));
    let nobody = open("webhdfs://127.0.0.1:1/x", &[("delegation", "a-token-never-to-be-shown")]).unwrap();
    let error = format!("{:?}", nobody.list("", "", 1).await.unwrap_err());
    assert!(error.contains("nobody listens there") && !error.contains("a-token"), "{error}");
    let denied = open(&format!("webhdfs://{web}/"), &[("webhdfs.user", "somebody")]).unwrap();
    let error = denied.make_directory("of-somebody/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an HDFS: make test-hdfs"]
async fn what_an_upload_that_ended_early_has_left_goes_with_the_next_one() {
    let ufs = fresh("early").await;
    let large = vec![7u8; 9 << 20];
    let stalls = Plain { stalls: true, ..Plain::new(&large, "t") };
    let wait = tokio::time::timeout(Duration::from_secs(2), ufs.store("f", &stalls, &Condition::Any)).await;
    assert!(wait.is_err(), "it stalls");
    assert_eq!(ufs.stat("f").await.unwrap(), None);
    let parent = open(&format!("{}/tests", base()), &[]).unwrap();
    let uploads = format!("early-{}/.curvine-uploads/", std::process::id());
    assert_eq!(parent.list(&uploads, "", 10).await.unwrap().entries.len(), 1);
    let stored = ufs.store("f", &Plain::new(&large, "t"), &Condition::Absent).await.unwrap();
    assert!(ufs.read("f", 0, stored.size, &Expect::of(&stored)).await.unwrap() == large);
    assert_eq!(parent.list(&uploads, "", 10).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an HDFS: make test-hdfs"]
async fn a_name_service_and_its_namenodes_are_options() {
    fresh("ha").await.make_directory("here/").await.unwrap();
    let address = base().replace("hdfs://", "");
    let given = [
        ("dfs.nameservices", "ns"),
        ("dfs.ha.namenodes.ns", "away,there"),
        // Nobody listens there.
        ("dfs.namenode.rpc-address.ns.away", "127.0.0.1:1"),
        ("dfs.namenode.rpc-address.ns.there", &address),
        ("hdfs.user", "somebody"),
    ];
    let url = format!("hdfs://ns/tests/ha-{}", std::process::id());
    let ufs = open(&url, &given).unwrap();
    assert_eq!(ufs.list("", "", 10).await.unwrap().entries[0].key, "here/");
    // The same from files.
    let dir = tempfile::tempdir().unwrap();
    let property =
        |(name, value): &(&str, &str)| format!("<property><name>{name}</name><value>{value}</value></property>");
    let text: String = given[..4].iter().map(property).collect();
    std::fs::write(dir.path().join("hdfs-site.xml"), format!("<configuration>{text}</configuration>")).unwrap();
    let ufs = open(&url, &[("hdfs.conf_dir", dir.path().to_str().unwrap())]).unwrap();
    assert!(ufs.stat("here").await.unwrap().unwrap().directory);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an HDFS: make test-hdfs"]
async fn what_is_wrong_with_a_mount_is_said_in_words() {
    let begun = Instant::now();
    let said = async |url: &str, given: &[(&str, &str)]| {
        let ufs = open(url, given).unwrap();
        ufs.list("", "", 1).await.map(|_| ()).unwrap_err()
    };
    let gone = said(&format!("{}/no/such/directory", base()), &[]).await;
    assert_eq!(gone.kind(), ErrorKind::Ufs);
    assert!(gone.to_string().contains("check the url's path"), "{gone}");
    let nobody = said("hdfs://127.0.0.1:1/x", &[]).await;
    assert!(nobody.to_string().contains("nobody listens there"), "{nobody}");
    let unknown = said("hdfs://nameservice-of-nobody/x", &[]).await;
    assert!(unknown.to_string().contains("HADOOP_CONF_DIR"), "{unknown}");
    let denied = open(&base(), &[("hdfs.user", "somebody")]).unwrap();
    let error = denied.make_directory("of-somebody/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(40));
}
