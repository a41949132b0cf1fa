//! A store that answers late, wrongly, in part, or not at all: no wrong byte, no half object, and no wait beyond the deadline.

#![cfg(feature = "s3")]

#[path = "support/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "the store is never switched off here")]
mod support;
#[path = "support/writes.rs"]
#[allow(dead_code, reason = "only its source is used here")]
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use curvine_types::ErrorKind;
use curvine_ufs::{Collected, Condition, Expect, Policy, Sink, SurveyMark, Ufs, Wanted, open_with, split_secrets};
use proxy::{Fault, Proxy};
use support::{ACCESS, SECRET, Store};
use writes::Plain;

const SLOW_DOWN: &str =
    "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
const INTERNAL: &str =
    "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>";
const HALF_LISTING: &str = "<?xml version=\"1.0\"?><ListBucketResult><Name>data</Name><Contents><Key>one";

fn policy() -> Policy {
    Policy {
        attempt_timeout: Duration::from_millis(400),
        timeout: Duration::from_millis(1500),
        retries: 3,
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        retry_budget: 1000,
        ..Policy::default()
    }
}

/// How long a call may take at most: its deadline and what the machine needs.
const LONGEST: Duration = Duration::from_secs(6);

async fn start() -> (Store, Proxy, Arc<dyn Ufs>) {
    let store = Store::start().await;
    let address = store.endpoint.trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::start(address).await;
    let options = BTreeMap::from([
        ("endpoint_url".to_string(), proxy.endpoint.clone()),
        ("access".to_string(), ACCESS.to_string()),
        ("secret".to_string(), SECRET.to_string()),
        ("path_style".to_string(), "true".to_string()),
    ]);
    let (options, secrets) = split_secrets("s3://data", options);
    (store, proxy, open_with("s3://data", &options, &secrets, policy()).unwrap())
}

/// What must come of it. Of a call that fails any error will do that is not taken for success.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    Right,
    /// The right bytes, or an error.
    RightOrError,
    Error,
}

/// Every part must be right, also those of an attempt that fails in the end.
struct Told<'a> {
    what: &'a str,
    right: &'a [u8],
    whole: Collected,
    parts: AtomicUsize,
}

impl Sink for Told<'_> {
    fn take(&self, at: u64, part: Bytes) {
        let right = self.right.get(at as usize..at as usize + part.len());
        assert!(right == Some(&part[..]), "{}: wrong bytes at {at}", self.what);
        self.parts.fetch_add(1, Relaxed);
        self.whole.take(at, part);
    }
}

#[tokio::test]
async fn a_read_is_right_or_an_error_whatever_the_store_answers() {
    let (store, proxy, ufs) = start().await;
    let content: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    store.put("object", &content);
    let expect = Expect::of(&ufs.stat("object").await.unwrap().unwrap());
    let late = Duration::from_millis(50);
    let cases: Vec<(&str, Vec<Fault>, bool, Want)> = vec![
        ("latency", vec![Fault::Late(late)], true, Want::Right),
        ("two times 500", vec![Fault::Status(500, INTERNAL), Fault::Status(500, INTERNAL)], false, Want::Right),
        ("503 SlowDown", vec![Fault::Status(503, SLOW_DOWN), Fault::Status(503, SLOW_DOWN)], false, Want::Right),
        ("429", vec![Fault::Status(429, "")], false, Want::Right),
        ("always 500", vec![Fault::Status(500, INTERNAL)], true, Want::Error),
        ("always 503", vec![Fault::Status(503, SLOW_DOWN)], true, Want::Error),
        ("a cut in the body", vec![Fault::Cut(1000), Fault::Cut(0)], false, Want::Right),
        ("always a cut in the body", vec![Fault::Cut(49_999)], true, Want::Error),
        ("a lost answer", vec![Fault::Lost], false, Want::Right),
        ("a shorter body that says so", vec![Fault::Shorter(1)], true, Want::Error),
        ("a longer body that says so", vec![Fault::Longer(7)], true, Want::Error),
        ("an empty body", vec![Fault::Body("")], true, Want::Error),
        ("a page of a proxy", vec![Fault::Body("<html>Please log in</html>")], true, Want::Error),
        ("another range", vec![Fault::Header("content-range", "bytes 5-50004/100000")], true, Want::Error),
        ("another size", vec![Fault::Header("content-range", "bytes 10000-59999/70000")], true, Want::RightOrError),
        ("another version", vec![Fault::Header("etag", "\"0123456789abcdef\"")], true, Want::Error),
        ("the whole object", vec![Fault::Whole], true, Want::Error),
        ("drops", vec![Fault::Drip(Duration::from_millis(20))], true, Want::Error),
        ("no HTTP", vec![Fault::Garbage], true, Want::Error),
        ("no HTTP once", vec![Fault::Garbage], false, Want::Right),
        ("silence", vec![Fault::Late(Duration::from_secs(3600))], true, Want::Error),
        ("silence once", vec![Fault::Late(Duration::from_secs(3600))], false, Want::Right),
        ("not found", vec![Fault::Status(404, "")], true, Want::Error),
        ("access denied", vec![Fault::Status(403, "")], true, Want::Error),
        ("a redirect to nowhere", vec![Fault::Status(307, "")], true, Want::Error),
        ("not modified", vec![Fault::Status(304, "")], true, Want::Error),
    ];
    for (what, faults, forever, want) in cases {
        proxy.break_next("GET /data/object", &faults, forever);
        let began = Instant::now();
        let wanted = Wanted { key: "object", offset: 10_000, len: 50_000, expect: &expect };
        let told =
            Told { what, right: &content[10_000..60_000], whole: Collected::new(50_000), parts: AtomicUsize::new(0) };
        let read = ufs.fetch(wanted, &told).await.and_then(|()| told.whole.whole(50_000));
        let took = began.elapsed();
        assert!(took < LONGEST, "{what}: {took:?}");
        assert!(what != "drops" || told.parts.load(Relaxed) > 1, "bytes are told before the last of them has come");
        match (&read, want) {
            (Ok(bytes), Want::Right | Want::RightOrError) => {
                assert!(bytes[..] == content[10_000..60_000], "{what}: wrong bytes");
            }
            (Err(_), Want::Error | Want::RightOrError) => {}
            _ => panic!("{what}: {:?}", read.map(|bytes| bytes.len())),
        }
        assert!(!proxy.seen().is_empty(), "{what}: the store was not asked");
        proxy.heal();
        let again = ufs.read("object", 10_000, 50_000, &expect).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(again[..] == content[10_000..60_000], "after {what}");
    }
}

#[tokio::test]
async fn a_listing_is_whole_or_an_error_whatever_the_store_answers() {
    let (store, proxy, ufs) = start().await;
    for name in ["one", "three", "two"] {
        store.put(name, b"x");
    }
    let cases: Vec<(&str, Vec<Fault>, bool, Want)> = vec![
        ("503 SlowDown", vec![Fault::Status(503, SLOW_DOWN)], false, Want::Right),
        ("always 500", vec![Fault::Status(500, INTERNAL)], true, Want::Error),
        ("half an answer", vec![Fault::Body(HALF_LISTING)], true, Want::Error),
        ("a page of a proxy", vec![Fault::Body("<html>Please log in</html>")], true, Want::Error),
        ("no XML", vec![Fault::Body("\u{0}\u{1}\u{2} garbage <<<>")], true, Want::Error),
        ("an empty body", vec![Fault::Body("")], true, Want::Error),
        ("a cut in the body", vec![Fault::Cut(100)], false, Want::Right),
        ("drops", vec![Fault::Drip(Duration::from_millis(30))], true, Want::Error),
        ("silence", vec![Fault::Late(Duration::from_secs(3600))], true, Want::Error),
    ];
    for (what, faults, forever, want) in cases {
        proxy.break_next("list-type", &faults, forever);
        let began = Instant::now();
        let listed = ufs.list("", "", 100).await;
        assert!(began.elapsed() < LONGEST, "{what}");
        match (&listed, want) {
            (Ok(page), Want::Right) => assert_eq!((page.entries.len(), &page.next), (3, &None), "{what}"),
            (Err(_), Want::Error) => {}
            _ => panic!("{what}: {listed:?}"),
        }
        proxy.heal();
        assert_eq!(ufs.list("", "", 100).await.unwrap().entries.len(), 3, "after {what}");
    }
}

/// Its name, what is stored, which requests are disturbed and how, whether for ever, and what must come of it.
type Case<'a> = (&'a str, &'a [u8], &'a str, Vec<Fault>, bool, Want);

#[tokio::test]
async fn an_object_is_stored_whole_or_not_at_all_whatever_the_store_answers() {
    let (store, proxy, ufs) = start().await;
    let small: Vec<u8> = vec![7; 50_000];
    let large: Vec<u8> = (0..(9u32 << 20)).map(|i| (i ^ (i >> 9)) as u8).collect();
    const BAD_END: &str = "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>late</Message></Error>";
    let cases: Vec<Case> = vec![
        ("503 at a whole object", &small, "PUT /data", vec![Fault::Status(503, SLOW_DOWN)], false, Want::Right),
        ("a lost answer to a whole object", &small, "PUT /data", vec![Fault::Lost], false, Want::Right),
        ("always 500", &small, "PUT /data", vec![Fault::Status(500, INTERNAL)], true, Want::Error),
        ("silence", &small, "PUT /data", vec![Fault::Late(Duration::from_secs(3600))], true, Want::Error),
        ("500 at a part", &large, "partNumber=1", vec![Fault::Status(500, INTERNAL)], false, Want::Right),
        ("a lost answer to a part", &large, "partNumber=2", vec![Fault::Lost], false, Want::Right),
        ("500 at the beginning", &large, "uploads", vec![Fault::Status(500, INTERNAL)], false, Want::Right),
        ("garbage at the beginning", &large, "uploads", vec![Fault::Body("<what")], true, Want::Error),
        ("a lost answer to the end", &large, "POST /data/large?uploadId", vec![Fault::Lost], false, Want::RightOrError),
        (
            "an error with 200 at the end",
            &large,
            "POST /data/large?uploadId",
            vec![Fault::Body(BAD_END)],
            false,
            Want::RightOrError,
        ),
        ("always 500 at a part", &large, "partNumber=1", vec![Fault::Status(500, INTERNAL)], true, Want::Error),
    ];
    for (number, (what, data, wanted, faults, forever, want)) in cases.into_iter().enumerate() {
        let key = if data.len() > (8 << 20) { "large" } else { "small" };
        let before: Vec<u8> = format!("before {number}").into_bytes();
        store.put(key, &before);
        let there = Expect::of(&ufs.stat(key).await.unwrap().unwrap());
        proxy.break_next(wanted, &faults, forever);
        let (began, retries) = (Instant::now(), ufs.counters().snapshot().retries);
        let stored = ufs.store(key, &Plain::new(data, &format!("token-{number}")), &Condition::Is(there)).await;
        let limit = LONGEST + Duration::from_secs(2 * (data.len() as u64 >> 20));
        assert!(began.elapsed() < limit, "{what}: {:?}", began.elapsed());
        proxy.heal();
        let has = std::fs::read(store.path(key)).unwrap();
        assert!(has == before || has == data, "{what}: half an object of {} bytes", has.len());
        match (&stored, want) {
            (Ok(object), Want::Right | Want::RightOrError) => {
                assert!(has == data && object.size == data.len() as u64, "{what}: it is not what the answer says");
                // Also of a part: what is repeated counts.
                let retried = ufs.counters().snapshot().retries - retries;
                assert!(retried == 1 || want != Want::Right, "{what}: {retried} retries");
            }
            (Err(error), Want::Error | Want::RightOrError) => {
                assert_ne!(error.kind(), ErrorKind::Internal, "{what}: {error}");
            }
            _ => panic!("{what}: {stored:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_mount_is_said_in_words() {
    let (store, proxy, ufs) = start().await;
    store.put("f", b"x");
    let xml = |code: &str| -> &'static str {
        let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
        Box::leak(text.into_boxed_str())
    };
    for (status, code, want) in [
        (404, "NoSuchBucket", "there is no such bucket"),
        (403, "AccessDenied", "access denied"),
        (403, "InvalidAccessKeyId", "does not know this access key"),
        (403, "SignatureDoesNotMatch", "the secret does not belong"),
        (400, "ExpiredToken", "the session token has expired"),
        (403, "RequestTimeTooSkewed", "the clock of this machine"),
        (301, "PermanentRedirect", "another region"),
        (400, "AuthorizationHeaderMalformed", "another region"),
        (503, "SlowDown", "asks to slow down"),
    ] {
        proxy.break_next("list-type", &[Fault::Status(status, xml(code))], true);
        let error = ufs.list("", "", 1).await.unwrap_err().to_string();
        assert!(error.contains(want), "{code}: {error}");
    }
    proxy.break_next("list-type", &[Fault::Late(Duration::from_secs(3600))], true);
    let error = ufs.list("", "", 1).await.unwrap_err();
    let text =
        format!("{error}: {}", std::error::Error::source(&error).map(|source| source.to_string()).unwrap_or_default());
    assert!(text.contains("did not answer in time"), "{text}");

    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = plain.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await;
        }
    });
    proxy.heal();
    for (endpoint, want) in [
        (format!("http://{unused}"), "nobody listens there"),
        ("http://host.invalid".to_string(), "the host of the store is not known"),
        (tls, "does not speak TLS"),
    ] {
        let options = BTreeMap::from([
            ("endpoint_url".to_string(), endpoint.clone()),
            ("access".to_string(), ACCESS.to_string()),
            ("secret".to_string(), SECRET.to_string()),
        ]);
        let (options, secrets) = split_secrets("s3://data", options);
        let error = open_with("s3://data", &options, &secrets, policy()).unwrap().list("", "", 1).await.unwrap_err();
        let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(text.contains(want), "{endpoint}: {text}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_shown_are_found_in_parts() {
    const LISTING: &str = "<?xml version=\"1.0\"?><ListBucketResult><Name>data</Name><IsTruncated>false</IsTruncated>\
        <Contents><Key>p/a</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents><Contents><Key>p/a.txt</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>\
        <Contents><Key>p/a/x</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents><Contents><Key>p/b//c</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>\
        <Contents><Key>p/fine</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents><Contents><Key>p/z/../y</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>";
    let (_store, proxy, ufs) = start().await;
    proxy.break_next("list-type", &[Fault::Body(LISTING)], true);
    for limit in [1, 2, 100] {
        let (mut mark, mut odd, mut keys) = (SurveyMark::default(), Vec::new(), 0);
        loop {
            let page = ufs.survey("p/", &mark, limit).await.unwrap();
            odd.extend(page.odd.into_iter().map(|odd| odd.key));
            keys += page.keys;
            match page.next {
                Some(next) => mark = next,
                None => break,
            }
        }
        assert_eq!(
            (&odd[..], keys),
            (&["p/a".to_string(), "p/b//c".into(), "p/z/../y".into()][..], 6),
            "limit {limit}"
        );
    }
    proxy.break_next("list-type", &[Fault::Body(HALF_LISTING)], true);
    assert!(ufs.survey("p/", &SurveyMark::default(), 10).await.is_err());
}

#[tokio::test]
async fn a_directory_of_very_many_keys_is_told_from_the_beginning_and_in_flat_memory() {
    // A store that makes up its keys: 100,000 of them, in pages of 1,000.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    const KEYS: usize = 100_000;
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut socket, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                loop {
                    head.clear();
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let query =
                        text.split(' ').nth(1).and_then(|uri| uri.split_once('?')).map_or("", |(_, query)| query);
                    let value = |name: &str| {
                        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
                    };
                    let from: usize = value("continuation-token").parse().unwrap_or(0);
                    let until = (from + 1000).min(KEYS);
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let keys: String = (from..until)
                        .map(|key| format!("<Contents><Key>big/{key:06}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"))
                        .collect();
                    let more = until < KEYS;
                    let next = if more {
                        format!("<NextContinuationToken>{until}</NextContinuationToken>")
                    } else {
                        String::new()
                    };
                    let body = format!(
                        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{more}</IsTruncated>{next}{keys}</ListBucketResult>"
                    );
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let options =
        BTreeMap::from([("endpoint_url".to_string(), endpoint), ("anonymous".to_string(), "true".to_string())]);
    let ufs = open_with("s3://data", &options, &BTreeMap::new(), Policy::default()).unwrap();
    let first = ufs.list("big/", "", 1000).await.unwrap();
    let asked_first = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(asked_first <= 4, "the first entries come after a few requests, not after {asked_first}");
    let (mut told, mut next) = (first.entries.len(), first.next);
    let mut last = first.entries.last().map(|entry| entry.key.clone());
    while let Some(after) = next {
        let page = ufs.list("big/", &after, 1000).await.unwrap();
        assert!(page.entries.len() <= 1000 && page.entries.first().map(|entry| &entry.key) > last.as_ref());
        told += page.entries.len();
        last = page.entries.last().map(|entry| entry.key.clone()).or(last);
        next = page.next;
    }
    assert_eq!((told, last.as_deref()), (KEYS, Some("big/099999")));
    assert!(asked.load(std::sync::atomic::Ordering::Relaxed) <= 104, "each page is asked for about once");
}
