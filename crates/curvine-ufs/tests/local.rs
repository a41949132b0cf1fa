//! Directories as under file systems.

#[path = "support/writes.rs"]
mod writes;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use curvine_types::ErrorKind;
use curvine_ufs::{Expect, Ufs};

fn open(root: &Path) -> Arc<dyn Ufs> {
    curvine_ufs::open(&format!("file://{}", root.display()), &BTreeMap::new(), &BTreeMap::new()).unwrap()
}

async fn names(ufs: &Arc<dyn Ufs>, prefix: &str, limit: usize) -> Vec<String> {
    let (mut got, mut after) = (Vec::new(), String::new());
    loop {
        let page = ufs.list(prefix, &after, limit).await.unwrap();
        got.extend(page.entries.into_iter().map(|object| object.key));
        match page.next {
            Some(next) => after = next,
            None => return got,
        }
    }
}

#[tokio::test]
async fn a_tree_is_listed_in_order_with_odd_names() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".hidden", "a b ", "a-b", "ünï", "per%cent", "new\nline", "...", "z"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::fs::write(dir.path().join("a/inner"), "").unwrap();
    std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"not\xffutf8")), "").unwrap();
    let ufs = open(dir.path());
    let mut want = vec![".hidden", "a b ", "a-b", "ünï", "per%cent", "new\nline", "...", "z", "a/"];
    want.sort_unstable();
    for limit in [1, 4, 100] {
        assert_eq!(names(&ufs, "", limit).await, want, "limit {limit}");
    }
    assert_eq!(names(&ufs, "a/", 10).await, ["a/inner"]);
    assert!(ufs.counters().snapshot().skipped >= 1);
    for name in ["a b ", "...", "new\nline"] {
        let object = ufs.stat(name).await.unwrap().unwrap();
        let bytes = ufs.read(name, 0, object.size, &Expect::of(&object)).await.unwrap();
        assert_eq!(bytes, name.as_bytes());
    }
    assert_eq!(ufs.stat("a").await.unwrap().unwrap().key, "a/");
    assert_eq!(ufs.stat("b").await.unwrap(), None);
    assert_eq!(ufs.stat("z/below").await.unwrap(), None);
    assert_eq!(ufs.list("z/", "", 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(ufs.list("missing/", "", 1).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn links_inside_are_followed_and_nothing_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    std::fs::write(dir.path().join("real/file"), "content").unwrap();
    symlink("real/file", dir.path().join("inside")).unwrap();
    symlink("real", dir.path().join("inside-dir")).unwrap();
    symlink(outside.path(), dir.path().join("outside")).unwrap();
    symlink("../../../../../../etc/passwd", dir.path().join("up")).unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    symlink("gone", dir.path().join("dangling")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    let ufs = open(dir.path());
    assert_eq!(names(&ufs, "", 2).await, ["inside", "inside-dir/", "real/"]);
    assert_eq!(names(&ufs, "inside-dir/", 2).await, ["inside-dir/file"]);
    for key in ["outside", "outside/secret", "up", "loop", "dangling", "fifo", "../x", "real/../../x"] {
        assert_eq!(ufs.stat(key).await.unwrap(), None, "{key}");
        let read = ufs.read(key, 0, 0, &Expect::default()).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::NotFound, "{key}");
    }
}

#[tokio::test]
async fn a_changed_file_is_never_read_as_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, "version one").unwrap();
    let ufs = open(dir.path());
    let expect = Expect::of(&ufs.stat("f").await.unwrap().unwrap());
    assert_eq!(ufs.read("f", 8, 3, &expect).await.unwrap(), b"one"[..]);
    std::fs::write(&path, "version two").unwrap();
    std::fs::File::open(&path).unwrap().set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
    assert_eq!(ufs.read("f", 8, 3, &expect).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    std::fs::write(&path, "v3").unwrap();
    assert_eq!(ufs.read("f", 0, 1, &expect).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ufs.read("f", 0, 1, &expect).await.unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::create_dir(&path).unwrap();
    assert_eq!(ufs.read("f", 0, 1, &expect).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_root_that_is_gone_is_an_error_and_not_an_empty_tree() {
    let dir = tempfile::tempdir().unwrap();
    let ufs = open(&dir.path().join("missing"));
    assert_eq!(ufs.stat("f").await.unwrap_err().kind(), ErrorKind::Ufs);
    assert_eq!(ufs.list("", "", 1).await.unwrap_err().kind(), ErrorKind::Ufs);
    assert_eq!(ufs.list("a/", "", 1).await.unwrap_err().kind(), ErrorKind::Ufs);
}

#[tokio::test]
async fn a_large_directory_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..5000 {
        std::fs::write(dir.path().join(format!("f{number:05}")), "").unwrap();
    }
    let ufs = open(dir.path());
    let first = ufs.list("", "", 10).await.unwrap();
    // What comes after the names were read belongs to the next listing.
    std::fs::write(dir.path().join("f00010a"), "").unwrap();
    std::fs::remove_file(dir.path().join("f00011")).unwrap();
    let second = ufs.list("", first.next.as_deref().unwrap(), 10).await.unwrap();
    let got: Vec<&str> = second.entries.iter().map(|object| object.key.as_str()).collect();
    assert_eq!((got[0], got[1], got.len()), ("f00010", "f00012", 10));
    assert_eq!(names(&ufs, "", 333).await.len(), 5000);
}

#[test]
fn a_file_url_takes_no_options() {
    let options = BTreeMap::from([("endpoint_url".to_string(), "x".to_string())]);
    assert!(curvine_ufs::open("file:///tmp", &options, &BTreeMap::new()).is_err());
    assert!(curvine_ufs::open("file://tmp", &BTreeMap::new(), &BTreeMap::new()).is_err());
}

#[tokio::test]
async fn files_are_stored_conditionally_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let ufs = open(dir.path());
    writes::store_conditionally(&*ufs, &|key| std::fs::read(dir.path().join(key)).ok()).await;
    assert_eq!(names(&ufs, "", 10).await, ["below/"], "what is unfinished is not shown");
    std::fs::write(dir.path().join(".curvine-uploads/rest"), "").unwrap_or_default();
    assert_eq!(ufs.stat(".curvine-uploads").await.unwrap(), None);
}

#[tokio::test]
async fn names_are_changed_below_the_root_only() {
    let dir = tempfile::tempdir().unwrap();
    let ufs = open(dir.path());
    writes::change_names(&*ufs, true, &|key| std::fs::read(dir.path().join(key)).ok()).await;
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join("out")).unwrap();
    let stored = ufs.store("out/file", &writes::Plain::new(b"x", "t"), &curvine_ufs::Condition::Any).await;
    assert!(stored.is_err() && ufs.delete("out/file").await.is_ok());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}
