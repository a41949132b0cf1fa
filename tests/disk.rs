//! Disks that fill up or fail, below whole processes: a clear state, no wrong answer, and a way back.

mod harness;

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Cluster, Plan, Role, Sh, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A small file system in memory; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, size: &str) -> Self {
        std::fs::create_dir_all(dir).expect("make a directory");
        Sh::run(r#"mount -t tmpfs -o "size=$2,mode=755" small "$1""#, &[&dir.display().to_string(), size]).ok();
        Self(dir.to_path_buf())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// The log's state as `cv report` tells it.
fn log_mode(cluster: &Cluster) -> (String, String) {
    let report: serde_json::Value = serde_json::from_str(&cluster.cv(&["report", "json"]).ok()).expect("JSON");
    let text = |key: &str| report["log"][key].as_str().expect("a text").to_string();
    (text("mode"), text("reason"))
}

#[test]
fn a_full_log_disk_means_read_only_until_there_is_room_again() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let place = tempfile::Builder::new().prefix("curvine-test-small-").tempdir().expect("make a directory");
    let disk = SmallDisk::mount(&place.path().join("disk"), "120m");
    let journal = disk.0.join("journal");
    let cluster = Cluster::start(Plan { mounts: 1, workers: 1, journal_dir: Some(journal), ..Plan::default() });
    let root = cluster.mount(0);
    std::fs::write(root.join("before"), b"acknowledged before").expect("write");
    assert_eq!(log_mode(&cluster).0, "working");

    // Somebody else fills the disk; the next changes find it full.
    let filler = disk.0.join("filler");
    let _ = Sh::run(r#"cat /dev/zero > "$1" 2>/dev/null"#, &[&filler.display().to_string()]);
    let mut made = 0;
    let refused = until("a change that is refused", PATIENCE, || {
        match std::fs::write(root.join(format!("until-full-{made}")), vec![7; 10_000]) {
            Ok(()) => {
                made += 1;
                None
            }
            Err(error) => Some(error),
        }
    });
    assert_eq!(refused.raw_os_error(), Some(28), "ENOSPC: {refused}");
    let (mode, reason) = log_mode(&cluster);
    assert!(mode == "read-only" && reason.contains("full"), "{mode}: {reason}");
    assert!(cluster.cv(&["report"]).ok().contains("READ-ONLY"));
    // Reads go on, of what was there and of what was acknowledged on the way.
    assert_eq!(std::fs::read(root.join("before")).expect("read"), b"acknowledged before");
    for number in 0..made {
        let content = std::fs::read(root.join(format!("until-full-{number}"))).expect("read");
        assert!(content == [7; 10_000], "{} bytes", content.len());
    }
    // A master that is started on the full disk comes up, too.
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    assert_eq!(log_mode(&cluster).0, "read-only");
    until("a read after the restart", PATIENCE, || std::fs::read(root.join("before")).ok());

    std::fs::remove_file(&filler).expect("make room");
    until("changes are taken again", PATIENCE, || std::fs::write(root.join("after"), b"with room").ok());
    assert_eq!(log_mode(&cluster).0, "working");
    assert_eq!(std::fs::read(root.join("after")).expect("read"), b"with room");
    cluster.finish();
    drop(cluster);
    drop(disk);
}

#[test]
fn a_master_whose_log_cannot_be_synced_ends_and_its_successor_has_all_that_was_acknowledged() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let plan = tempfile::Builder::new().prefix("curvine-test-faults-").tempdir().expect("make a directory");
    let faults = plan.path().join("faults");
    let environment = vec![("CURVINE_FAULT_LOG_DISK", faults.display().to_string())];
    let cluster = Cluster::start(
        Plan { mounts: 1, workers: 1, master_environment: environment, ..Plan::default() }.set("", "testing", "true"),
    );
    let root = cluster.mount(0);
    for number in 0..20 {
        std::fs::write(root.join(format!("before-{number}")), format!("content {number}")).expect("write");
    }
    std::fs::write(&faults, "sync log- 5\n").expect("plant a fault");
    // Whether this change exists afterwards is not known; that it is never acknowledged is.
    let writer = std::thread::spawn({
        let path = root.join("during");
        move || std::fs::write(path, b"never acknowledged before a new start")
    });
    let status = cluster.wait_end(Role::Master, PATIENCE);
    assert_eq!(status.code(), Some(1), "it ends with an error, so that its supervisor starts it again");
    let log = cluster.log_text(Role::Master);
    assert!(log.contains("cannot make the log durable"), "the reason is told:\n{log}");
    std::fs::remove_file(&faults).expect("heal the disk");
    cluster.begin(Role::Master);
    let acknowledged = writer.join().expect("the writer").is_ok();
    let during = until("an answer", PATIENCE, || match std::fs::read(root.join("during")) {
        Ok(content) => Some(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(None),
        Err(_) => None,
    });
    if acknowledged {
        assert_eq!(during.as_deref(), Some(&b"never acknowledged before a new start"[..]));
    }
    for number in 0..20 {
        let content = std::fs::read_to_string(root.join(format!("before-{number}"))).expect("read");
        assert_eq!(content, format!("content {number}"));
    }
    cluster.finish();
}

#[test]
fn a_snapshot_that_cannot_be_written_is_told_and_stops_nothing() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let plan = tempfile::Builder::new().prefix("curvine-test-faults-").tempdir().expect("make a directory");
    let faults = plan.path().join("faults");
    std::fs::write(&faults, "create snap- 5\n").expect("plant a fault");
    let environment = vec![("CURVINE_FAULT_LOG_DISK", faults.display().to_string())];
    let cluster = Cluster::start(
        Plan { mounts: 1, workers: 1, master_environment: environment, ..Plan::default() }
            .set("", "testing", "true")
            .set("journal", "snapshot_log_size", "\"1MB\""),
    );
    let root = cluster.mount(0);
    let mut number = 0;
    until("the report of a failed snapshot", PATIENCE, || {
        for _ in 0..20 {
            std::fs::write(root.join(format!("file-{number}")), vec![number as u8; 16_000]).expect("write");
            number += 1;
        }
        let report = cluster.cv(&["report"]).ok();
        report.contains("NO SNAPSHOT").then_some(())
    });
    assert_eq!(log_mode(&cluster).0, "working");
    std::fs::remove_file(&faults).expect("heal the disk");
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    for file in 0..number {
        let content = until("a read", PATIENCE, || std::fs::read(root.join(format!("file-{file}"))).ok());
        assert!(content == vec![file as u8; 16_000], "file {file}");
    }
    cluster.finish();
}

#[test]
fn a_failed_tier_directory_is_taken_out_of_service_and_comes_back() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster =
        Cluster::start(Plan { mounts: 1, workers: 1, ..Plan::default() }.set("worker", "probe_after", "\"1s\""));
    let root = cluster.mount(0);
    let big = vec![3; 200_000];
    std::fs::write(root.join("before"), &big).expect("write");
    let tier = cluster.dir().join("worker-0/ssd");
    let state = |cluster: &Cluster| -> String {
        let nodes: serde_json::Value =
            serde_json::from_str(&cluster.cv(&["node", "--list", "--json"]).ok()).expect("JSON");
        let tiers = nodes["workers"][0]["tiers"].as_array().expect("tiers").clone();
        let ssd = tiers.iter().find(|tier| tier["kind"] == "SSD").expect("an SSD tier");
        ssd["state"].as_str().expect("a text").to_string()
    };
    assert_eq!(state(&cluster), "ok");
    {
        // A read-only file system over it: every new file fails.
        let cover = SmallDisk::mount(&tier, "1m");
        Sh::run(r#"mount -o remount,ro "$1""#, &[&tier.display().to_string()]).ok();
        let mut number = 0;
        until("the tier directory is out of service", PATIENCE, || {
            number += 1;
            let _ = std::fs::write(root.join(format!("during-{number}")), &big);
            state(&cluster).starts_with("failed").then_some(())
        });
        assert!(cluster.cv(&["report"]).ok().contains("failed"), "the report tells of it");
        // Names and small files need no worker.
        std::fs::write(root.join("small"), b"small").expect("write a small file");
        drop(cover);
    }
    until("the tier directory is back", PATIENCE, || (state(&cluster) == "ok").then_some(()));
    until("writes work again", PATIENCE, || std::fs::write(root.join("after"), &big).ok());
    for name in ["before", "after"] {
        assert!(std::fs::read(root.join(name)).expect("read") == big, "{name}");
    }
    cluster.finish();
}
