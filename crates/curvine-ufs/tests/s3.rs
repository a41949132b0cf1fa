//! The S3 adapter against a real S3 protocol server in this process.

#![cfg(feature = "s3")]

#[path = "support/credentials.rs"]
mod credentials;
mod support;
#[path = "support/writes.rs"]
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use curvine_types::{ErrorKind, Secret};
use curvine_ufs::{Condition, Expect, Object, Policy, Ufs, open_with, split_secrets};
use support::{ACCESS, SECRET, Store};

fn options(store: &Store) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("s3.endpoint_url".to_string(), store.endpoint.clone()),
        ("s3.credentials.access".to_string(), ACCESS.to_string()),
        ("s3.credentials.secret".to_string(), SECRET.to_string()),
        ("s3.region_name".to_string(), "us-east-1".to_string()),
        ("s3.path_style".to_string(), "true".to_string()),
    ])
}

fn quick() -> Policy {
    Policy { backoff: Duration::from_millis(1), retries: 2, ..Policy::default() }
}

fn open(store: &Store, url: &str) -> Arc<dyn Ufs> {
    let (options, secrets) = split_secrets(url, options(store));
    open_with(url, &options, &secrets, quick()).unwrap()
}

fn keys(entries: &[Object]) -> Vec<&str> {
    entries.iter().map(|object| object.key.as_str()).collect()
}

#[tokio::test]
async fn files_and_directories_are_found_below_the_prefix() {
    let store = Store::start().await;
    store.put("models/a/weights.bin", b"0123456789");
    store.put("models/readme.txt", b"hello");
    store.put("other/x", b"");
    let ufs = open(&store, "s3://data/models");

    let file = ufs.stat("readme.txt").await.unwrap().unwrap();
    assert_eq!((file.key.as_str(), file.directory, file.size), ("readme.txt", false, 5));
    assert!(file.mtime.is_some() && !file.etag.is_empty() && !file.etag.contains('"'), "{file:?}");
    let directory = ufs.stat("a").await.unwrap().unwrap();
    assert_eq!((directory.key.as_str(), directory.directory), ("a/", true));
    assert!(ufs.stat("").await.unwrap().unwrap().directory);
    assert_eq!(ufs.stat("nothing").await.unwrap(), None);
    assert_eq!(ufs.stat("x").await.unwrap(), None);

    let page = ufs.list("", "", 100).await.unwrap();
    assert_eq!((keys(&page.entries), page.next), (vec!["a/", "readme.txt"], None));
    let page = ufs.list("a/", "", 100).await.unwrap();
    assert_eq!(keys(&page.entries), ["a/weights.bin"]);
    assert_eq!(ufs.list("nowhere/", "", 100).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn ranges_are_exactly_what_was_asked_for() {
    let store = Store::start().await;
    let content: Vec<u8> = (0..300_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    store.put("dir/name with ünicode & +=%.bin", &content);
    let ufs = open(&store, "s3://data");
    let key = "dir/name with ünicode & +=%.bin";
    let object = ufs.stat(key).await.unwrap().unwrap();
    let expect = Expect::of(&object);
    let by_time = Expect { etag: String::new(), ..expect.clone() };
    for (offset, len) in [(0, 300_000), (0, 1), (299_999, 1), (65_536, 65_536), (123_457, 100_001), (7, 0)] {
        for expect in [&expect, &by_time] {
            let bytes = ufs.read(key, offset, len, expect).await.unwrap();
            assert_eq!(bytes, content[offset as usize..(offset + len) as usize], "{offset}+{len}");
        }
    }
    assert_eq!(ufs.read(key, 299_999, 2, &expect).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let counts = ufs.counters().snapshot();
    assert_eq!((counts.errors, counts.in_flight, counts.bytes), (1, 0, 2 * (300_000 + 1 + 1 + 65_536 + 100_001)));
}

#[tokio::test]
async fn a_changed_object_is_never_read_as_the_old_one() {
    let store = Store::start().await;
    store.put("f", b"version one");
    let ufs = open(&store, "s3://data");
    let by_etag = Expect::of(&ufs.stat("f").await.unwrap().unwrap());
    // This store's listings have no etags: size and time must do.
    let by_time = Expect::of(&ufs.list("", "", 10).await.unwrap().entries[0]);
    assert!(!by_etag.etag.is_empty() && by_time.etag.is_empty());
    assert_eq!(by_etag.mtime, by_time.mtime, "HEAD and LIST must tell the same time");
    assert_eq!(ufs.read("f", 0, 11, &by_time).await.unwrap(), b"version one"[..]);

    store.put("f", b"version two");
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    std::fs::File::open(store.path("f")).unwrap().set_modified(later).unwrap();
    for expect in [by_etag, by_time] {
        assert_eq!(ufs.read("f", 0, 11, &expect).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    }
    store.put("f", b"short");
    let expect = Expect { etag: String::new(), size: 11, mtime: None };
    assert_eq!(ufs.read("f", 0, 11, &expect).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    std::fs::remove_file(store.path("f")).unwrap();
    assert_eq!(ufs.read("f", 0, 5, &expect).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_long_listing_comes_in_order_and_in_parts() {
    let store = Store::start().await;
    let mut want = Vec::new();
    for number in 0..260 {
        store.put(&format!("big/f{number:03}"), b"x");
        want.push(format!("big/f{number:03}"));
        if number % 3 == 0 {
            store.put(&format!("big/f{number:03}d/inner"), b"x");
            want.push(format!("big/f{number:03}d/"));
        }
    }
    want.sort();
    let ufs = open(&store, "s3://data");
    for limit in [1000, 50, 7] {
        let (mut got, mut after) = (Vec::new(), String::new());
        loop {
            let page = ufs.list("big/", &after, limit).await.unwrap();
            assert!(page.entries.len() <= limit);
            got.extend(page.entries.into_iter().map(|object| object.key));
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(got, want, "limit {limit}");
    }
    // Without the kept listing, from anywhere, after a file as after a directory.
    let page = ufs.list("big/", "big/f003", 2).await.unwrap();
    assert_eq!(keys(&page.entries), ["big/f003d/", "big/f004"]);
    let page = ufs.list("big/", "big/f003d/", 2).await.unwrap();
    assert_eq!(keys(&page.entries), ["big/f004", "big/f005"]);
}

#[tokio::test]
async fn a_missing_bucket_is_an_error_and_not_an_empty_tree() {
    let store = Store::start().await;
    let ufs = open(&store, "s3://nobucket/prefix");
    for error in [
        ufs.stat("f").await.map(|_| ()).unwrap_err(),
        ufs.stat("").await.map(|_| ()).unwrap_err(),
        ufs.list("", "", 10).await.map(|_| ()).unwrap_err(),
        ufs.list("a/", "", 10).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::Ufs), "{error:?}");
        assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_denied_and_stays_secret() {
    let store = Store::start().await;
    store.put("f", b"x");
    let mut wrong = options(&store);
    wrong.insert("s3.credentials.secret".to_string(), "another-secret-value".to_string());
    let (options, secrets) = split_secrets("s3://data", wrong);
    let ufs = open_with("s3://data", &options, &secrets, quick()).unwrap();
    for error in [
        ufs.stat("f").await.map(|_| ()).unwrap_err(),
        ufs.list("", "", 10).await.map(|_| ()).unwrap_err(),
        ufs.read("f", 0, 1, &Expect { size: 1, ..Expect::default() }).await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("another-secret") && !text.contains(ACCESS), "{text}");
    }
}

#[tokio::test]
async fn a_store_that_is_off_is_a_bounded_ufs_error() {
    let store = Store::start().await;
    store.put("f", b"x");
    let ufs = open(&store, "s3://data");
    let expect = Expect::of(&ufs.stat("f").await.unwrap().unwrap());
    let _dir = store.stop().await;
    let begun = Instant::now();
    let error = ufs.read("f", 0, 1, &expect).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ufs, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let counts = ufs.counters().snapshot();
    assert_eq!((counts.retries, counts.errors), (2, 3), "{error}");
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_at_once() {
    let none: BTreeMap<String, Secret> = BTreeMap::new();
    let with = |pairs: &[(&str, &str)], url: &str| {
        let options = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let (options, secrets) = split_secrets("s3://data", options);
        curvine_ufs::open(url, &options, &secrets).map(|_| ()).unwrap_err().to_string()
    };
    assert!(with(&[("access", "a")], "s3://b").contains("together"));
    assert!(with(&[("path_style", "maybe")], "s3://b").contains("true or false"));
    assert!(with(&[("endpoint_url", "ftp://x")], "s3://b").contains("http"));
    assert!(with(&[("endpoint_uri", "http://x")], "s3://b").contains("endpoint_url"));
    assert!(with(&[], "s3:///prefix").contains("names a bucket"));
    assert!(with(&[], "gopher://x").contains("known=file:// s3://"));
    assert!(curvine_ufs::open("relative/path", &BTreeMap::new(), &none).is_err());
}

#[tokio::test]
async fn a_store_is_conditional_whole_and_repeatable() {
    let store = Store::start().await;
    let ufs = open(&store, "s3://data/below");
    let holds = |key: &str| std::fs::read(store.path("below").join(key)).ok();
    writes::store_conditionally(&*ufs, &holds).await;

    // An attempt whose answer was lost is recognised by its token.
    let source = writes::Plain::new(b"mine", "token-1");
    let first = ufs.store("again", &source, &Condition::Absent).await.unwrap();
    assert_eq!(ufs.store("again", &source, &Condition::Absent).await.unwrap(), first);
}

#[tokio::test]
async fn names_are_changed_as_in_a_file_system() {
    let store = Store::start().await;
    let ufs = open(&store, "s3://data/below");
    let holds = |key: &str| std::fs::read(store.path("below").join(key)).ok();
    writes::change_names(&*ufs, false, &holds).await;
    let most = ufs.rename_directory("e/", "g/", 3).await.unwrap_err();
    assert_eq!(most.kind(), ErrorKind::CrossDevice);
    assert!(ufs.stat("e/f/sub/3").await.unwrap().is_some());
}

/// What uploads in parts have left in the store; waits until nothing is left, for as long as that may take.
async fn left_behind(store: &Store) -> Vec<String> {
    let root = store.bucket().parent().unwrap().to_path_buf();
    let mut left = Vec::new();
    for _ in 0..500 {
        let names = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        left = names.filter(|name| name.contains("upload")).collect();
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    left
}

/// The id of an upload whose first part is there: one that is on its way when its upload is given up may still arrive.
async fn first_part(store: &Store, source: &writes::Plain) -> String {
    let root = store.bucket().parent().unwrap().to_path_buf();
    loop {
        let id = source.uploads.lock().unwrap().first().cloned();
        let part = |id: &String| std::fs::metadata(root.join(format!(".upload_id-{id}.part-1"))).is_ok();
        if let Some(id) = id.filter(part) {
            return id;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_upload_in_parts_is_told_first_and_leaves_nothing_when_it_ends_early() {
    let store = Store::start().await;
    let ufs = open(&store, "s3://data/below");
    let large = vec![5u8; 20 << 20];
    let plain = || writes::Plain::new(&large, "t");
    let none = |key: &str| !store.path("below").join(key).exists();

    let forgets = writes::Plain { forgets: true, ..plain() };
    ufs.store("a", &forgets, &Condition::Any).await.unwrap_err();
    assert!(!forgets.uploads.lock().unwrap().is_empty() && none("a"));
    assert_eq!(left_behind(&store).await, Vec::<String>::new(), "nothing was noted of it, so it is given up");

    let changes = writes::Plain { changes: true, ..plain() };
    assert_eq!(ufs.store("a", &changes, &Condition::Any).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((left_behind(&store).await, none("a")), (Vec::new(), true));

    let stalls = writes::Plain { stalls: true, ..plain() };
    tokio::select! {
        stored = ufs.store("a", &stalls, &Condition::Any) => panic!("{stored:?}"),
        _ = first_part(&store, &stalls) => {}
    }
    assert_eq!((left_behind(&store).await, none("a")), (Vec::new(), true), "whoever gives up waiting gives it up");

    // Somebody else, who has the id from the log, gives up what goes on nowhere.
    let stuck = Arc::new(writes::Plain { stalls: true, ..plain() });
    let (other, source) = (ufs.clone(), stuck.clone());
    let task = tokio::spawn(async move { other.store("a", &*source, &Condition::Any).await.map(|_| ()) });
    let id = first_part(&store, &stuck).await;
    ufs.abort("a", &id).await.unwrap();
    assert_eq!((left_behind(&store).await, none("a")), (Vec::new(), true));
    let stored = ufs.store("a", &plain(), &Condition::Any).await.unwrap();
    assert_eq!(stored.size, large.len() as u64);
    assert!(std::fs::read(store.path("below/a")).unwrap() == large);
    task.abort();
}
