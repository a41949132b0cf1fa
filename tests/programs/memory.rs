//! The memory of a mount, and of the others, under load: it stays below their limits, and what was in use is given back.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{self, Cluster, Plan, Role, until};

const MIB: u64 = 1 << 20;
/// What each process may have in memory as a whole, with the settings below.
const LIMIT: u64 = 256 * MIB;

/// Resident bytes of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number of KiB") * 1024
}

/// Opens that the master counts for the sessions of the mounts.
fn opens(cluster: &Cluster) -> u64 {
    let report = cluster.cv(&["report", "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let sessions = report["sessions"].as_array().cloned().unwrap_or_default();
    sessions.iter().map(|session| session["opens"].as_u64().expect("a number of opens")).sum()
}

fn limited() -> Option<(std::sync::MutexGuard<'static, ()>, Cluster)> {
    if harness::fuse_is_switched_off() {
        return None;
    }
    let alone = harness::alone();
    let plan = Plan { mounts: 1, limit: Duration::from_secs(3600), ..Plan::default() };
    let plan = plan.set("client", "memory_limit", "\"128MB\"").set("fuse", "memory_limit", "\"32MB\"");
    // What the kernel reads and writes by itself is in nobody's memory.
    let plan = plan.set("fuse", "passthrough", "false");
    let plan = plan.set("worker", "memory_limit", "\"128MB\"").set("master", "memory_limit", "\"64MB\"");
    Some((alone, Cluster::start(plan)))
}

/// The mount first, then the others that move or keep its data.
const ROLES: [Role; 4] = [Role::Mount(0), Role::Worker(0), Role::Worker(1), Role::Master];

/// The most that each process had in memory while something was done, in the order of `ROLES`.
fn peaks_while(cluster: &Cluster, work: impl FnOnce() + Send) -> [u64; 4] {
    // Of a mount it is the process that serves, not its supervisor.
    let pids = ROLES.map(|role| cluster.serving(role).unwrap_or_else(|| cluster.pid(role)));
    let (done, peaks) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                for (pid, peak) in pids.iter().zip(&peaks) {
                    peak.fetch_max(resident(*pid), Ordering::AcqRel);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // Also if it panics, or the watcher would never end.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let _done = Done(&done);
        work();
    });
    let peaks = peaks.map(AtomicU64::into_inner);
    println!("at most in memory: {:?}", ROLES.iter().zip(peaks.map(|peak| peak / MIB)).collect::<Vec<_>>());
    for (role, peak) in ROLES.iter().zip(peaks) {
        assert!(peak <= LIMIT, "{role:?}: {} MiB, more than {} MiB", peak / MIB, LIMIT / MIB);
    }
    peaks
}

/// `streams` writers and then readers of `length` bytes each, all at once.
fn streams(cluster: &Cluster, streams: u64, length: u64) {
    let path = |number: u64| -> PathBuf { cluster.mount(0).join(format!("stream-{number}")) };
    let block = |number: u64| vec![number as u8 ^ 0x5a; MIB as usize];
    std::thread::scope(|scope| {
        for number in 0..streams {
            scope.spawn(move || {
                let mut file = File::create(path(number)).expect("create");
                let block = block(number);
                for _ in 0..length / MIB {
                    file.write_all(&block).expect("write");
                }
            });
        }
    });
    cluster.drop_caches();
    std::thread::scope(|scope| {
        for number in 0..streams {
            scope.spawn(move || {
                let mut file = File::open(path(number)).expect("open");
                let (expected, mut block) = (block(number), vec![0; MIB as usize]);
                for _ in 0..length / MIB {
                    file.read_exact(&mut block).expect("read");
                    assert!(block == expected, "a wrong byte in stream {number}");
                }
                assert_eq!(file.read(&mut block).expect("read"), 0);
            });
        }
    });
    (0..streams).for_each(|number| std::fs::remove_file(path(number)).expect("remove"));
}

fn many_streams(count: u64, length: u64) {
    let Some((_alone, cluster)) = limited() else { return };
    let pid = cluster.serving(Role::Mount(0)).expect("a serving process");
    let before = resident(pid);
    let [peak, ..] = peaks_while(&cluster, || streams(&cluster, count, length));
    println!("{count} streams of {} MiB: {} MiB before", length / MIB, before / MIB);
    assert!(peak > before, "nothing was measured");
    until("no file is open any more", Duration::from_secs(30), || (opens(&cluster) == 0).then_some(()));
    cluster.finish();
}

/// Opens, closes and lists again and again: nothing of it stays.
fn many_cycles(cycles: u64, files: u64, listings: u64) {
    let Some((_alone, cluster)) = limited() else { return };
    let pid = cluster.serving(Role::Mount(0)).expect("a serving process");
    let dir = cluster.mount(0).join("dir");
    std::fs::create_dir(&dir).expect("make a directory");
    std::thread::scope(|scope| {
        for part in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                for number in (part..files).step_by(8) {
                    File::create(dir.join(format!("file-{number}"))).expect("create");
                }
            });
        }
    });
    let cycle = |cycles: u64| {
        std::thread::scope(|scope| {
            for part in 0..8 {
                let dir = &dir;
                scope.spawn(move || {
                    for number in (part..cycles).step_by(8) {
                        let path = dir.join(format!("file-{}", number % files));
                        File::options().read(true).write(number % 3 == 0).open(path).expect("open");
                    }
                });
            }
        });
    };
    let list = |listings: u64| {
        for _ in 0..listings {
            let names = std::fs::read_dir(&dir).expect("list").map(|entry| entry.expect("an entry").file_name());
            assert_eq!(names.count() as u64, files);
        }
    };
    // What is kept on purpose is kept after the first part.
    cycle(cycles / 5);
    list(listings / 5 + 1);
    let settled = resident(pid);
    let [peak, ..] = peaks_while(&cluster, || {
        cycle(cycles);
        list(listings);
    });
    println!(
        "{cycles} opens, {} names listed: {} MiB before, {} MiB at most",
        listings * files,
        settled / MIB,
        peak / MIB
    );
    assert!(peak <= settled + settled / 4 + 16 * MIB, "{} MiB grew to {} MiB", settled / MIB, peak / MIB);
    until("no file is open any more", Duration::from_secs(30), || (opens(&cluster) == 0).then_some(()));
    cluster.finish();
}

#[test]
fn many_streams_at_once_stay_within_the_memory_of_the_mount() {
    many_streams(64, 8 * MIB);
}

#[test]
#[ignore = "moves 64 GiB: make test-posix"]
fn many_large_streams_at_once_stay_within_the_memory_of_the_mount() {
    many_streams(64, harness::number("CURVINE_STREAM_MIB", 1024) * MIB);
}

#[test]
fn opening_closing_and_listing_leaves_nothing_behind() {
    many_cycles(4000, 500, 20);
}

#[test]
#[ignore = "takes many minutes: make test-posix"]
fn a_million_opens_and_ten_million_names_listed_leave_nothing_behind() {
    many_cycles(
        harness::number("CURVINE_OPENS", 1_000_000),
        20_000,
        harness::number("CURVINE_NAMES", 10_000_000) / 20_000,
    );
}
