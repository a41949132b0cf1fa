//! Several masters: one is killed and the others go on, a wiped one comes back as a new one, and nothing acknowledged is lost.

mod harness;
#[path = "crash/tree.rs"]
mod tree;
#[path = "crash/verify.rs"]
mod verify;
#[path = "crash/writer.rs"]
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Cluster, Plan, Rng, Role, until};
use serde_json::Value;
use writer::Writer;

const MASTERS: [Role; 3] = [Role::Master, Role::Standby(1), Role::Standby(2)];
const PATIENCE: Duration = Duration::from_secs(120);

fn report(cluster: &Cluster) -> Option<Value> {
    let run = cluster.cv(&["report", "json"]);
    run.worked().then(|| serde_json::from_slice(&run.stdout).expect("JSON"))
}

/// The members of the log by their addresses: (node, voter, leader).
fn members(cluster: &Cluster) -> BTreeMap<String, (String, bool, bool)> {
    let report = until("a report", PATIENCE, || report(cluster));
    let list = report["masters"].as_array().expect("masters").clone();
    let text = |value: &Value| value.as_str().expect("a text").to_string();
    let entry = |one: &Value| {
        let flags = (one["voter"] == true, one["leader"] == true);
        (text(&one["address"]), (text(&one["node"]), flags.0, flags.1))
    };
    list.iter().map(entry).collect()
}

fn leader(cluster: &Cluster) -> Role {
    until("a leader", PATIENCE, || {
        let members = members(cluster);
        let (address, _) = members.iter().find(|(_, (_, _, leads))| *leads)?;
        MASTERS.into_iter().find(|role| cluster.log_address(*role) == *address)
    })
}

fn three(plan: Plan) -> Cluster {
    let cluster = Cluster::start(Plan { masters: 3, ..plan });
    let members = members(&cluster);
    assert_eq!(members.values().filter(|(_, voter, _)| *voter).count(), 3, "{members:?}");
    cluster
}

#[test]
fn the_leader_is_killed_under_load_and_nothing_acknowledged_is_lost() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let (mut rng, _) = Rng::from_env("CURVINE_MASTERS_SEED");
    let plan = Plan { workers: 1, mounts: 3, ..Plan::default() };
    let cluster = three(plan.set("client", "rpc_timeout_ms", "60000").set("client", "data_timeout_ms", "60000"));
    let mut writers: Vec<Writer> = (0..2).map(|number| Writer::new(number, rng.split())).collect();
    for dir in ["shared", "shared/a", "shared/b", "w0", "w1"] {
        std::fs::create_dir(cluster.mount(0).join(dir)).expect("make a directory");
    }
    let kills = harness::number("CURVINE_MASTERS_KILLS", 3);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guard = RaiseOnDrop(&over);
        let counts: Vec<_> = writers.iter().map(|writer| writer.acknowledged.clone()).collect();
        let running: Vec<_> = writers
            .iter_mut()
            .map(|writer| {
                let (root, over) = (cluster.mount(writer.number), &over);
                scope.spawn(move || writer.run(&root, over))
            })
            .collect();
        for _ in 0..kills {
            let progress = || {
                for (number, count) in counts.iter().enumerate() {
                    let goal = count.load(Ordering::SeqCst) + 10;
                    until("calls are acknowledged", PATIENCE, || {
                        (count.load(Ordering::SeqCst) >= goal || running[number].is_finished()).then_some(())
                    });
                }
            };
            progress();
            let leading = leader(&cluster);
            std::thread::sleep(Duration::from_micros(rng.below(20_000)));
            cluster.kill(leading);
            progress();
            let successor = leader(&cluster);
            assert_ne!(successor, leading, "the dead one leads");
            cluster.begin(leading);
        }
        drop(guard);
        for handle in running {
            handle.join().expect("a writer");
        }
    });
    let acknowledged: usize = writers.iter().map(|writer| writer.acknowledged.load(Ordering::SeqCst)).sum();
    println!("{kills} leaders killed, {acknowledged} calls acknowledged");
    assert!(acknowledged > 20 * kills as usize, "{acknowledged} calls prove nothing");
    for mount in [2, 0, 1] {
        let found = verify::scan(&cluster.mount(mount)).unwrap_or_else(|error| panic!("mount {mount}: {error}"));
        for writer in &mut writers {
            assert_eq!(writer.wrong, None, "{}", writer.calls.join("\n"));
            assert!(writer.pending.is_none(), "a call failed though its mount lived: {:?}", writer.pending);
            let own = found.iter().filter(|(path, _)| writer.owns(path));
            let own = own.map(|(path, seen)| (path.as_str(), seen)).collect();
            if let Err(wrong) = verify::settle(&mut writer.tree, None, &own) {
                panic!("writer {} through mount {mount}: {wrong}\n{}", writer.number, writer.calls.join("\n"));
            }
        }
    }
    cluster.finish();
}

#[test]
fn a_wiped_master_comes_back_as_a_new_one_and_has_a_vote() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = three(Plan { workers: 1, mounts: 1, ..Plan::default() });
    let root = cluster.mount(0);
    std::fs::write(root.join("before"), b"acknowledged before").expect("write");
    let leading = leader(&cluster);
    let wiped = MASTERS.into_iter().find(|role| *role != leading).expect("a follower");
    let other = MASTERS.into_iter().find(|role| *role != leading && *role != wiped).expect("another follower");
    let address = cluster.log_address(wiped);
    let node_before = members(&cluster)[&address].0.clone();

    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.journal_dir_of(wiped)).expect("lose a disk");
    std::fs::write(root.join("meanwhile"), b"written by two of three").expect("write");
    cluster.begin(wiped);
    until("the wiped master is a voter again, under another id", PATIENCE, || {
        let members = members(&cluster);
        let (node, voter, _) = members.get(&address)?;
        (*voter && *node != node_before && members.len() == 3).then_some(())
    });
    // It counts: without the third one it makes a majority with the leader.
    cluster.kill(other);
    until("a write by the new majority", PATIENCE, || std::fs::write(root.join("after"), b"by the new majority").ok());
    // And it has everything: it goes on without the one that led before.
    cluster.begin(other);
    let leading = leader(&cluster);
    cluster.kill(leading);
    for (name, content) in
        [("before", "acknowledged before"), ("meanwhile", "written by two of three"), ("after", "by the new majority")]
    {
        let read = until("a read after the fail-over", PATIENCE, || std::fs::read_to_string(root.join(name)).ok());
        assert_eq!(read, content);
    }
    cluster.begin(leading);
    cluster.finish();
}

#[test]
fn whoever_is_asked_the_leader_answers_and_without_a_majority_the_report_says_so() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = three(Plan { workers: 0, mounts: 0, ..Plan::default() });
    for role in MASTERS {
        cluster.cv(&["fs", "ls", "/", "--master-addrs", &cluster.rpc_address(role)]).ok();
    }
    let leading = leader(&cluster);
    let followers: Vec<Role> = MASTERS.into_iter().filter(|role| *role != leading).collect();
    for role in &followers {
        cluster.kill(*role);
    }
    until("the report of a master without a majority", PATIENCE, || {
        let run = cluster.cv(&["report"]);
        (run.worked() && (run.text().contains("NO LEADER") || run.text().contains("WITHOUT A MAJORITY"))).then_some(())
    });
    cluster.cv(&["fs", "ls", "/"]).fails();
    for role in followers {
        cluster.launch(role);
    }
    until("a leader after the majority is back", PATIENCE, || cluster.cv(&["fs", "ls", "/"]).worked().then_some(()));
    cluster.finish();
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
