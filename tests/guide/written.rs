//! Writing through a mount into a store: what is there when a call has returned, and what is there after things died.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::harness::{self, Cluster, Plan, Rng, Role, Sh, until};
use crate::store::Store;
use crate::{mount_bucket, mount_bucket_with, text};

/// How long what happens in the background may take.
const SOON: Duration = Duration::from_secs(60);

fn raw(errno: Errno) -> Option<i32> {
    Some(errno.raw_os_error())
}

fn errno(outcome: std::io::Result<impl Sized>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

#[track_caller]
fn assert_holds(path: &Path, content: &[u8]) {
    let there = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(there == content, "{}: {} bytes, not the {} expected", path.display(), there.len(), content.len());
}

/// The names in a directory, sorted, without what the store keeps for itself.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// The files below a directory, without what the store keeps for itself. (This store keeps directories that an object store would
/// not show.)
fn files(dir: &Path) -> Vec<String> {
    let found = Sh::run(r#"cd "$1" && find . -type f -not -path '*/.*' -printf '%P\n' | sort"#, &[&text(dir)]).ok();
    found.lines().map(str::to_string).collect()
}

/// Everything that is done to files and directories: each is in the store (`bucket`) at once, and seen by the other mount.
fn write_everything(bucket: &Path, view: &Path, other: &Path) {
    let mut rng = Rng::new(21);
    Sh::run(r#"echo helloworld > "$1"/bar"#, &[&text(view)]).ok();
    assert_holds(&bucket.join("bar"), b"helloworld\n");
    assert_holds(&other.join("bar"), b"helloworld\n");
    Sh::run(r#"echo again > "$1"/bar && echo and more >> "$1"/bar"#, &[&text(view)]).ok();
    assert_holds(&bucket.join("bar"), b"again\nand more\n");
    assert_holds(&other.join("bar"), b"again\nand more\n");

    // Larger than the metadata takes, than one request, than one part.
    for length in [16_385, 1_500_000, (20 << 20) + 77] {
        let content = rng.bytes(length);
        let name = format!("size-{length}");
        fs::write(view.join(&name), &content).expect("write");
        assert_holds(&bucket.join(&name), &content);
        assert_holds(&other.join(&name), &content);
        assert_holds(&view.join(&name), &content);
    }

    // In place, with what was there before; by the mount that did not write it.
    let name = format!("size-{}", 1_500_000);
    let mut content = fs::read(other.join(&name)).expect("read");
    let file = OpenOptions::new().read(true).write(true).open(other.join(&name)).expect("open");
    let part = rng.bytes(100_000);
    file.write_all_at(&part, 700_001).expect("write in the middle");
    content[700_001..800_001].copy_from_slice(&part);
    let mut back = vec![0; 200_000];
    file.read_exact_at(&mut back, 650_000).expect("read through the same file");
    assert!(back == content[650_000..850_000], "a writer reads what it wrote");
    drop(file);
    assert_holds(&bucket.join(&name), &content);
    assert_holds(&view.join(&name), &content);

    let mut file = OpenOptions::new().append(true).open(view.join(&name)).expect("open");
    file.write_all(b"the end").expect("append");
    drop(file);
    content.extend_from_slice(b"the end");
    assert_holds(&bucket.join(&name), &content);

    let mut file = OpenOptions::new().read(true).write(true).open(view.join(&name)).expect("open");
    file.set_len(1_000_000).expect("cut");
    file.seek(SeekFrom::Start(1_200_000)).expect("seek");
    file.write_all(b"beyond a hole").expect("write");
    drop(file);
    content.truncate(1_000_000);
    content.resize(1_200_000, 0);
    content.extend_from_slice(b"beyond a hole");
    assert_holds(&bucket.join(&name), &content);
    assert_holds(&other.join(&name), &content);

    // Names.
    fs::create_dir_all(view.join("deep/er")).expect("mkdir");
    assert!(bucket.join("deep/er").is_dir() && other.join("deep/er").is_dir());
    fs::write(view.join("deep/er/file"), b"below").expect("write");
    assert_holds(&bucket.join("deep/er/file"), b"below");
    assert_eq!(errno(fs::remove_dir(other.join("deep/er"))), raw(Errno::NOTEMPTY));
    fs::rename(other.join("deep/er/file"), other.join("moved")).expect("rename");
    assert!(!bucket.join("deep/er/file").exists() && !view.join("deep/er/file").exists());
    assert_holds(&bucket.join("moved"), b"below");
    assert_holds(&view.join("moved"), b"below");
    assert!(view.join("deep/er").is_dir(), "an empty directory stays one");
    fs::rename(view.join("moved"), view.join("bar")).expect("rename over another");
    assert_holds(&bucket.join("bar"), b"below");
    assert_holds(&other.join("bar"), b"below");

    for number in 0..12 {
        fs::write(view.join(format!("deep/er/{number}")), format!("{number}")).expect("write");
    }
    fs::rename(view.join("deep"), view.join("deeper")).expect("rename a directory");
    assert!(!bucket.join("deep/er/3").exists() && errno(fs::metadata(other.join("deep"))) == raw(Errno::NOENT));
    for number in 0..12 {
        assert_holds(&bucket.join(format!("deeper/er/{number}")), format!("{number}").as_bytes());
        assert_holds(&other.join(format!("deeper/er/{number}")), format!("{number}").as_bytes());
    }
    fs::remove_dir_all(other.join("deeper")).expect("remove a tree");
    assert!(files(bucket).iter().all(|file| !file.contains("deep")), "{:?}", files(bucket));
    assert!(!view.join("deeper").exists() && !other.join("deeper").exists());

    fs::remove_file(view.join("bar")).expect("unlink");
    assert!(!bucket.join("bar").exists() && errno(fs::read(other.join("bar"))) == raw(Errno::NOENT));
    let kept = fs::File::create_new(view.join("unlinked")).expect("create");
    fs::remove_file(view.join("unlinked")).expect("unlink while it is open");
    kept.write_all_at(b"still", 0).expect("write without a name");
    let mut still = vec![0; 5];
    kept.read_exact_at(&mut still, 0).expect("read without a name");
    assert_eq!(still, b"still");
    drop(kept);
    assert!(!bucket.join("unlinked").exists());

    // Attributes are kept beside the store.
    let file = view.join("size-16385");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o751)).expect("chmod");
    Sh::run(r#"touch -d '2001-02-03 04:05:06 UTC' "$1""#, &[&text(&file)]).ok();
    let seen = Sh::run(r#"stat -c '%a %Y' "$1"/size-16385"#, &[&text(other)]).ok();
    assert_eq!(seen.trim(), "751 981173106");
    assert_eq!(errno(fs::hard_link(&file, view.join("hard"))), raw(Errno::PERM));
    assert_eq!(errno(std::os::unix::fs::symlink("size-16385", view.join("soft"))), raw(Errno::PERM));

    // An empty file needs no close to be waited for.
    fs::File::create_new(view.join("empty")).expect("create");
    until("an empty file in the store", SOON, || bucket.join("empty").exists().then_some(()));
    let expected = ["empty", "size-1500000", "size-16385", "size-20971597"];
    assert_eq!(names(view), expected);
    assert_eq!(names(other), expected);
    assert_eq!(files(bucket), expected);
}

#[test]
fn what_is_written_into_a_bucket_is_in_the_store_when_close_returns() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["minio"]);
    let cluster = Cluster::start(Plan::default());
    mount_bucket_with(&cluster, &store, "minio", "/minio", &["--ttl", "30m", "--trash", "off"]).ok();
    let views = [cluster.mount(0).join("minio"), cluster.mount(1).join("minio")];
    write_everything(&store.path("minio", ""), &views[0], &views[1]);
    cluster.finish();
}

#[test]
fn what_is_written_into_a_mounted_directory_is_in_it_when_close_returns() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let dir = tempfile::tempdir().expect("make a directory");
    let cluster = Cluster::start(Plan::default());
    let url = format!("file://{}", dir.path().display());
    cluster.cv(&["mount", &url, "/dir", "--ttl", "30m", "--trash", "off"]).ok();
    let views = [cluster.mount(0).join("dir"), cluster.mount(1).join("dir")];
    write_everything(dir.path(), &views[0], &views[1]);
    assert!(!dir.path().join(".curvine-uploads").exists(), "nothing unfinished is left");
    cluster.finish();
}

#[test]
fn a_read_only_mount_refuses_and_a_store_that_is_away_fails_the_close_and_loses_nothing() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["away"]);
    store.put("away", "there", b"before");
    let cluster = Cluster::start(Plan::default().set("worker", "ufs_timeout", "\"4s\""));
    mount_bucket(&cluster, &store, "away", "/away", "30m").ok();
    let views = [cluster.mount(0).join("away"), cluster.mount(1).join("away")];
    assert_holds(&views[0].join("there"), b"before");
    store.switch_off();
    let content = Rng::new(5).bytes(300_000);
    let local = cluster.dir().join("local");
    fs::write(&local, &content).expect("write");
    // cp looks at what close says; the writes need no store.
    let copied = Sh::run(r#"cp "$1" "$2"/there"#, &[&text(&local), &text(&views[0])]).fails();
    assert!(copied.stderr.contains("close") && copied.stderr.contains("Input/output error"), "{copied}");
    assert_holds(&views[1].join("there"), &content);
    let refused = cluster.cv(&["umount", "/away"]).fails();
    assert!(refused.stderr.contains("uploaded") && refused.stderr.contains('1'), "{refused}");
    // What dies now loses nothing either.
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    store.switch_on();
    until("the upload after the store came back", SOON, || {
        (fs::read(store.path("away", "there")).ok()? == content).then_some(())
    });
    let mut there = Vec::new();
    fs::File::open(views[0].join("there")).expect("open").read_to_end(&mut there).expect("read");
    assert!(there == content);
    until("nothing waits any more", SOON, || cluster.cv(&["umount", "/away"]).worked().then_some(()));

    mount_bucket_with(&cluster, &store, "away", "/ro", &["--access-mode", "read_only"]).ok();
    let view = cluster.mount(0).join("ro");
    assert_eq!(errno(fs::write(view.join("there"), b"no")), raw(Errno::ROFS));
    assert_eq!(errno(fs::write(view.join("new"), b"no")), raw(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(view.join("there"))), raw(Errno::ROFS));
    assert_eq!(errno(fs::create_dir(view.join("dir"))), raw(Errno::ROFS));
    assert_holds(&view.join("there"), &content);
    cluster.finish();
}

#[test]
fn what_was_written_back_outlives_kills_and_no_half_object_is_seen() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["back"]);
    let cluster =
        Cluster::start(Plan { workers: 1, mounts: 1, ..Plan::default() }.set("worker", "ufs_timeout", "\"4s\""));
    mount_bucket_with(&cluster, &store, "back", "/back", &["--ttl", "30m", "--write", "back"]).ok();
    let view = cluster.mount(0).join("back");
    let mut rng = Rng::new(31);
    let mut written: Vec<(String, Vec<u8>)> = Vec::new();
    for number in 0..12 {
        let content = rng.bytes([0, 17, 16_000, 70_000, 1_300_000][number % 5]);
        let name = format!("file-{number}");
        fs::write(view.join(&name), &content).expect("write");
        written.push((name, content));
    }
    let large = rng.bytes((41 << 20) + 3);
    store.take_requests();
    fs::write(view.join("large"), &large).expect("write");
    // Killed in the middle of the upload of a large file.
    let begun = |request: &String| request.starts_with("PUT /back/large") && request.contains("partNumber");
    until("the upload of a large file", SOON, || store.take_requests().iter().any(begun).then_some(()));
    cluster.kill(Role::Worker(0));
    cluster.kill(Role::Master);
    let there = store.path("back", "large");
    assert!(!there.exists() || fs::read(&there).expect("read") == large, "half an object");
    cluster.begin(Role::Master);
    cluster.begin(Role::Worker(0));
    written.push(("large".to_string(), large));
    for (name, content) in &written {
        until("an upload after the restart", SOON, || {
            let there = fs::read(store.path("back", name)).ok()?;
            assert!(name != "large" || there.len() == content.len(), "half an object: {} bytes", there.len());
            (there == *content).then_some(())
        });
        until("the file itself", SOON, || (fs::read(view.join(name)).ok()? == *content).then_some(()));
    }
    until("nothing waits any more", SOON, || cluster.cv(&["umount", "/back"]).worked().then_some(()));
    cluster.finish();
}
