//! The same assertions on every kind of store that can be had in this process.

#[path = "support/conformance.rs"]
mod conformance;
#[cfg(feature = "s3")]
mod support;
#[path = "support/writes.rs"]
mod writes;

use std::collections::BTreeMap;

use conformance::{Traits, conform, seen_by};
use curvine_ufs::{Policy, open, open_operator, split_secrets};
#[cfg(feature = "s3")]
use support::{ACCESS, SECRET, Store};

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[tokio::test]
async fn a_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let ufs = open(&format!("file://{}", dir.path().display()), &BTreeMap::new(), &BTreeMap::new()).unwrap();
    conform(&*ufs, Traits { shows_empty: true, escapes: true, conditions: true }, |key| {
        std::fs::read(dir.path().join(key)).ok()
    })
    .await;
}

#[cfg(feature = "s3")]
#[tokio::test]
async fn a_bucket_conforms() {
    let store = Store::start().await;
    let given = options(&[
        ("s3.endpoint_url", &store.endpoint),
        ("s3.credentials.access", ACCESS),
        ("s3.credentials.secret", SECRET),
        ("s3.region_name", "us-east-1"),
        ("s3.path_style", "true"),
    ]);
    let (open_options, secrets) = split_secrets("s3://data/below", given);
    let ufs = open("s3://data/below", &open_options, &secrets).unwrap();
    store.put("beside", b"what is not below the prefix");
    conform(&*ufs, Traits { shows_empty: false, escapes: true, conditions: true }, |key| {
        std::fs::read(store.path("below").join(key)).ok()
    })
    .await;
    drop(store.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_store_of_opendal_conforms() {
    let operator = opendal::Operator::new(opendal::services::Memory::default().root("/below")).unwrap();
    let ufs = open_operator(operator.clone(), "memory://below", &Policy::default());
    let other = open_operator(operator, "memory://below", &Policy::default());
    conform(&*ufs, Traits { shows_empty: true, escapes: true, conditions: true }, seen_by(other)).await;
}

/// Each kind that is built in is made of its options, and refuses others; each that is not says what it needs.
#[tokio::test]
async fn every_kind_takes_its_options_and_names_them() {
    for (feature, built, url, given) in [
        (
            "s3",
            cfg!(feature = "s3"),
            "s3a://bucket/p",
            &[("s3.endpoint_url", "http://127.0.0.1:1"), ("s3.access", "AK"), ("s3.credentials.secret", "SK")][..],
        ),
        (
            "oss",
            cfg!(feature = "oss"),
            "oss://bucket/p",
            &[("oss.endpoint", "http://127.0.0.1:1"), ("oss.accessKeyId", "AK"), ("oss.accessKeySecret", "SK")],
        ),
        (
            "cos",
            cfg!(feature = "cos"),
            "cos://bucket-1/p",
            &[("cos.region", "ap-x"), ("cos.credentials.access", "AK"), ("cos.credentials.secret", "SK")],
        ),
        (
            "gcs",
            cfg!(feature = "gcs"),
            "gs://bucket/p",
            &[("gcs.endpoint_url", "http://127.0.0.1:1"), ("anonymous", "true")],
        ),
        (
            "azblob",
            cfg!(feature = "azblob"),
            "azblob://box/p",
            &[("azure.account_name", "me"), ("azure.account_key", "c2VjcmV0LWtleQ==")],
        ),
        (
            "webhdfs",
            cfg!(feature = "webhdfs"),
            "webhdfs://127.0.0.1:1/p",
            &[("webhdfs.user", "me"), ("webhdfs.delegation", "DT")],
        ),
        (
            "hdfs",
            cfg!(feature = "hdfs"),
            "hdfs://ns/p",
            &[("dfs.ha.namenodes.ns", "a,b"), ("hdfs.user", "me"), ("hadoop.security.authentication", "simple")],
        ),
    ] {
        let open_it = |given: &[(&str, &str)]| {
            let (given, secrets) = split_secrets(url, options(given));
            open(url, &given, &secrets).map(|_| ())
        };
        let wrong = open_it(&[given, &[("colour", "r3d")]].concat()).unwrap_err().to_string();
        assert!(wrong.contains("colour") && wrong.contains("retry_times") && !wrong.contains("r3d"), "{wrong}");
        match open_it(given) {
            Ok(()) => assert!(built, "{url}"),
            Err(error) => {
                assert!(!built && error.get("feature").is_some_and(|named| named == feature), "{url} {error}");
            }
        }
        if built && matches!(feature, "s3" | "oss" | "cos" | "azblob") {
            let (given, secrets) = split_secrets(url, options(&given[..1]));
            let error = open(&url.replace("/p", "//p"), &given, &secrets).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("prefix"), "{error}");
        }
    }
    let unknown = open("gopher://x", &BTreeMap::new(), &BTreeMap::new()).map(|_| ()).unwrap_err().to_string();
    assert!(unknown.contains("hdfs://") && unknown.contains("azblob://"), "{unknown}");
}
