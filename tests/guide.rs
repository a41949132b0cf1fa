//! The tests of the deployment guide, with two mounts of one cluster in the place of the client's and the application's pod;
//! a bucket read through both of them; and `cv`, all as a user types it.

#[path = "guide/first_bytes.rs"]
mod first_bytes;
mod harness;
#[path = "guide/jobs.rs"]
mod jobs;
#[path = "guide/listing.rs"]
mod listing;
#[path = "guide/lives.rs"]
mod lives;
#[path = "guide/many.rs"]
mod many;
#[path = "guide/mounts.rs"]
mod mounts;
#[path = "guide/objects.rs"]
mod objects;
#[path = "guide/renames.rs"]
mod renames;
#[path = "guide/speed.rs"]
mod speed;
#[path = "guide/store.rs"]
mod store;
#[path = "guide/tool.rs"]
mod tool;
#[path = "guide/trash.rs"]
mod trash;
#[path = "guide/written.rs"]
mod written;

use std::path::Path;
use std::time::{Duration, Instant};

use harness::{Cluster, Plan, Rng, Run, Sh, until};
use store::{ACCESS, SECRET, Store, is_content};

/// How much later than its ttl a change in the store may be noticed.
const GRACE: Duration = Duration::from_secs(10);

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn the_four_tests_of_the_deployment_guide() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan::default());
    let client = text(&cluster.mount(0));
    let data = text(&cluster.mount(1));
    let on = |script: &str, mount: &str| Sh::run(script, &[mount]).ok();

    // Test 1: directly on the mount of the client.
    on(r#"echo "Hello Curvine!" > "$1"/test1.txt"#, &client);
    assert_eq!(on(r#"cat "$1"/test1.txt"#, &client), "Hello Curvine!\n");
    on(r#"mkdir -p "$1"/testdir && echo "Directory test" > "$1"/testdir/file.txt"#, &client);
    let listing = on(r#"ls -la "$1"/"#, &client);
    assert!(has_entry(&listing, '-', "test1.txt") && has_entry(&listing, 'd', "testdir"), "{listing}");

    // Test 2: from the application, which sees it at once and writes.
    let listing = on(r#"ls -la "$1"/"#, &data);
    assert!(has_entry(&listing, '-', "test1.txt") && has_entry(&listing, 'd', "testdir"), "{listing}");
    assert_eq!(on(r#"cat "$1"/testdir/file.txt"#, &data), "Directory test\n");
    on(r#"echo "PVC test success!" > "$1"/pvc-test.txt"#, &data);
    assert_eq!(on(r#"cat "$1"/pvc-test.txt"#, &data), "PVC test success!\n");

    // Test 3: each side sees what the other wrote.
    assert_eq!(on(r#"cat "$1"/pvc-test.txt"#, &client), "PVC test success!\n");
    on(r#"echo "Cross access test" > "$1"/cross-test.txt"#, &data);
    assert_eq!(on(r#"cat "$1"/cross-test.txt"#, &client), "Cross access test\n");

    // Test 4: a large file.
    let copied = Sh::run(r#"dd if=/dev/zero of="$1"/bigfile.dat bs=1M count=10"#, &[&data]);
    assert!(copied.worked() && copied.stderr.contains("10485760 bytes"), "{copied}");
    for mount in [&data, &client] {
        let line = on(r#"ls -lh "$1"/bigfile.dat"#, mount);
        assert!(line.starts_with("-rw-r--r-- 1 root root 10M "), "{line}");
    }
    assert_eq!(
        on(r#"cmp -n 10485760 "$1"/bigfile.dat /dev/zero && wc -c < "$1"/bigfile.dat"#, &client).trim(),
        "10485760"
    );

    cluster.finish();
}

#[test]
fn what_one_mount_writes_the_other_reads_at_once_a_hundred_times() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan::default());
    let mut rng = Rng::new(1);
    for turn in 0..100 {
        let (writer, reader) = (cluster.mount(turn % 2), cluster.mount((turn + 1) % 2));
        // Inline, at its limit, over it, several requests, over a block of 1 MiB.
        let length = [10, 16_384, 16_385, 300_000, 1_200_000][turn % 5];
        let content = rng.bytes(length);
        let name = format!("file-{}", turn % 7);
        std::fs::write(writer.join(&name), &content).expect("write");
        let seen = std::fs::read(reader.join(&name)).expect("read");
        assert!(seen == content, "turn {turn}: {} bytes of {length} came", seen.len());
    }
    cluster.finish();
}

/// Whether `ls -l` shows an entry of this kind.
fn has_entry(listing: &str, kind: char, name: &str) -> bool {
    listing.lines().any(|line| line.starts_with(kind) && line.ends_with(&format!(" {name}")))
}

fn mount_bucket(cluster: &Cluster, store: &Store, bucket: &str, path: &str, ttl: &str) -> Run {
    mount_bucket_with(cluster, store, bucket, path, &["--ttl", ttl])
}

fn mount_bucket_with(cluster: &Cluster, store: &Store, bucket: &str, path: &str, more: &[&str]) -> Run {
    let url = format!("s3://{bucket}");
    let endpoint = format!("endpoint_url={}", store.endpoint());
    let access = format!("access={ACCESS}");
    let secret = format!("secret={SECRET}");
    let mut arguments = vec!["mount", &url, path];
    arguments.extend(more);
    for option in [&endpoint, "region_name=us-east-1", "path_style=true", &access, &secret] {
        arguments.extend(["-c", option]);
    }
    cluster.cv(&arguments)
}

/// Compares the bucket and a mount of it, names and bytes.
#[track_caller]
fn assert_same(bucket: &Path, view: &Path) {
    let command = r#"cd "$1" && find . -type f | sort > "$3".1 && cd "$2" && find . -type f | sort > "$3".2 \
        && cmp "$3".1 "$3".2 && while read -r file; do cmp "$1/$file" "$2/$file" || exit 1; done < "$3".1"#;
    let scratch = tempfile::NamedTempFile::new().expect("make a file");
    Sh::run(command, &[&text(bucket), &text(view), &text(scratch.path())]).ok();
}

#[test]
fn a_file_that_is_used_on_two_nodes_is_fetched_once_and_then_read_from_the_disk_of_each() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["data"]);
    let cluster = Cluster::start(Plan::default());
    let mut rng = Rng::new(3);
    let files: Vec<(String, Vec<u8>)> =
        (0..4).map(|number| (format!("file-{number}"), rng.bytes((3 << 20) + number))).collect();
    for (name, content) in &files {
        store.put("data", name, content);
    }
    mount_bucket(&cluster, &store, "data", "/data", "300s").ok();
    for (name, content) in &files {
        assert!(std::fs::read(cluster.mount(0).join("data").join(name)).expect("read") == *content);
    }
    // From here on only the homes of the files have them.
    store.switch_off();
    for mount in [0, 1] {
        for (name, content) in &files {
            let path = cluster.mount(mount).join("data").join(name);
            until("a copy on the node of the mount", Duration::from_secs(60), || {
                let file = std::fs::File::open(&path).expect("open");
                let mut status = [0; 256];
                let length = rustix::fs::getxattr(&path, "curvine.status", &mut status).expect("ask");
                drop(file);
                String::from_utf8_lossy(&status[..length]).contains("io=passthrough").then_some(())
            });
            assert!(std::fs::read(&path).expect("read") == *content);
        }
    }
    cluster.finish();
}

#[test]
fn a_bucket_is_read_through_both_mounts_and_then_without_the_store() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["models"]);
    let mut rng = Rng::new(2);
    store.put("models", "readme.txt", b"hello, bucket\n");
    store.put("models", "empty", b"");
    store.put("models", "a/b/c/deep.bin", &rng.bytes(70_001));
    store.put("models", "a/with space and ü.txt", b"odd names are names");
    store.put("models", "large.bin", &rng.bytes((21 << 20) + 12_345));
    for number in 0..120 {
        store.put("models", &format!("many/{number:03}"), format!("number {number}").as_bytes());
    }
    let cluster = Cluster::start(Plan::default());
    mount_bucket(&cluster, &store, "models", "/bucket", "30m").ok();
    let table = cluster.cv(&["mount"]).ok();
    assert!(table.contains("s3://models") && table.contains("/bucket") && !table.contains(SECRET), "{table}");

    let bucket = store.path("models", "");
    let views = [cluster.mount(0).join("bucket"), cluster.mount(1).join("bucket")];
    store.take_requests();
    assert_same(&bucket, &views[0]);
    let first: Vec<_> = store.take_requests().into_iter().filter(|request| is_content(request)).collect();
    assert!(first.iter().any(|request| request.contains("large.bin")), "{first:?}");

    assert_same(&bucket, &views[1]);
    let second: Vec<_> = store.take_requests().into_iter().filter(|request| is_content(request)).collect();
    assert!(second.is_empty(), "the other mount is served by the cluster, not by the store: {second:?}");

    cluster.drop_caches();
    for view in &views {
        assert_same(&bucket, view);
    }
    let again = store.take_requests();
    assert!(again.is_empty(), "a second read makes no request: {again:?}");

    store.switch_off();
    cluster.drop_caches();
    for view in &views {
        assert_same(&bucket, view);
    }
    cluster.finish();
}

#[test]
fn what_changes_in_the_store_is_noticed_within_the_ttl_and_never_mixed() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["live"]);
    let version = |number: u8| vec![number; 3 << 20];
    store.put("live", "dir/object", &version(1));
    store.put("live", "dir/goes", b"going");
    let cluster = Cluster::start(Plan::default());
    mount_bucket(&cluster, &store, "live", "/live", "1s").ok();
    let views = [cluster.mount(0).join("live/dir"), cluster.mount(1).join("live/dir")];
    for view in &views {
        assert!(std::fs::read(view.join("object")).expect("read") == version(1));
        assert_eq!(std::fs::read(view.join("goes")).expect("read"), b"going");
        assert!(!view.join("comes").exists());
    }

    for number in 2..5 {
        store.put("live", "dir/object", &version(number));
        let changed = Instant::now();
        for view in &views {
            until("the new version of an object", GRACE, || {
                // A reader in the middle of the change may get an error, never a mixture.
                let content = std::fs::read(view.join("object")).ok()?;
                let seen = *content.first().expect("the object is not empty");
                assert!(content == version(seen), "{} bytes that are no version of the object", content.len());
                assert!(seen >= number - 1, "version {seen} came back");
                (seen == number).then_some(())
            });
        }
        println!("version {number} was seen by both mounts after {:?}", changed.elapsed());
    }
    // A version of another size.
    store.put("live", "dir/object", b"short");
    for view in &views {
        until("the short version", GRACE, || (std::fs::read(view.join("object")).ok()? == b"short").then_some(()));
    }

    store.put("live", "dir/comes", b"coming");
    store.delete("live", "dir/goes");
    for view in &views {
        until("a new name", GRACE, || (std::fs::read(view.join("comes")).ok()? == b"coming").then_some(()));
        until("a deleted name", GRACE, || std::fs::metadata(view.join("goes")).is_err().then_some(()));
        let listing = Sh::run(r#"ls "$1""#, &[&text(view)]).ok();
        assert_eq!(listing, "comes\nobject\n");
    }
    // The store goes away: what is known and cached stays readable though the ttl passes.
    store.switch_off();
    let off = Instant::now();
    while off.elapsed() < Duration::from_secs(3) {
        for view in &views {
            assert_eq!(std::fs::read(view.join("comes")).expect("read without the store"), b"coming");
        }
    }
    store.switch_on();
    store.put("live", "dir/back", b"again");
    for view in &views {
        until("a name after the store came back", GRACE, || view.join("back").exists().then_some(()));
    }
    cluster.finish();
}

#[test]
fn a_wrong_key_or_bucket_is_an_error_that_shows_no_secret() {
    let _alone = harness::alone();
    let store = Store::start(&["models"]);
    let cluster = Cluster::start(Plan { mounts: 0, ..Plan::default() });
    let missing = mount_bucket(&cluster, &store, "nowhere", "/nowhere", "1s").fails();
    assert!(!missing.stderr.contains(SECRET) && !missing.stderr.trim().is_empty(), "{missing}");
    let endpoint = format!("endpoint_url={}", store.endpoint());
    let wrong = cluster
        .cv(&[
            "mount",
            "s3://models",
            "/m",
            "-c",
            &endpoint,
            "-c",
            "region_name=us-east-1",
            "-c",
            "access=AKIAWRONG",
            "-c",
            "secret=wrong-secret-wrong",
        ])
        .fails();
    assert!(!wrong.stderr.contains("wrong-secret-wrong"), "{wrong}");
    assert!(!cluster.cv(&["mount"]).ok().contains("s3://"), "a mount that failed is not in the table");
    cluster.finish();
}
