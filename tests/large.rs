//! A million of everything: what others wait while something large goes on, and how long a restart takes.
//!
//! Figures are printed and never judged: they are those of the machine and of the build (`CURVINE_TEST_PROGRAM`). `CURVINE_LARGE` is how many;
//! `make test-posix` runs it whole, `make test` with a few thousand, so that it does not rot.

mod harness;
#[path = "large/probe.rs"]
mod probe;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use curvine_blockstore::{BlockStore, ContentKey, TierConfig, TierKind};
use curvine_client::{ClientOptions, FileSystem, NewFile, NewNode, NoEvents};
use curvine_config::ClusterConf;
use curvine_proto::SessionKind;
use curvine_types::{InodeId, Name, ROOT_INODE};
use futures::future::try_join_all;
use harness::{Cluster, Plan, Role, Run, until};
use probe::Probe;

const IN_FLIGHT: usize = 128;
/// So often is done what does not take long, for enough calls beside it.
const TURNS: usize = 4;
/// Longest that anything may take.
const LONG: Duration = Duration::from_secs(1800);

/// A session of the library that caches nothing and is trusted as a mount is.
async fn session(cluster: &Cluster, name: &str) -> FileSystem {
    let (conf, _) = ClusterConf::load(Some(&cluster.conf(Role::Master))).expect("a config file");
    let options = ClientOptions {
        client_name: name.to_string(),
        kind: SessionKind::Mount,
        secret: conf.secret().expect("a secret"),
        cached_inodes: 1,
        cached_names: 1,
        ..ClientOptions::from(&conf)
    };
    FileSystem::connect(options, Arc::new(NoEvents)).await.expect("a session")
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// Does something for each number below `count`, many at once.
async fn each<F: Future<Output = curvine_types::Result<()>>>(count: u64, one: impl Fn(u64) -> F) {
    let next = AtomicU64::new(0);
    let lane = || async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok::<(), curvine_types::Error>(());
            }
            one(number).await?;
        }
    };
    try_join_all((0..IN_FLIGHT).map(|_| lane())).await.expect("done");
}

/// Makes a directory of empty files at the root.
async fn fill(fs: &FileSystem, dir: &str, count: u64) -> InodeId {
    let node = NewNode { mode: 0o755, umask: 0, uid: 0, gid: 0 };
    let dir = fs.mkdir(ROOT_INODE, &name(dir), node).await.expect("mkdir").attr.inode;
    each(count, |number| async move {
        let new = NewFile { mode: 0o644, umask: 0, uid: 0, gid: 0, exclusive: true, open: None };
        fs.create(dir, &name(&format!("file-{number}")), new).await.map(drop)
    })
    .await;
    dir
}

/// Numbers of the master, by name.
fn gauges(cluster: &Cluster) -> HashMap<String, u64> {
    let report: serde_json::Value = serde_json::from_str(&cluster.cv(&["report", "json"]).ok()).expect("JSON");
    let gauges = report["gauges"].as_object().cloned().unwrap_or_default();
    gauges.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn show_longest(cluster: &Cluster) {
    let mut longest: Vec<_> = gauges(cluster).into_iter().filter(|(name, _)| name.starts_with("apply_")).collect();
    longest.sort();
    println!("the state's lock, in us: {longest:?}");
}

/// What was prepared goes to the disk before anything is measured that waits for the same disk.
fn settle() {
    Run::of(&mut std::process::Command::new("sync"), LONG).ok();
}

/// In memory, if there is room: a store is somewhere else, and a million files made on the disk of the log keep its journal busy for a
/// minute.
fn place_of_store(cluster: &Cluster, objects: u64) -> tempfile::TempDir {
    const BYTES_OF_OBJECT: u64 = 8 << 10;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    let place = if free > objects * BYTES_OF_OBJECT { memory } else { cluster.dir() };
    tempfile::tempdir_in(place).expect("make a directory")
}

/// Kills a process and starts it again; how long until it serves.
fn restart(cluster: &Cluster, role: Role, serves: impl Fn() -> bool) -> Duration {
    cluster.kill(role);
    cluster.launch(role);
    let begun = Instant::now();
    until("it serves again", LONG, || serves().then_some(()));
    begun.elapsed()
}

fn large(count: u64, lease: &str, renames: usize) {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let plan = Plan { workers: 1, limit: 4 * LONG, ..Plan::default() };
    let cluster = Cluster::start(plan.set("master", "lease_time", format!("{lease:?}")));
    let runtime = runtime();
    let begun = Instant::now();
    let fs = runtime.block_on(session(&cluster, "filler"));
    runtime.block_on(fill(&fs, "big", count));
    println!("{count} files made in {:.1} s", begun.elapsed().as_secs_f64());
    let cold = count.min(50_000);
    runtime.block_on(fill(&fs, "cold", cold));
    settle();

    let probe = Probe::new(&cluster, cold);
    let alone = Duration::from_millis(renames as u64 * 25);
    probe::disk(cluster.dir(), alone);
    probe.during("nothing else", || std::thread::sleep(alone));
    let store = place_of_store(&cluster, count);
    (0..count).for_each(|number| std::fs::write(store.path().join(format!("object-{number}")), b"x").expect("write"));
    cluster.cv(&["mount", &format!("file://{}", store.path().display()), "/ufs", "--ttl", "1h"]).ok();
    settle();
    probe.during("the first listing of a store's directory", || {
        assert_eq!(std::fs::read_dir(cluster.mount(0).join("ufs")).expect("list").count() as u64, count);
    });
    probe.during("listings", || {
        for _ in 0..TURNS {
            assert_eq!(std::fs::read_dir(cluster.mount(0).join("big")).expect("list").count() as u64, count);
        }
    });
    probe.during("snapshots", || {
        for _ in 0..TURNS {
            cluster.cv_limited(&["meta", "snapshot"], LONG).ok();
        }
    });
    probe.during("renames of the directory", || {
        for turn in 0..renames {
            let names = [["big", "renamed"], ["renamed", "big"]][turn % 2].map(|name| cluster.mount(0).join(name));
            std::fs::rename(&names[0], &names[1]).expect("rename");
        }
    });
    let locks = (count / 100).max(100);
    let holder = runtime.block_on(async {
        let holder = session(&cluster, "holder").await;
        let big = holder.resolve(b"/big").await.expect("the directory").attr.inode;
        each(locks, |number| {
            let holder = &holder;
            async move {
                let file = holder.lookup(big, &name(&format!("file-{number}"))).await?;
                let inode = file.entry.expect("a file").attr.inode;
                holder.setlk(inode, probe::whole_file(), false).await
            }
        })
        .await;
        holder
    });
    assert_eq!(gauges(&cluster)["locked_inodes"], locks);
    probe.during("the end of a session with 1 % of the files locked", || {
        runtime.block_on(holder.close(LONG)).expect("close");
        assert_eq!(gauges(&cluster)["locked_inodes"], 0);
    });
    show_longest(&cluster);
    for attempt in ["the log behind a snapshot", "a snapshot just taken"] {
        let took = restart(&cluster, Role::Master, || cluster.cv(&["report", "json"]).worked());
        println!("master with {} inodes, {attempt}: serves {:.2} s after its start", count * 2, took.as_secs_f64());
        cluster.cv_limited(&["meta", "snapshot"], LONG).ok();
    }
    cached(&cluster, &runtime, count);
    settle();
    probe.during("removal of the store's mount", || {
        cluster.cv(&["umount", "/ufs"]).ok();
        until("the tree is freed", LONG, || (gauges(&cluster)["doomed_trees"] == 0).then_some(()));
    });
    probe.during("rm -r", || {
        Run::of(std::process::Command::new("rm").arg("-r").arg(cluster.mount(0).join("big")), LONG).ok();
    });
    show_longest(&cluster);
    let _ = runtime.block_on(fs.close(Duration::from_secs(10)));
    cluster.finish();
}

/// Restarts the worker with a clean copy of each object of the store.
fn cached(cluster: &Cluster, runtime: &tokio::runtime::Runtime, count: u64) {
    let listed = std::fs::read_dir(cluster.mount(0).join("ufs")).expect("list");
    let inodes: Vec<InodeId> =
        listed.map(|entry| std::os::unix::fs::DirEntryExt::ino(&entry.expect("an entry"))).collect();
    let generation = runtime.block_on(async {
        let fs = session(cluster, "looker").await;
        let (attr, _) = fs.getattr(inodes[0]).await.expect("attributes");
        let _ = fs.close(Duration::from_secs(10)).await;
        attr.generation
    });
    cluster.kill(Role::Worker(0));
    let dir = cluster.dir().join("worker-0").join("ssd");
    let config = TierConfig { dir, kind: TierKind::Ssd, quota: None, reserve: 0, watermarks: None };
    plant(&config, &inodes, generation);
    cluster.begin(Role::Worker(0));
    let live = || {
        let nodes = cluster.cv(&["node", "--list", "--json"]);
        nodes.worked() && nodes.text().contains("\"live\": true")
    };
    cluster.kill(Role::Worker(0));
    until("it is missed", LONG, || (!live()).then_some(()));
    cluster.launch(Role::Worker(0));
    let begun = Instant::now();
    until("it serves again", LONG, || live().then_some(()));
    println!("worker with {count} cached files: serves {:.2} s after its start", begun.elapsed().as_secs_f64());
}

/// Puts a clean copy of each object into a stopped worker's directory.
fn plant(config: &TierConfig, inodes: &[InodeId], generation: u64) {
    let configs = std::slice::from_ref(config);
    let id = BlockStore::discover(configs).expect("the directory of a worker");
    let store = BlockStore::open(id, configs, Default::default()).expect("open the directory");
    for inode in inodes {
        let key = ContentKey { inode: *inode, generation };
        store.prepare_cached(key, 1).expect("prepare");
        store.fill(key, 0, b"x").expect("fill");
    }
    store.close().expect("close");
}

#[test]
fn large_directories_stores_and_sessions_are_made_used_and_removed() {
    large(500, "2s", 20);
}

#[test]
#[ignore = "takes many minutes: make test-posix"]
fn a_million_files_stop_nobody() {
    // A mount's session outlives the restart of a large master.
    large(harness::number("CURVINE_LARGE", 1_000_000), "10s", 200);
}
