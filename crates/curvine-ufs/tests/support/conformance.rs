//! What every store does, whatever it is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use curvine_types::ErrorKind;
use curvine_ufs::{Condition, Expect, Object, SurveyMark, Ufs};

use crate::writes::{Plain, change_names, store_conditionally};

/// What stores differ in.
#[derive(Clone, Copy)]
pub struct Traits {
    /// It shows directories that nothing is in.
    pub shows_empty: bool,
    /// It has names with `%` and `+` in them.
    pub escapes: bool,
    /// It asks for what it has before it takes something else; an emulator may not.
    pub conditions: bool,
}

/// Goes through all that is promised of a store. It is empty at the beginning.
pub async fn conform(ufs: &dyn Ufs, traits: Traits, holds: impl Fn(&str) -> Option<Vec<u8>>) {
    assert!(ufs.stat("").await.unwrap().unwrap().directory);
    assert_eq!(ufs.list("", "", 10).await.unwrap().entries, []);
    if traits.conditions {
        store_conditionally(ufs, &holds).await;
    }
    change_names(ufs, traits.shows_empty, &holds).await;
    directories_are_told_in_order_and_in_parts(ufs, traits.escapes).await;
    ranges_are_exact_and_of_one_version(ufs).await;
    odd_calls_are_errors(ufs).await;
}

/// What another client sees of a store, for `conform`.
pub fn seen_by(ufs: Arc<dyn Ufs>) -> impl Fn(&str) -> Option<Vec<u8>> {
    move |key| {
        let look = async {
            let there = ufs.stat(key).await.unwrap()?;
            Some(ufs.read(key, 0, there.size, &Expect::of(&there)).await.unwrap().to_vec())
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(look))
    }
}

async fn put(ufs: &dyn Ufs, key: &str, content: &[u8]) -> Object {
    ufs.store(key, &Plain::new(content, "token"), &Condition::Any).await.unwrap()
}

async fn directories_are_told_in_order_and_in_parts(ufs: &dyn Ufs, escapes: bool) {
    // Where directories, files and what is not ASCII are easily taken in another order.
    let mut files = vec!["a", "a-b/x", "a.txt", "a0", "aé", "b/c/d", "b!", "é", "日本/x", "z", "ab c"];
    if escapes {
        files.extend(["with%2Fescape", "plus+and&=?"]);
    }
    for key in &files {
        put(ufs, &format!("list/{key}"), key.as_bytes()).await;
    }
    for number in 0..120 {
        put(ufs, &format!("list/many{number:03}"), b"").await;
    }
    let top = |key: &str| key.split_once('/').map_or(key.to_string(), |(top, _)| format!("{top}/"));
    let mut want: Vec<String> = files.iter().map(|key| format!("list/{}", top(key))).collect();
    want.extend((0..120).map(|number| format!("list/many{number:03}")));
    want.sort();
    for limit in [1000, 50, 7] {
        let (mut got, mut after) = (Vec::new(), String::new());
        loop {
            let page = ufs.list("list/", &after, limit).await.unwrap();
            assert!(page.entries.len() <= limit);
            got.extend(page.entries);
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(got.iter().map(|object| object.key.clone()).collect::<Vec<_>>(), want, "limit {limit}");
        assert!(got.iter().all(|object| object.directory == object.key.ends_with('/')));
    }
    for from in [0, 3, 5, 100] {
        // Nobody has kept this listing.
        let page = ufs.list("list/", &want[from], 2).await.unwrap();
        assert_eq!(
            page.entries.iter().map(|object| &object.key).collect::<Vec<_>>(),
            want[from + 1..from + 3].iter().collect::<Vec<_>>()
        );
    }
    for key in &files {
        let found = ufs.stat(&format!("list/{key}")).await.unwrap().unwrap();
        assert_eq!((found.size, found.directory), (key.len() as u64, false), "{key}");
        let listed =
            ufs.list(&format!("list/{}", &key[..key.rfind('/').map_or(0, |at| at + 1)]), "", 1000).await.unwrap();
        let listed = listed.entries.into_iter().find(|object| object.key == found.key).unwrap();
        assert_eq!((listed.size, listed.mtime), (found.size, found.mtime), "a listing tells what a look tells");
        assert!(ufs.read(&found.key, 0, found.size, &Expect::of(&listed)).await.unwrap() == key.as_bytes());
    }
    assert_eq!(ufs.list("list/b/", "", 10).await.unwrap().entries[0].key, "list/b/c/");
    assert_eq!(ufs.list("list/a/", "", 10).await.unwrap_err().kind(), ErrorKind::NotFound, "of a file");
    assert_eq!(ufs.list("nowhere/", "", 10).await.unwrap_err().kind(), ErrorKind::NotFound);
    let (mut mark, mut keys) = (SurveyMark::default(), 0);
    loop {
        let page = ufs.survey("list/", &mark, 1000).await.unwrap();
        assert_eq!(page.odd, []);
        keys += page.keys;
        match page.next {
            Some(next) => mark = next,
            None => break,
        }
    }
    assert!(keys >= files.len() as u64 + 120, "{keys}");
}

async fn ranges_are_exact_and_of_one_version(ufs: &dyn Ufs) {
    let content: Vec<u8> = (0..(9u32 << 20) + 77).map(|i| (i * 7 + i / 251) as u8).collect();
    let size = content.len() as u64;
    let stored = put(ufs, "ranges/f", &content).await;
    let expect = Expect::of(&stored);
    for (offset, len) in [(0, size), (0, 1), (size - 1, 1), (65_536, 65_536), ((4 << 20) - 3, 100_001), (7, 0)] {
        let bytes = ufs.read("ranges/f", offset, len, &expect).await.unwrap();
        assert!(bytes == content[offset as usize..(offset + len) as usize], "{offset}+{len}");
    }
    assert_eq!(ufs.read("ranges/f", size, 1, &expect).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(ufs.read("ranges/f", u64::MAX, 2, &expect).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    for other in [
        Expect { size: size + 1, etag: "another".into(), ..expect.clone() },
        Expect { size: size - 1, etag: "another".into(), ..expect.clone() },
    ] {
        let error = ufs.read("ranges/f", 0, 100, &other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch, "{error}");
    }
    if stored.mtime.is_some() {
        let mtime = Some(SystemTime::now() - Duration::from_secs(1_000_000));
        let older = Expect { etag: String::new(), mtime, ..expect.clone() };
        assert_eq!(ufs.read("ranges/f", 0, 100, &older).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    }
    ufs.delete("ranges/f").await.unwrap();
    assert_eq!(ufs.read("ranges/f", 0, 100, &expect).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn odd_calls_are_errors(ufs: &dyn Ufs) {
    assert_eq!(ufs.stat("nothing").await.unwrap(), None);
    assert_eq!(ufs.stat("list/a/below a file").await.unwrap(), None);
    let absent = Expect { size: 3, ..Expect::default() };
    assert_eq!(ufs.read("nothing", 0, 3, &absent).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(ufs.rename("nothing", "other", &absent).await.unwrap_err().kind(), ErrorKind::NotFound);
    ufs.delete("nothing").await.unwrap();
    ufs.remove_directory("nothing/").await.unwrap();
    let counts = ufs.counters().snapshot();
    assert!(counts.requests > 100 && counts.bytes > 0 && counts.written > 0 && counts.in_flight == 0, "{counts:?}");
}
