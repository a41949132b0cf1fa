//! Creates files and looks others up, on each mount, while something else goes on, and says how long that took.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use curvine_proto::{LockKind, LockType, SetLock};

use crate::harness::{Cluster, Rng};

/// Pause between two calls, so that the probe itself is no load.
const PAUSE: Duration = Duration::from_millis(2);

/// The mounts to be probed; `/cold` has files that nobody has looked up.
pub struct Probe {
    mounts: Vec<PathBuf>,
    made: AtomicU64,
    files: u64,
}

impl Probe {
    pub fn new(cluster: &Cluster, files: u64) -> Self {
        std::fs::create_dir(cluster.mount(0).join("probe")).expect("make a directory");
        Self { mounts: (0..2).map(|number| cluster.mount(number)).collect(), made: AtomicU64::new(0), files }
    }

    /// Prints how long creating and looking up took while `work` was done.
    pub fn during(&self, what: &str, work: impl FnOnce()) {
        let done = AtomicBool::new(false);
        let begun = Instant::now();
        let mut figures = Vec::new();
        std::thread::scope(|scope| {
            let mut lanes = Vec::new();
            for (number, mount) in self.mounts.iter().enumerate() {
                let done = &done;
                lanes.push((number, "create", scope.spawn(move || repeat(done, || self.create(mount)))));
                let rng = Mutex::new(Rng::new(self.made.load(Ordering::Relaxed) + number as u64 + 1));
                lanes.push((number, "stat", scope.spawn(move || repeat(done, || self.stat(mount, &rng)))));
            }
            // Also if it panics, or the others would never end.
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Release);
                }
            }
            let over = Done(&done);
            work();
            drop(over);
            for (number, call, lane) in lanes {
                figures.push((number, call, lane.join().expect("nobody failed")));
            }
        });
        println!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
        for (number, call, took) in figures {
            show(&format!("{call:<6} on mount {number}"), took);
        }
    }

    fn create(&self, mount: &Path) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        drop(File::create_new(mount.join("probe").join(format!("new-{number}"))).expect("create"));
    }

    fn stat(&self, mount: &Path, rng: &Mutex<Rng>) {
        let number = rng.lock().expect("nobody panics under it").below(self.files);
        std::fs::symlink_metadata(mount.join("cold").join(format!("file-{number}"))).expect("stat");
    }
}

/// What the disk itself takes: two writers each append 4 KiB and make it durable, as often as creates are asked for.
pub fn disk(dir: &Path, time: Duration) {
    println!("the disk alone: {:.1} s", time.as_secs_f64());
    let end = Instant::now() + time;
    let write = |number: usize| {
        let mut file = File::create(dir.join(format!("disk-{number}"))).expect("create");
        let mut took = Vec::new();
        while Instant::now() < end {
            let begun = Instant::now();
            file.write_all(&[0; 4096]).and_then(|()| file.sync_data()).expect("write");
            took.push(begun.elapsed());
            std::thread::sleep(PAUSE);
        }
        took
    };
    let took = std::thread::scope(|scope| {
        [0, 1].map(|number| scope.spawn(move || write(number))).map(|lane| lane.join().expect("nobody failed"))
    });
    show("append and fdatasync, two at once", took.concat());
}

fn show(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: f64| took.get((took.len() as f64 * part) as usize).copied().unwrap_or_default();
    let longest = took.last().copied().unwrap_or_default();
    println!("  {what}: p50 {:>8.2?}  p99 {:>8.2?}  max {longest:>8.2?}  ({} calls)", at(0.5), at(0.99), took.len());
}

fn repeat(done: &AtomicBool, one: impl Fn()) -> Vec<Duration> {
    let mut took = Vec::new();
    while !done.load(Ordering::Acquire) || took.is_empty() {
        let begun = Instant::now();
        one();
        took.push(begun.elapsed());
        std::thread::sleep(PAUSE);
    }
    took
}

/// An exclusive flock.
pub fn whole_file() -> SetLock {
    SetLock { kind: LockKind::Flock as i32, r#type: LockType::Write as i32, owner: 1, ..Default::default() }
}
