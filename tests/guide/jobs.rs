//! Work that the master does: loads, exports, frees, and what becomes of them when it is killed.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{self, Cluster, Plan, Rng, Role, Sh, until};
use crate::store::{Store, is_content, part_number};
use crate::{mount_bucket, mount_bucket_with, text};

/// How long what happens in the background may take.
const SOON: Duration = Duration::from_secs(60);

fn json(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("not JSON ({error}): {output}"))
}

fn assert_same_without_the_store(store: &mut Store, bucket: &str, view: &std::path::Path) {
    store.take_requests();
    store.switch_off();
    Sh::run(r#"diff -r "$1" "$2""#, &[&text(&store.path(bucket, "")), &text(view)]).ok();
    assert!(store.take_requests().is_empty());
}

#[test]
fn a_load_names_what_failed_and_is_whole_when_it_is_done_again() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["models"]);
    let mut rng = Rng::new(31);
    for number in 0..40 {
        store.put("models", &format!("deep/{}/{number}.bin", number % 7), &rng.bytes(50_000 + number));
    }
    store.put("models", "large", &rng.bytes(5 << 20));
    store.put("models", "empty", b"");
    store.deny(Some("/models/deep/3/17.bin"));
    let cluster = Cluster::start(Plan::default());
    mount_bucket(&cluster, &store, "models", "/models", "30m").ok();

    let typed = ["load", "/models/deep/*/1[0-9].bin", "/models/nothing", "--json"];
    let run = cluster.cv(&typed);
    let (answer, complaints) = (json(&run.text()), run.stderr.clone());
    assert_eq!(run.code(), Some(1));
    assert!(complaints.contains("/models/deep/3/17.bin") && complaints.contains("denies"), "{complaints}");
    assert!(complaints.contains("/models/nothing: there is no such"), "{complaints}");
    let number = |name: &str| answer[name].as_u64().unwrap_or_else(|| panic!("no {name}: {answer}"));
    assert_eq!((number("files"), number("found_files"), number("failures")), (9, 10, 2), "{answer}");
    assert_eq!((answer["state"].as_str(), answer["failed"].as_array().map(Vec::len)), (Some("partial"), Some(2)));
    let job = number("job").to_string();
    let status = cluster.cv(&["job", "status", &job]).ok();
    assert!(status.contains("partial") && status.contains("17.bin"), "{status}");
    assert!(cluster.cv(&["job", "cancel", &job]).fails().stderr.contains("ended"));

    // All of it, and once more: then nothing is asked of the store but names.
    store.deny(None);
    cluster.cv(&["load", "/models", "--watch", "--verify"]).ok();
    store.take_requests();
    let again = json(&cluster.cv(&["load", "/models", "--json"]).ok());
    assert_eq!((again["files"].as_u64(), again["fetched_bytes"].as_u64()), (Some(42), Some(0)), "{again}");
    assert!(!store.take_requests().iter().any(|request| is_content(request)));
    cluster.cv(&["job", "retry", &job]).ok();
    cluster.cv(&["job", "status", &job, "--watch"]).fails();
    let listed = cluster.cv(&["job", "list"]).ok();
    assert!(listed.matches("| load").count() == 3 && listed.contains("partial"), "{listed}");
    assert!(cluster.cv(&["load", "/models", "--replicas", "2"]).fails().stderr.contains("--replicas is 1"));
    assert_same_without_the_store(&mut store, "models", &cluster.mount(1).join("models"));

    // What is freed is fetched again.
    let freed = json(&cluster.cv(&["free", "/models/large", "--json"]).ok());
    assert!(freed["freed_bytes"].as_u64() >= Some(5 << 20), "{freed}");
    store.switch_on();
    let whole = std::fs::read(store.path("models", "large")).expect("read");
    // A copy that was on its way to the other node may come after it was freed.
    until("what was freed is fetched again", SOON, || {
        cluster.cv(&["free", "/models/large"]).ok();
        cluster.drop_caches();
        store.take_requests();
        assert!(std::fs::read(cluster.mount(1).join("models/large")).expect("read") == whole);
        store.take_requests().iter().any(|request| is_content(request)).then_some(())
    });
    cluster.finish();
}

#[test]
fn a_load_goes_on_after_its_master_was_killed_and_is_whole() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut store = Store::start(&["data"]);
    let mut rng = Rng::new(32);
    for number in 0..30 {
        store.put("data", &format!("{number}"), &rng.bytes(40_000));
    }
    let cluster = Cluster::start(Plan::default());
    mount_bucket(&cluster, &store, "data", "/b", "30m").ok();
    store.hold(true);
    let begun = json(&cluster.cv(&["load", "/b", "--detach", "--json"]).ok());
    let job = begun["job"].as_u64().expect("a number").to_string();
    let same = json(&cluster.cv(&["load", "/b", "--detach", "--json"]).ok());
    assert_eq!((same["job"].as_u64(), same["created"].as_bool()), (begun["job"].as_u64(), Some(false)));
    until("the load is under way", SOON, || {
        store.take_requests().iter().any(|request| is_content(request)).then_some(())
    });
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    let after = json(&cluster.cv(&["job", "status", &job, "--json"]).ok());
    assert!(matches!(after["state"].as_str(), Some("waiting" | "running")), "{after}");
    store.hold(false);
    cluster.cv(&["job", "status", &job, "--watch"]).ok();
    let done = json(&cluster.cv(&["job", "status", &job, "--json"]).ok());
    assert_eq!((done["state"].as_str(), done["files"].as_u64()), (Some("done"), Some(30)), "{done}");
    // The name of the directory is looked up while the store is there.
    std::fs::read_dir(cluster.mount(0).join("b")).expect("list").for_each(drop);
    assert_same_without_the_store(&mut store, "data", &cluster.mount(0).join("b"));
    cluster.finish();
}

#[test]
fn what_waits_is_exported_and_a_job_that_takes_too_long_is_cancelled() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["data"]);
    let content = Rng::new(33).bytes(100_000);
    store.put("data", "slow", &content);
    let cluster = Cluster::start(Plan::default());
    mount_bucket_with(&cluster, &store, "data", "/b", &["--write", "back"]).ok();
    let view = cluster.mount(0).join("b");
    std::fs::create_dir_all(cluster.mount(0).join("own")).expect("make a directory");
    std::fs::write(cluster.mount(0).join("own/file"), b"of Curvine").expect("write");
    store.hold(true);
    std::fs::write(view.join("waits"), &content[1..]).expect("write");
    let uploads = cluster.cv(&["job", "list", "--uploads"]).ok();
    assert!(uploads.contains("upload") && uploads.contains("waits"), "{uploads}");
    store.hold(false);
    let exported = json(&cluster.cv(&["export", "/b", "/own", "--json"]).ok());
    assert_eq!((exported["state"].as_str(), exported["own_files"].as_u64()), (Some("done"), Some(1)), "{exported}");
    assert!(exported["files"].as_u64() >= Some(1), "{exported}");
    assert!(std::fs::read(store.path("data", "waits")).expect("read") == content[1..]);

    store.hold(true);
    let begun = json(&cluster.cv(&["load", "/b/slow", "--detach", "--json"]).ok());
    let job = begun["job"].as_u64().expect("a number").to_string();
    until("the load is under way", SOON, || {
        cluster.cv(&["job", "status", &job]).ok().contains("running").then_some(())
    });
    cluster.cv(&["job", "cancel", &job]).ok();
    let status = cluster.cv(&["job", "status", &job]).ok();
    assert!(status.contains("cancelled"), "{status}");
    store.hold(false);
    cluster.cv(&["job", "retry", &job]).ok();
    cluster.cv(&["job", "status", &job, "--watch"]).ok();
    cluster.finish();
}

/// Uploads a file of so many bytes to a store that holds back what `hold` says, lets roles die once it `is_under_way`, and has them begin
/// again in the opposite order, with a store that answers. Returns when the store has the file and nothing else; the requests since then.
fn interrupt_an_upload(
    length: usize,
    hold: impl FnOnce(&Store),
    is_under_way: impl Fn(&Store) -> bool,
    killed: &[Role],
) -> Vec<String> {
    let store = Store::start(&["data"]);
    let cluster = Cluster::start(Plan { workers: 1, mounts: 1, ..Plan::default() });
    mount_bucket_with(&cluster, &store, "data", "/b", &["--write", "back"]).ok();
    let content = Rng::new(34).bytes(length);
    hold(&store);
    std::fs::write(cluster.mount(0).join("b/large"), &content).expect("write");
    until("the upload is under way", SOON, || is_under_way(&store).then_some(()));
    killed.iter().for_each(|role| cluster.kill(*role));
    store.take_requests();
    killed.iter().rev().for_each(|role| cluster.begin(*role));
    store.hold(false);
    until("it is stored", SOON, || {
        std::fs::read(store.path("data", "large")).is_ok_and(|stored| stored == content).then_some(())
    });
    let requests = store.take_requests();
    cluster.cv(&["export", "/b"]).ok();
    until("nothing is left of the first attempt", SOON, || store.unfinished().is_empty().then_some(()));
    assert!(std::fs::read(cluster.mount(0).join("b/large")).expect("read") == content);
    cluster.finish();
    requests
}

#[test]
fn an_upload_that_died_in_the_middle_is_given_up_before_the_next_one() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let is_under_way = |store: &Store| {
        let sends = store.take_requests().iter().any(|request| request.contains("partNumber"));
        sends && !store.unfinished().is_empty()
    };
    interrupt_an_upload(20 << 20, |store| store.hold(true), is_under_way, &[Role::Worker(0)]);
}

#[test]
fn an_upload_that_died_in_the_middle_goes_on_where_it_was() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let are_there = |store: &Store| {
        let parts = store.unfinished();
        [1, 2, 3].iter().all(|number| parts.iter().any(|part| part.ends_with(&format!(".part-{number}"))))
    };
    let killed = [Role::Worker(0), Role::Master];
    let requests = interrupt_an_upload((60 << 20) + 12_345, |store| store.hold_parts_from(4), are_there, &killed);
    let sent: Vec<usize> = requests.iter().filter_map(|request| part_number(request)).collect();
    assert!(sent.contains(&4) && ![1, 2, 3].iter().any(|number| sent.contains(number)), "{sent:?}");
}
