//! The serving process of a mount dies, again and again, or is replaced by another version, while applications work: they notice
//! pauses and nothing else, and what they did was done once.

#[path = "handover/apps.rs"]
mod apps;
mod harness;

use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::{Cluster, Plan, Rng, Role, Run, mountinfo, until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

const MOUNT: Role = Role::Mount(0);
/// How long a successor may take on a machine that does other things, too.
const SUCCESSOR: Duration = Duration::from_secs(30);

/// Rounds that an application must make for its word to count.
const ENOUGH: u64 = 3;

fn plan() -> Plan {
    // Long enough that a session never expires only because the machine is busy.
    Plan { workers: 1, ..Plan::default() }.set("master", "lease_time", "\"10s\"").set(
        "client",
        "rpc_timeout_ms",
        "60000",
    )
}

fn kill_serving(cluster: &Cluster, role: Role) -> u32 {
    let pid = until("a serving process", SUCCESSOR, || cluster.serving(role));
    kill_process(Pid::from_raw(pid as i32).expect("a number"), Signal::KILL).expect("kill");
    until("its successor", SUCCESSOR, || cluster.serving(role).filter(|next| *next != pid))
}

/// Everything was closed and answered: a process that dies now leaves nothing.
fn nothing_is_left(cluster: &Cluster) {
    let path = cluster.mount(0);
    until("a table without records", Duration::from_secs(30), || {
        kill_serving(cluster, MOUNT);
        std::fs::metadata(path.join("small")).expect("the successor serves");
        let log = cluster.log_text(MOUNT);
        let last = log.lines().rfind(|line| line.contains("the serving process has died"))?.to_string();
        (last.contains("handles=0") && last.contains("requests=0")).then_some(())
    });
}

/// Runs all applications, and meanwhile `disturb` until it says that it has done enough.
fn under_load(cluster: &Cluster, rng: &mut Rng, mut disturb: impl FnMut(&mut Rng)) {
    let over = AtomicBool::new(false);
    let (here, there) = (cluster.mount(0), cluster.mount(1));
    apps::prepare(&here, rng);
    let begun: Vec<AtomicU64> = apps::ALL.iter().map(|_| AtomicU64::new(0)).collect();
    let done = std::thread::scope(|scope| {
        let running: Vec<_> = apps::ALL
            .iter()
            .zip(&begun)
            .map(|((name, app), begun)| {
                let (here, there, over, rng) = (&here, &there, &over, rng.split());
                let run = move || app(&apps::Place { here, there, over, begun }, rng);
                (name, std::thread::Builder::new().name(name.to_string()).spawn_scoped(scope, run).expect("a thread"))
            })
            .collect();
        let guard = RaiseOnDrop(&over);
        disturb(rng);
        // On a machine that does other things, too, the slowest may need a little longer.
        let ended = || running.iter().any(|(_, thread)| thread.is_finished());
        let busy = || begun.iter().all(|begun| begun.load(Ordering::SeqCst) > 2 * ENOUGH);
        until("applications that have done enough", Duration::from_secs(120), || (ended() || busy()).then_some(()));
        drop(guard);
        let join = |(name, thread): (&&str, std::thread::ScopedJoinHandle<'_, u64>)| (name.to_string(), thread.join());
        running.into_iter().map(join).collect::<Vec<_>>()
    });
    for (name, outcome) in done {
        let Ok(rounds) = outcome else { panic!("{name} failed; the mount's log:\n{}", cluster.log_tail(MOUNT)) };
        println!("{name}: {rounds} rounds");
        assert!(rounds >= ENOUGH, "{name} has hardly done anything");
    }
    apps::verify(&there);
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn killed_under_load(cluster: &Cluster, kills: u64) {
    let (mut rng, _) = Rng::from_env("CURVINE_HANDOVER_SEED");
    let supervisor = cluster.pid(MOUNT);
    under_load(cluster, &mut rng, |rng| {
        for _ in 0..kills {
            // The moment of the kill is part of the dice.
            std::thread::sleep(Duration::from_millis(rng.below(700)));
            kill_serving(cluster, MOUNT);
        }
    });
    assert_eq!(cluster.pid(MOUNT), supervisor);
    assert_eq!(mountinfo::at(&cluster.mount(0)).len(), 1, "mounted once, all the time");
    nothing_is_left(cluster);
}

#[test]
fn applications_notice_nothing_but_a_pause_when_the_serving_process_is_killed() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    // `make test-handover` kills two hundred times.
    let kills = harness::number("CURVINE_HANDOVER_KILLS", 20);
    let cluster = Cluster::start(Plan { limit: Duration::from_secs(300.max(kills * 10)), ..plan() });
    killed_under_load(&cluster, kills);
    cluster.finish();
}

#[test]
fn applications_notice_no_more_where_the_kernel_sends_no_request_again() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let kills = harness::number("CURVINE_HANDOVER_KILLS", 20);
    // Linux 6.8 speaks this version.
    let plan = plan().set("fuse", "abi_minor_max", "39");
    let cluster = Cluster::start(Plan { limit: Duration::from_secs(300.max(kills * 10)), ..plan });
    killed_under_load(&cluster, kills);
    // A replacement by another version goes the same way.
    let said = upgrade(Path::new(harness::cluster::CURVINE), &cluster.mount(0)).ok();
    assert!(said.contains("serves"), "{said}");
    nothing_is_left(&cluster);
    cluster.finish();
}

#[test]
fn a_running_mount_is_upgraded_under_load_and_keeps_its_process() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan());
    let (mut rng, _) = Rng::from_env("CURVINE_HANDOVER_SEED");
    // Another file: what runs is replaced by what is there now.
    let next = cluster.dir().join("next-version");
    std::fs::copy(harness::cluster::CURVINE, &next).expect("copy the program");
    let supervisor = cluster.pid(MOUNT);
    under_load(&cluster, &mut rng, |rng| {
        for turn in 0..4 {
            std::thread::sleep(Duration::from_millis(rng.below(700)));
            let before = cluster.serving(MOUNT);
            let program = if turn % 2 == 0 { next.as_path() } else { Path::new(harness::cluster::CURVINE) };
            let said = upgrade(program, &cluster.mount(0)).ok();
            assert!(said.contains("serves"), "{said}");
            assert_eq!(std::fs::read_link(format!("/proc/{supervisor}/exe")).expect("it lives"), program);
            assert_ne!(cluster.serving(MOUNT), before);
        }
    });
    nothing_is_left(&cluster);
    assert!(cluster.terminate(MOUNT).success());
    assert_eq!(mountinfo::at(&cluster.mount(0)), []);
    cluster.finish();
}

/// The supervisor can start no process while the guard lives: it has no room for another descriptor.
struct NoSuccessor(Pid);

impl NoSuccessor {
    fn of(cluster: &Cluster) -> Self {
        let supervisor = Pid::from_raw(cluster.pid(MOUNT) as i32).expect("a number");
        limit_descriptors(supervisor, 3);
        NoSuccessor(supervisor)
    }
}

impl Drop for NoSuccessor {
    fn drop(&mut self) {
        limit_descriptors(self.0, 1024);
    }
}

fn limit_descriptors(pid: Pid, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, limit).expect("limit the supervisor");
}

#[test]
fn while_no_process_serves_everything_is_answered_in_time_and_nothing_is_lost() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    // What is open for writing needs its session, which nobody renews meanwhile.
    let plan =
        Plan { mounts: 1, ..plan() }.set("client", "rpc_timeout_ms", "1500").set("master", "lease_time", "\"30s\"");
    let cluster = Cluster::start(plan);
    let path = cluster.mount(0);
    std::fs::write(path.join("kept"), b"what was written").expect("write");
    let open = std::fs::File::options().read(true).write(true).open(path.join("kept")).expect("open");
    let serving = Pid::from_raw(cluster.serving(MOUNT).expect("a serving process") as i32).expect("a number");
    let none = NoSuccessor::of(&cluster);
    kill_process(serving, Signal::KILL).expect("kill");
    let mut reader = Command::new("cat").arg(path.join("missing")).stderr(Stdio::null()).spawn().expect("start cat");
    let waiting = std::thread::spawn({
        let path = path.join("never seen");
        move || std::fs::metadata(path)
    });
    assert_eq!(rustix::fs::statfs(&path).expect("statfs").f_namelen, 255);
    assert!(std::fs::metadata(&path).expect("the attributes of the root").is_dir());
    reader.kill().expect("kill cat");
    let ended = until("the end of a killed reader", SUCCESSOR, || reader.try_wait().expect("wait"));
    assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()));
    let refused = waiting.join().expect("stat").expect_err("nobody knows");
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::TIMEDOUT.raw_os_error()));
    drop(none);
    until("the next process", SUCCESSOR, || cluster.serving(MOUNT));
    let read = || std::fs::read(path.join("kept"));
    until("service", SUCCESSOR, || read().ok().filter(|seen| seen == b"what was written"));
    open.write_all_at(b"WHAT", 0).expect("what was open is open");
    assert_eq!(read().expect("read"), b"WHAT was written");
    drop(open);
    cluster.finish();
}

fn upgrade(program: &Path, mount: &Path) -> Run {
    let mut command = Command::new(program);
    command.args(["mount", "--upgrade", "--mnt-path"]).arg(mount);
    Run::of(&mut command, Duration::from_secs(60))
}

#[test]
fn a_version_that_cannot_serve_is_given_up_and_the_old_one_goes_on() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { mounts: 1, ..plan() });
    std::fs::write(cluster.mount(0).join("small"), b"x").expect("write");
    let open = std::fs::File::open(cluster.mount(0).join("small")).expect("open");
    let failed = upgrade(Path::new(harness::cluster::CURVINE), cluster.dir()).fails();
    assert!(failed.stderr.contains("nothing of ours is mounted"), "{failed}");
    // A program that says all the right things and dies as soon as it should serve.
    let broken = cluster.dir().join("broken-version");
    std::fs::copy(harness::cluster::CURVINE, &broken).expect("copy the program");
    let mut command = Command::new(&broken);
    command.args(["mount", "--upgrade", "--mnt-path"]).arg(cluster.mount(0));
    let run = std::thread::scope(|scope| {
        let upgrade = scope.spawn(move || Run::of(&mut command, Duration::from_secs(60)));
        // Whatever it starts dies, until it has gone back to the old one.
        let own = std::fs::canonicalize(harness::cluster::CURVINE).expect("the program");
        until("the way back", SUCCESSOR, || {
            let supervisor = std::fs::read_link(format!("/proc/{}/exe", cluster.pid(MOUNT))).ok()?;
            if supervisor == broken
                && let Some(pid) = cluster.serving(MOUNT)
            {
                let _ = kill_process(Pid::from_raw(pid as i32).expect("a number"), Signal::KILL);
            }
            (upgrade.is_finished() && supervisor == own).then_some(())
        });
        upgrade.join().expect("the upgrade")
    });
    let run = run.fails();
    assert!(run.stderr.contains("old version goes on"), "{run}");
    let mut seen = [0; 1];
    open.read_exact_at(&mut seen, 0).expect("the open file still reads");
    assert_eq!(&seen, b"x");
    cluster.finish();
}

#[test]
fn when_its_supervisor_is_killed_a_mount_ends_and_the_next_one_takes_its_place() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { mounts: 1, ..plan() });
    let path = cluster.mount(0);
    std::fs::write(path.join("kept"), b"what was written").expect("write");
    let child = cluster.serving(MOUNT).expect("a serving process");
    cluster.kill_alone(MOUNT);
    until("the end of the mount", Duration::from_secs(30), || mountinfo::at(&path).is_empty().then_some(()));
    until("the end of the serving process", Duration::from_secs(30), || {
        (!Path::new(&format!("/proc/{child}")).exists()).then_some(())
    });
    assert!(std::fs::read_dir(&path).expect("an empty directory").next().is_none());
    cluster.begin(MOUNT);
    assert_eq!(std::fs::read(path.join("kept")).expect("read"), b"what was written");
    cluster.finish();
}
