//! The crash test: SIGKILL at random moments, of the master, a worker, a mount, or of all at once, while writers write. After each round
//! everything is read back through a mount that was started for that, and must be what was acknowledged.
//!
//! Always: a round in which nothing was acknowledged or nothing was killed is a failure, not a success.
//! `CURVINE_CRASH_ROUNDS` sets the number of rounds (`make test-crash`: 50), `CURVINE_CRASH_SEED` repeats the dice.

mod harness;
#[path = "crash/tree.rs"]
mod tree;
#[path = "crash/verify.rs"]
mod verify;
#[path = "crash/writer.rs"]
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Cluster, Plan, Rng, Role, until};
use verify::{Found, Outcome, scan, settle};
use writer::Writer;

const EVERYBODY: [Role; 5] = [Role::Master, Role::Worker(0), Role::Worker(1), Role::Mount(0), Role::Mount(1)];
/// The mount that only verifiers use; each time a new process.
const FRESH: usize = 2;
const WRITERS: usize = 4;
/// For the writers to come this far, also on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who dies in a round: each alone in turn, then all together.
fn victims(round: u64, rng: &mut Rng) -> Vec<Role> {
    match round % 4 {
        0 => vec![Role::Mount(rng.below(2) as usize)],
        1 => vec![Role::Master],
        2 => vec![Role::Worker(rng.below(2) as usize)],
        _ => {
            let mut order = EVERYBODY.to_vec();
            for place in (1..order.len()).rev() {
                order.swap(place, rng.below(place as u64 + 1) as usize);
            }
            order
        }
    }
}

#[derive(Default)]
struct Totals {
    kills: usize,
    acknowledged: usize,
    synced: usize,
    outcomes: BTreeMap<String, usize>,
}

#[test]
fn whatever_is_killed_what_was_acknowledged_is_there() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let rounds = harness::number("CURVINE_CRASH_ROUNDS", 5);
    let (mut rng, _) = Rng::from_env("CURVINE_CRASH_SEED");
    let plan = Plan { mounts: 3, limit: Duration::from_secs(120 + 60 * rounds), ..Plan::default() };
    // Longer than any restart, so that an error means a kill of the mount itself.
    let plan = plan.set("client", "rpc_timeout_ms", "60000").set("client", "data_timeout_ms", "60000");
    let cluster = Cluster::prepare(plan);
    for role in EVERYBODY {
        cluster.launch(role);
    }
    for role in EVERYBODY {
        cluster.ready(role);
    }
    let mut writers: Vec<Writer> = (0..WRITERS).map(|number| Writer::new(number, rng.split())).collect();
    for dir in
        ["shared", "shared/a", "shared/b"].map(str::to_string).into_iter().chain((0..WRITERS).map(|w| format!("w{w}")))
    {
        std::fs::create_dir(cluster.mount(0).join(dir)).expect("make a directory");
    }
    let mut totals = Totals::default();
    for round in 0..rounds {
        let victims = victims(round, &mut rng);
        let began = Instant::now();
        let acknowledged = one_round(&cluster, &mut writers, &victims, &mut rng, &mut totals);
        check(&cluster, &mut writers, &mut totals);
        println!("round {round}: {victims:?} killed, {acknowledged} calls acknowledged, {:?}", began.elapsed());
    }
    println!(
        "{rounds} rounds, {} kills, {} calls acknowledged, {} of them fsynced; calls without an answer: {:?}",
        totals.kills, totals.acknowledged, totals.synced, totals.outcomes
    );
    assert!(totals.synced > 0, "nothing was fsynced");
    cluster.finish();
}

/// Writes, kills, starts again, and lets those whose mount lives go on. Returns how many calls were acknowledged.
fn one_round(cluster: &Cluster, writers: &mut [Writer], victims: &[Role], rng: &mut Rng, totals: &mut Totals) -> usize {
    let counts = |writers: &[Writer]| -> usize { writers.iter().map(|w| w.acknowledged.load(Ordering::SeqCst)).sum() };
    let synced = |writers: &[Writer]| -> usize { writers.iter().map(|w| w.synced.load(Ordering::SeqCst)).sum() };
    let (before, synced_before) = (counts(writers), synced(writers));
    let over = AtomicBool::new(false);
    // The moment of the kill: after so many calls, and so much later.
    let enough = 1 + rng.below(150) as usize;
    let later = Duration::from_micros(rng.below(30_000));
    let again = rng.chance(30);
    std::thread::scope(|scope| {
        let guard = RaiseOnDrop(&over);
        let progress: Vec<Progress> = writers.iter().map(Progress::of).collect();
        let total = || progress.iter().map(Progress::now).sum::<usize>();
        let running: Vec<_> = writers
            .iter_mut()
            .map(|writer| {
                let (root, over) = (cluster.mount(writer.number % 2), &over);
                scope.spawn(move || writer.run(&root, over))
            })
            .collect();
        until("calls before the kill", PATIENCE, || (total() >= before + enough).then_some(()));
        std::thread::sleep(later);
        for role in victims {
            cluster.kill(*role);
        }
        if again {
            // Once more while it starts.
            for role in victims {
                cluster.launch(*role);
            }
            std::thread::sleep(Duration::from_micros(rng.below(150_000)));
            for role in victims {
                cluster.kill(*role);
            }
            totals.kills += victims.len();
        }
        totals.kills += victims.len();
        for role in victims {
            cluster.launch(*role);
        }
        for role in victims {
            cluster.ready(*role);
        }
        // Those whose mount lives go on.
        for (number, progress) in progress.iter().enumerate() {
            let dead = victims.contains(&Role::Mount(number % 2));
            let goal = progress.now() + 5;
            until("calls after the kill", PATIENCE, || {
                (dead || progress.now() >= goal || running[number].is_finished()).then_some(())
            });
        }
        drop(guard);
        for handle in running {
            handle.join().expect("a writer");
        }
    });
    for writer in writers.iter() {
        if let Some(wrong) = &writer.wrong {
            panic!("writer {}: {wrong}\n{}", writer.number, last_calls(writer));
        }
        let lives = !victims.contains(&Role::Mount(writer.number % 2));
        // A change of bytes that its worker did not live to answer may have been made or not, and says so by EIO.
        let worker_died = victims.iter().any(|role| matches!(role, Role::Worker(_)));
        let excused = writer.pending.as_ref().is_none_or(|op| worker_died && op.changes_bytes_of().is_some());
        assert!(!lives || excused, "no answer though its mount lived:\n{}", last_calls(writer));
    }
    let acknowledged = counts(writers) - before;
    assert!(acknowledged > 0, "nothing was written in this round");
    totals.acknowledged += acknowledged;
    totals.synced += synced(writers) - synced_before;
    acknowledged
}

/// Reads everything back through a fresh mount and through those that the writers use.
fn check(cluster: &Cluster, writers: &mut [Writer], totals: &mut Totals) {
    cluster.begin(Role::Mount(FRESH));
    compare(cluster, FRESH, writers, |outcome| *totals.outcomes.entry(format!("{outcome:?}")).or_default() += 1);
    assert!(cluster.terminate(Role::Mount(FRESH)).success(), "the verifier's mount did not end well");
    for mount in 0..2 {
        compare(cluster, mount, writers, |_| {});
    }
    cluster.no_panics();
}

fn compare(cluster: &Cluster, mount: usize, writers: &mut [Writer], mut note: impl FnMut(Outcome)) {
    let found: Found = scan(&cluster.mount(mount)).unwrap_or_else(|error| panic!("mount {mount}: {error}"));
    let foreign = found.keys().find(|path| !path.starts_with("shared") && !writers.iter().any(|w| w.owns(path)));
    assert_eq!(foreign, None, "a name that nobody made");
    for writer in writers {
        let own =
            found.iter().filter(|(path, _)| writer.owns(path)).map(|(path, seen)| (path.as_str(), seen)).collect();
        match settle(&mut writer.tree, writer.pending.as_ref(), &own) {
            Ok(outcome) => note(outcome),
            Err(wrong) => panic!("writer {} through mount {mount}: {wrong}\n{}", writer.number, last_calls(writer)),
        }
        writer.pending = None;
    }
}

fn last_calls(writer: &Writer) -> String {
    let from = writer.calls.len().saturating_sub(60);
    writer.calls[from..].join("\n")
}

/// How many calls of a writer were acknowledged, to be read while it runs.
struct Progress(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Progress {
    fn of(writer: &Writer) -> Self {
        Self(writer.acknowledged.clone())
    }

    fn now(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
