//! Several mounts of one cluster at once: everything that they were told must have one explanation.
//!
//! `CURVINE_COHERENCE_SECONDS` sets the duration of each run, `CURVINE_COHERENCE_SEED` repeats its choices (the threads' timing
//! stays free).

#[path = "coherence/mod.rs"]
mod coherence;
mod harness;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coherence::history::Clock;
use coherence::verdict::{Findings, judge};
use coherence::workload::{self, Round};
use harness::{Cluster, Plan, Rng, Role};

const MOUNTS: usize = 3;
/// Each round has a directory of its own.
static ROUNDS: AtomicUsize = AtomicUsize::new(0);

fn plan() -> Plan {
    Plan { mounts: MOUNTS, limit: Duration::from_secs(600), ..Plan::default() }
        .set("client", "rpc_timeout_ms", "15000")
        .set("client", "data_timeout_ms", "10000")
}

/// Small files are read and written by the kernel itself, too.
fn passthrough_plan() -> Plan {
    plan().set("fuse", "passthrough_min_size", "\"1\"").set("fuse", "passthrough_writes", "\"always\"")
}

/// What a run came to.
#[derive(Default)]
struct Summary {
    rounds: usize,
    calls: usize,
    unknown: usize,
    objects: usize,
    undecided: usize,
    samples: usize,
    excused: usize,
    violations: Vec<String>,
}

impl Summary {
    fn add(&mut self, calls: usize, unknown: usize, findings: Findings) {
        self.rounds += 1;
        self.calls += calls;
        self.unknown += unknown;
        self.objects += findings.objects;
        self.undecided += findings.undecided;
        self.samples += findings.samples;
        self.excused += findings.excused;
        self.violations.extend(findings.violations);
    }
}

/// Rounds until the time is over or a violation was found.
fn run(cluster: &Cluster, rng: &mut Rng, time: Duration, faults: bool) -> Summary {
    let clock = Clock::start();
    let end = Instant::now() + time;
    let mut summary = Summary::default();
    while Instant::now() < end && summary.violations.is_empty() {
        let name = format!("round-{}", ROUNDS.fetch_add(1, Ordering::Relaxed));
        let patience = if faults { Duration::from_secs(60) } else { Duration::ZERO };
        let maker = cluster.mount(0).join(&name);
        harness::until("a directory for the round", Duration::from_secs(60), || match workload::prepare(&maker) {
            Ok(()) => Some(()),
            Err(_) if faults => {
                let _ = std::fs::remove_dir_all(&maker);
                None
            }
            Err(error) => panic!("cannot prepare {}: {error}", maker.display()),
        });
        let round = Round {
            views: (0..MOUNTS).map(|mount| cluster.mount(mount).join(&name)).collect(),
            threads_per_mount: 2,
            calls_per_thread: 60,
            time: Duration::from_secs(4),
            direct: true,
            faults,
            patience,
        };
        let history = workload::run(&round, clock, rng);
        let (calls, unknown) = (history.calls, history.unknown);
        let trace = history.in_words();
        summary.add(calls, unknown, judge(history));
        if !summary.violations.is_empty() {
            let file = cluster.dir().join("trace");
            std::fs::write(&file, trace).expect("write the trace");
            println!("every call of the round is in {}", file.display());
        }
    }
    println!(
        "{} rounds, {} calls ({} of unknown outcome), {} objects ({} undecided), {} samples of content ({} excused), {} violations",
        summary.rounds,
        summary.calls,
        summary.unknown,
        summary.objects,
        summary.undecided,
        summary.samples,
        summary.excused,
        summary.violations.len()
    );
    summary
}

fn assert_clean(summary: &Summary) {
    for violation in summary.violations.iter().take(5) {
        eprintln!("{violation}\n");
    }
    assert!(summary.violations.is_empty(), "{} violations, the first ones above", summary.violations.len());
    assert!(summary.rounds > 0 && summary.calls > 300, "{} calls prove nothing", summary.calls);
    assert!(summary.undecided * 100 <= summary.objects, "{} of {} undecided", summary.undecided, summary.objects);
}

/// The kernel's own file system in memory is coherent, and its inodes are not reused at once: whatever is found there is a
/// mistake of the checker.
#[test]
fn nothing_is_found_on_a_local_file_system() {
    let (mut rng, _) = Rng::from_env("CURVINE_COHERENCE_SEED");
    let dir = tempfile::tempdir_in("/dev/shm").expect("make a directory in memory");
    let clock = Clock::start();
    let mut summary = Summary::default();
    for number in 0..20 {
        let path = dir.path().join(format!("round-{number}"));
        workload::prepare(&path).expect("prepare a round");
        let round = Round {
            views: vec![path; MOUNTS],
            threads_per_mount: 2,
            calls_per_thread: 200,
            time: Duration::from_secs(4),
            direct: false,
            faults: false,
            patience: Duration::ZERO,
        };
        let history = workload::run(&round, clock, &mut rng);
        let calls = history.calls;
        summary.add(calls, 0, judge(history));
    }
    assert_clean(&summary);
}

#[test]
fn mounts_agree() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_COHERENCE_SEED");
    let cluster = Cluster::start(plan());
    let seconds = harness::number("CURVINE_COHERENCE_SECONDS", 10);
    let summary = run(&cluster, &mut rng, Duration::from_secs(seconds), false);
    assert_clean(&summary);
    cluster.finish();
}

/// The kernel fills the last page of a file with zeroes up to the page's end: no reader may see them where bytes are by now.
#[test]
fn a_file_that_grows_elsewhere_is_never_seen_with_zeroes_at_its_end() {
    const RECORD: [u8; 64] = [0xaa; 64];
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan { mounts: 2, ..plan() });
    let (here, there) = (cluster.mount(0).join("log"), cluster.mount(1).join("log"));
    let end = Instant::now() + Duration::from_secs(harness::number("CURVINE_COHERENCE_SECONDS", 8));
    std::fs::write(&here, RECORD).expect("begin the log");
    let over = || Instant::now() >= end;
    let (appends, reads) = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !over() {
                        let seen = std::fs::read(&there).expect("read the log");
                        let zero = seen.iter().position(|byte| *byte != RECORD[0]);
                        assert_eq!(zero, None, "of {} bytes one was never written", seen.len());
                        std::fs::metadata(&there).expect("look at the log");
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let mut appends = 0;
        while !over() {
            use std::io::Write;
            let mut log = std::fs::File::options().append(true).open(&here).expect("open the log");
            log.write_all(&RECORD).expect("append to the log");
            appends += 1;
            if appends % 40 == 0 {
                std::fs::File::create(&here).expect("begin anew");
            }
        }
        (appends, readers.into_iter().map(|reader| reader.join().expect("a reader")).sum::<usize>())
    });
    println!("{appends} appends, {reads} reads");
    assert!(appends > 100 && reads > 100, "{appends} appends and {reads} reads prove nothing");
    cluster.finish();
}

/// All mounts on the node of one worker, and then each on its own node: the kernel has the same local files as the worker.
#[test]
fn mounts_agree_when_the_kernel_uses_local_files_by_itself() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_COHERENCE_SEED");
    for plan in [passthrough_plan().set("client", "hostname", "\"localhost\""), passthrough_plan()] {
        let cluster = Cluster::start(plan);
        // Otherwise the run would prove nothing.
        let probe = cluster.mount(0).join("probe");
        let _open = std::fs::File::create(&probe).expect("make a file");
        let mut status = [0; 256];
        let length = rustix::fs::getxattr(&probe, "curvine.status", &mut status).expect("ask how it is served");
        let status = String::from_utf8_lossy(&status[..length]);
        assert!(status.contains("io=passthrough"), "{status}");
        let seconds = harness::number("CURVINE_COHERENCE_SECONDS", 8);
        let summary = run(&cluster, &mut rng, Duration::from_secs(seconds), false);
        assert_clean(&summary);
        cluster.finish();
    }
}

#[test]
fn mounts_agree_without_passthrough() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_COHERENCE_SEED");
    let cluster = Cluster::start(plan().set("fuse", "passthrough", "false"));
    let seconds = harness::number("CURVINE_COHERENCE_SECONDS", 5);
    let summary = run(&cluster, &mut rng, Duration::from_secs(seconds), false);
    assert_clean(&summary);
    cluster.finish();
}

#[test]
fn a_mount_that_ignores_recalls_is_found() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_COHERENCE_SEED");
    let mut plan = plan().set("", "testing", "true");
    plan.environment.push((1, "CURVINE_FAULT_IGNORE_RECALLS", "1"));
    let cluster = Cluster::start(plan);
    // A mount that believes in what is gone also gets errors; it must be found by what it says, too.
    let unexplained =
        |summary: &Summary| summary.violations.iter().find(|text| text.contains("nothing explains")).cloned();
    let found = harness::until("a mount that ignores recalls is found", Duration::from_secs(30), || {
        let summary = run(&cluster, &mut rng, Duration::from_secs(5), false);
        unexplained(&summary).map(|first| (summary.calls, first))
    });
    println!("found within the last {} calls: {}", found.0, found.1);
}

#[test]
fn mounts_agree_while_master_and_workers_are_killed() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_COHERENCE_SEED");
    let cluster = Cluster::start(plan());
    let seconds = harness::number("CURVINE_COHERENCE_SECONDS", 15);
    let over = AtomicBool::new(false);
    let mut dice = rng.split();
    let (summary, kills) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_at_random(&cluster, &mut dice, &over));
        // The guard ends the killer also when the run panics.
        let guard = RaiseOnDrop(&over);
        let summary = run(&cluster, &mut rng, Duration::from_secs(seconds), true);
        drop(guard);
        (summary, killer.join().expect("the killer"))
    });
    println!("{kills} kills");
    assert!(kills >= 2, "nothing was killed");
    assert_clean(&summary);
    cluster.finish();
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn kill_at_random(cluster: &Cluster, rng: &mut Rng, over: &AtomicBool) -> usize {
    let mut kills = 0;
    let pause = |rng: &mut Rng, millis: u64| {
        let end = Instant::now() + Duration::from_millis(rng.below(millis));
        while Instant::now() < end && !over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    while !over.load(Ordering::SeqCst) {
        pause(rng, 2500);
        let role = *rng.pick(&[Role::Master, Role::Worker(0), Role::Worker(1)]);
        cluster.kill(role);
        kills += 1;
        pause(rng, 1000);
        cluster.begin(role);
    }
    kills
}
