//! Processes that end, by force or by request, at rest and under load: nothing that was acknowledged is lost, and whoever
//! waits for them gets an answer in time.

mod harness;
#[path = "restart/ledger.rs"]
mod ledger;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Cluster, Plan, Rng, Role, Sh, mountinfo, until, within};
use ledger::Ledger;

const EVERYBODY: [Role; 5] = [Role::Master, Role::Worker(0), Role::Worker(1), Role::Mount(0), Role::Mount(1)];

fn write_through(cluster: &Cluster, mount: usize, dir: &str, rng: &mut Rng, calls: usize) -> Ledger {
    let root = cluster.mount(mount);
    std::fs::create_dir(root.join(dir)).expect("make a directory");
    let ledger = ledger::write(&root, dir, rng, &AtomicBool::new(false), calls);
    assert_eq!(ledger.failed, 0, "calls fail though nothing was killed");
    assert!(ledger.acknowledged > calls / 2, "nothing was written");
    ledger
}

#[test]
fn restarts_at_rest_lose_nothing() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_RESTART_SEED");
    let cluster = Cluster::start(Plan::default());
    let mut ledgers: Vec<Ledger> = Vec::new();
    let mut turn = 0;
    for by_force in [true, false] {
        for role in EVERYBODY {
            ledgers.push(write_through(&cluster, turn % 2, &format!("dir-{turn}"), &mut rng, 40));
            if by_force {
                cluster.kill(role);
            } else {
                let status = cluster.terminate(role);
                assert!(status.success(), "{role:?} ended with {status} after SIGTERM:\n{}", cluster.log_tail(role));
                if let Role::Mount(number) = role {
                    assert_eq!(mountinfo::at(&cluster.mount(number)), [], "a mount that ended is unmounted");
                }
            }
            cluster.begin(role);
            for ledger in &ledgers {
                ledger.verify(&cluster.mount((turn + 1) % 2));
            }
            turn += 1;
        }
    }
    // All at once.
    for role in EVERYBODY {
        cluster.kill(role);
    }
    for role in EVERYBODY {
        cluster.launch(role);
    }
    for role in EVERYBODY {
        cluster.ready(role);
    }
    for ledger in &ledgers {
        ledger.verify(&cluster.mount(0));
        ledger.verify(&cluster.mount(1));
    }
    cluster.finish();
}

#[test]
fn restarts_of_master_and_workers_under_load_lose_nothing() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_RESTART_SEED");
    let cluster = Cluster::start(Plan::default().set("client", "rpc_timeout_ms", "20000"));
    let time = Duration::from_secs(harness::number("CURVINE_RESTART_SECONDS", 15));
    let over = AtomicBool::new(false);
    let mut kills = 0;
    let ledgers: Vec<Ledger> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (root, dir, over) = (cluster.mount(writer % 2), format!("load-{writer}"), &over);
                let mut rng = rng.split();
                std::fs::create_dir(root.join(&dir)).expect("make a directory");
                scope.spawn(move || ledger::write(&root, &dir, &mut rng, over, usize::MAX))
            })
            .collect();
        let guard = RaiseOnDrop(&over);
        let end = Instant::now() + time;
        while Instant::now() < end {
            // Load between the restarts, whose length is part of the dice.
            std::thread::sleep(Duration::from_millis(rng.below(1500)));
            let role = *rng.pick(&[Role::Master, Role::Worker(0), Role::Worker(1)]);
            if rng.chance(60) {
                cluster.kill(role);
            } else {
                let status = cluster.terminate(role);
                assert!(status.success(), "{role:?} ended with {status} after SIGTERM:\n{}", cluster.log_tail(role));
            }
            kills += 1;
            cluster.begin(role);
        }
        drop(guard);
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    let (acknowledged, failed) =
        ledgers.iter().fold((0, 0), |(done, failed), ledger| (done + ledger.acknowledged, failed + ledger.failed));
    println!("{kills} restarts, {acknowledged} calls acknowledged, {failed} failed");
    assert!(kills >= 3, "nothing was killed");
    assert!(ledgers.iter().all(|ledger| ledger.acknowledged > 20), "nothing was written");
    for ledger in &ledgers {
        ledger.verify(&cluster.mount(0));
        ledger.verify(&cluster.mount(1));
    }
    cluster.finish();
}

#[test]
fn what_a_killed_mount_had_written_is_there_and_a_new_mount_takes_its_place() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_RESTART_SEED");
    let cluster = Cluster::start(Plan::default());
    let mut written = 0;
    for turn in 0..3 {
        let dir = format!("turn-{turn}");
        let root = cluster.mount(1);
        std::fs::create_dir(root.join(&dir)).expect("make a directory");
        // A file that stays open: each write that returned counts, though nobody closes or syncs.
        let mut open = std::fs::File::create_new(root.join(&dir).join("open")).expect("create");
        let over = AtomicBool::new(false);
        let mut dice = rng.split();
        let (ledger, appended) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| ledger::write(&root, &dir, &mut dice, &over, usize::MAX));
            let guard = RaiseOnDrop(&over);
            let appender = scope.spawn(|| {
                let mut appended: u64 = 0;
                while open.write_all(&(appended + 1).to_le_bytes().repeat(512)).is_ok() {
                    appended += 1;
                }
                appended
            });
            std::thread::sleep(Duration::from_millis(300 + rng.below(700)));
            cluster.kill(Role::Mount(1));
            drop(guard);
            (writer.join().expect("the writer"), appender.join().expect("the appender"))
        });
        assert!(
            ledger.acknowledged > 5 && appended > 5,
            "{} calls and {appended} writes prove nothing",
            ledger.acknowledged
        );
        written += ledger.acknowledged;
        drop(open);
        // The dead mount is still there; the next one takes it off.
        assert!(std::fs::metadata(&root).is_err_and(|error| error.kind() == std::io::ErrorKind::NotConnected));
        ledger.verify(&cluster.mount(0));
        let seen = std::fs::read(cluster.mount(0).join(&dir).join("open")).expect("read the open file");
        let records = seen.chunks(4096).enumerate();
        let whole =
            records.take_while(|(number, record)| **record == (*number as u64 + 1).to_le_bytes().repeat(512)).count();
        assert!(whole as u64 >= appended, "{appended} writes were acknowledged and {whole} are there");
        cluster.begin(Role::Mount(1));
        assert_eq!(mountinfo::at(&root).len(), 1, "the dead mount was taken off");
        ledger.verify(&root);
    }
    println!("{written} calls acknowledged by mounts that were killed");
    cluster.finish();
}

#[test]
fn a_mount_point_with_files_in_it_is_mounted_over_and_keeps_them() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::prepare(Plan { mounts: 1, ..Plan::default() });
    let precious = cluster.mount(0).join("precious");
    std::fs::write(&precious, b"mine").expect("write");
    for role in [Role::Master, Role::Worker(0), Role::Worker(1), Role::Mount(0)] {
        cluster.begin(role);
    }
    assert!(!precious.exists(), "the mount covers what is below it");
    std::fs::write(cluster.mount(0).join("in curvine"), b"other").expect("write");
    assert!(cluster.terminate(Role::Mount(0)).success());
    assert_eq!(std::fs::read(&precious).expect("read"), b"mine");
    cluster.begin(Role::Mount(0));
    cluster.kill(Role::Mount(0));
    cluster.begin(Role::Mount(0));
    assert_eq!(std::fs::read(cluster.mount(0).join("in curvine")).expect("read"), b"other");
    cluster.finish();
    assert_eq!(std::fs::read(&precious).expect("read"), b"mine");
}

#[test]
fn an_unlinked_open_file_lives_through_a_restart_of_the_master_and_its_worker() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { workers: 1, ..Plan::default() });
    let content = Rng::new(3).bytes(300_000);
    let path = cluster.mount(0).join("unlinked");
    let mut file = std::fs::File::options().create_new(true).read(true).write(true).open(&path).expect("create");
    file.write_all(&content).expect("write");
    std::fs::remove_file(cluster.mount(1).join("unlinked")).expect("unlink through the other mount");
    for role in [Role::Master, Role::Worker(0)] {
        cluster.kill(role);
        cluster.begin(role);
        let mut seen = vec![0; content.len() + 1];
        let count = until("an answer after the restart", Duration::from_secs(30), || file.read_at(&mut seen, 0).ok());
        assert!(seen[..count] == content, "{count} bytes of {} are left after the restart of {role:?}", content.len());
        assert!(!path.exists());
    }
    drop(file);
    cluster.finish();
}

#[test]
fn with_the_cluster_stopped_every_answer_comes_in_time() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let plan = Plan::default().set("client", "rpc_timeout_ms", "5000").set("client", "data_timeout_ms", "5000");
    let cluster = Cluster::start(plan);
    std::fs::create_dir(cluster.mount(0).join("cold")).expect("make a directory");
    std::fs::write(cluster.mount(0).join("cold/big"), Rng::new(4).bytes(3 << 20)).expect("write");
    let mut opened = std::fs::File::open(cluster.mount(1).join("cold/big")).expect("open");
    let servers = [Role::Master, Role::Worker(0), Role::Worker(1)];
    for role in servers {
        cluster.freeze(role, true);
    }

    for number in 0..2 {
        let root = cluster.mount(number);
        let asked = root.clone();
        within("statfs", Duration::from_secs(1), move || rustix::fs::statfs(&asked).expect("statfs"));
        let asked = root.clone();
        let root_stat =
            within("stat of the root", Duration::from_secs(1), move || std::fs::metadata(asked).expect("stat"));
        assert!(root_stat.is_dir());
    }
    // Both timeouts one after the other, and some air.
    let limit = Duration::from_secs(15);
    let cold = cluster.mount(1).join("cold");
    let listed = Sh::limited(r#"ls "$1""#, &[&cold.display().to_string()], limit);
    assert!(listed.status.is_some() && !listed.worked(), "ls ends with an error in time: {listed}");
    let began = Instant::now();
    let read = within("a read", limit, move || {
        let mut buffer = [0; 4096];
        (opened.read(&mut buffer).map_err(|error| error.raw_os_error()), opened)
    });
    println!("the read ended after {:?} with {:?}", began.elapsed(), read.0);
    assert!(read.0.is_err(), "the bytes cannot come from anywhere: {:?}", read.0);

    // A blocked reader dies at once.
    let mut reader = Command::new("cat")
        .arg(cluster.mount(1).join("cold/big"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start cat");
    let blocked = wait_until_blocked(&mut reader);
    let began = Instant::now();
    reader.kill().expect("kill");
    let status = until("the end of a killed reader", Duration::from_secs(2), || reader.try_wait().expect("wait"));
    println!("the reader, blocked in {blocked}, died {:?} after SIGKILL with {status}", began.elapsed());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "it was killed, not finished");

    for role in servers {
        cluster.freeze(role, false);
    }
    for (number, expected) in [(0, 3 << 20), (1, 3 << 20)] {
        let path = cluster.mount(number).join("cold/big");
        let length = until("the file, after the cluster goes on", Duration::from_secs(30), || {
            Some(std::fs::read(&path).ok()?.len())
        });
        assert_eq!(length, expected);
    }
    cluster.finish();
}

/// Waits until the process stays in the same system call.
fn wait_until_blocked(process: &mut std::process::Child) -> String {
    let place = format!("/proc/{}/syscall", process.id());
    let mut last = (String::new(), Instant::now());
    until("a reader that is blocked", Duration::from_secs(4), || {
        assert!(process.try_wait().expect("wait").is_none(), "the reader ended before it could be killed");
        let now = std::fs::read_to_string(&place).unwrap_or_default();
        if now.starts_with("running") || now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(500))
            .then(|| format!("system call {}", last.0.split(' ').next().unwrap_or("")))
    })
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
