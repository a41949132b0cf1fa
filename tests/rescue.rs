//! The ways out of trouble, as an operator takes them: `cv fsck`, `cv meta dump`, `cv meta load`.

mod harness;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use harness::{Cluster, Plan, Role, Run, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// `cv` without a cluster.
fn cv(arguments: &[&str]) -> Run {
    let mut command = Command::new(harness::cluster::CURVINE);
    command.arg0("cv").args(arguments).env_remove("CURVINE_CONF_FILE");
    Run::of(&mut command, PATIENCE)
}

fn write_some(cluster: &Cluster) {
    let root = cluster.mount(0);
    std::fs::create_dir(root.join("dir")).expect("make a directory");
    for number in 0..30 {
        std::fs::write(root.join(format!("dir/small-{number}")), format!("small {number}")).expect("write");
    }
    for number in 0..4u8 {
        std::fs::write(root.join(format!("big-{number}")), vec![number + 1; 300_000]).expect("write");
    }
    std::os::unix::fs::symlink("dir/small-3", root.join("link")).expect("make a symlink");
}

fn verify(cluster: &Cluster) {
    let root = cluster.mount(0);
    for number in 0..30 {
        let content =
            until("a read", PATIENCE, || std::fs::read_to_string(root.join(format!("dir/small-{number}"))).ok());
        assert_eq!(content, format!("small {number}"));
    }
    for number in 0..4u8 {
        let content = until("a read", PATIENCE, || std::fs::read(root.join(format!("big-{number}"))).ok());
        assert!(content == vec![number + 1; 300_000], "big-{number}");
    }
    assert_eq!(std::fs::read_to_string(root.join("link")).expect("read"), "small 3");
}

fn fsck(cluster: &Cluster) -> (Option<i32>, serde_json::Value) {
    let run = cluster.cv(&["fsck", "--json"]);
    let value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run}"));
    (run.code(), value)
}

#[test]
fn metadata_is_dumped_loaded_and_served_again_with_the_data_of_the_workers() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { mounts: 1, workers: 1, ..Plan::default() });
    write_some(&cluster);
    let journal = cluster.journal_dir().display().to_string();
    let dump = cluster.dir().join("metadata.jsonl").display().to_string();
    let busy = cv(&["meta", "dump", "--journal-dir", &journal, "--output", &dump]).fails();
    assert!(busy.stderr.contains("another process"), "{busy}");
    cluster.kill(Role::Master);
    cv(&["meta", "dump", "--journal-dir", &journal, "--output", &dump]).ok();
    let text = std::fs::read_to_string(&dump).expect("read the dump");
    assert!(text.lines().any(|line| line.contains("\"section\":\"Dentries\"") && line.contains("small-7")));

    // The directory is gone; a new one of the dump takes its place.
    std::fs::rename(&journal, format!("{journal}.old")).expect("set the journal aside");
    cv(&["meta", "load", "--journal-dir", &journal, &dump]).ok();
    cv(&["meta", "load", "--journal-dir", &journal, &dump]).fails();
    cluster.begin(Role::Master);
    verify(&cluster);
    std::fs::write(cluster.mount(0).join("after"), b"it goes on").expect("write");
    cluster.ready(Role::Worker(0));
    let (code, found) = fsck(&cluster);
    assert_eq!(code, Some(0), "{found:#}");
    assert!(found["contents"].as_u64() >= Some(4), "{found:#}");
    cluster.finish();
}

#[test]
fn a_master_that_refuses_to_start_names_the_way_out_and_the_way_out_works() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { mounts: 1, workers: 1, ..Plan::default() });
    write_some(&cluster);
    let synced = std::fs::metadata(cluster.mount(0).join("big-3")).expect("stat");
    assert_eq!(synced.len(), 300_000);
    cluster.kill(Role::Master);
    let journal = cluster.journal_dir();
    let segment = std::fs::read_dir(&journal)
        .expect("list the journal")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("read a segment");
    // Behind the records there are zeroes, for the next ones.
    let records = bytes.iter().rposition(|byte| *byte != 0).expect("records");
    bytes[records / 2] ^= 0xff;
    std::fs::write(&segment, bytes).expect("damage it");

    cluster.launch(Role::Master);
    assert_eq!(cluster.wait_end(Role::Master, PATIENCE).code(), Some(1), "it refuses");
    let log = cluster.log_text(Role::Master);
    assert!(log.contains("cv meta dump") && log.contains("offset"), "{log}");

    let (dir, dump) = (journal.display().to_string(), cluster.dir().join("rescued.jsonl").display().to_string());
    let rescue = cv(&["meta", "dump", "--journal-dir", &dir, "--output", &dump]);
    assert_eq!(rescue.code(), Some(3), "{rescue}");
    assert!(rescue.stderr.contains("lost: "), "{rescue}");
    std::fs::rename(&journal, journal.with_extension("old")).expect("set the journal aside");
    cv(&["meta", "load", "--journal-dir", &dir, &dump]).ok();
    cluster.begin(Role::Master);
    // What came before the damage is there and right.
    let root = cluster.mount(0);
    assert!(cluster.terminate(Role::Mount(0)).code().is_some());
    cluster.begin(Role::Mount(0));
    let names = std::fs::read_dir(root.join("dir")).expect("list").count();
    assert!(names > 3, "{names} names were rescued");
    for number in 0..names {
        let content = std::fs::read_to_string(root.join(format!("dir/small-{number}"))).expect("read");
        assert!(content.is_empty() || content == format!("small {number}"), "{content:?}");
    }
    std::fs::write(root.join("after"), vec![9; 100_000]).expect("write");
    let (code, found) = fsck(&cluster);
    assert!(matches!(code, Some(0 | 3)), "{found:#}");
    cluster.finish();
}

#[test]
fn content_that_a_worker_lost_is_found_by_name() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    // A client asks again where lost content is until its time is up.
    let plan = Plan { mounts: 1, workers: 1, ..Plan::default() };
    let cluster = Cluster::start(plan.set("client", "rpc_timeout_ms", "2000").set("client", "data_timeout_ms", "2000"));
    write_some(&cluster);
    let (code, found) = fsck(&cluster);
    assert_eq!((code, found["found"].as_array().map(Vec::len)), (Some(0), Some(0)), "{found:#}");
    // Everything sealed, then one file and the index are lost, as after a bad file system check.
    assert!(cluster.terminate(Role::Worker(0)).success());
    let (code, found) = fsck(&cluster);
    assert_eq!(code, Some(4), "with its worker away nothing can be said: {found:#}");
    std::fs::remove_dir_all(cluster.dir().join("worker-0/ssd")).expect("lose a disk");
    cluster.begin(Role::Worker(0));
    let (code, found) = fsck(&cluster);
    assert_eq!(code, Some(3), "{found:#}");
    let lost: Vec<&str> =
        found["found"].as_array().expect("a list").iter().filter_map(|one| one["path"].as_str()).collect();
    for number in 0..4 {
        assert!(lost.contains(&format!("/big-{number}").as_str()), "{lost:?}");
    }
    let read = std::fs::read(cluster.mount(0).join("big-2"));
    assert!(read.is_err(), "a file whose bytes are gone is an error, never zeroes");
    assert_eq!(std::fs::read_to_string(cluster.mount(0).join("dir/small-3")).expect("read"), "small 3");
    cluster.finish();
}
