//! Three masters as Fluid runs them: numbered pods behind one service, none of which is the first by right.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::cluster::CURVINE;
use crate::harness::{self, until};
use crate::pods::{Runtime, sh, text};
use crate::{CLIENT, SOON, WORKER, mounted};

fn master(number: u32) -> String {
    format!("curvine-demo-master-{number}")
}

/// Of each master's pod, whether it leads; those that vote.
fn voters(runtime: &Runtime, asked: &str) -> Option<BTreeMap<String, bool>> {
    let run = runtime.exec(asked, &[CURVINE, "cv", "report", "json"]);
    let report: Value = serde_json::from_slice(&run.stdout).ok().filter(|_| run.worked())?;
    let members = report["masters"].as_array()?.iter().filter(|member| member["voter"] == true);
    let pod = |member: &Value| member["address"].as_str().and_then(|text| text.split('.').next()).map(str::to_string);
    Some(members.filter_map(|member| Some((pod(member)?, member["leader"] == true))).collect())
}

#[track_caller]
fn all_vote(runtime: &Runtime) -> BTreeMap<String, bool> {
    let voters = until("three masters vote", SOON, || {
        let voters = voters(runtime, WORKER)?;
        (voters.len() == 3 && voters.values().any(|leads| *leads)).then_some(voters)
    });
    assert_eq!(voters.keys().cloned().collect::<Vec<_>>(), [master(0), master(1), master(2)]);
    voters
}

#[test]
fn three_masters_roll_are_killed_and_come_back_with_an_empty_disk() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut runtime = Runtime::new("runtime.json");
    runtime.masters = 3;
    let described = runtime.describe(json!([{ "mountPoint": "curvine:///", "name": "demo", "path": "/demo" }]), 1);
    runtime.publish(&described.to_string());
    for number in 0..3 {
        runtime.start(&master(number));
    }
    runtime.start(WORKER);
    runtime.start(CLIENT);
    for pod in [&master(0), &master(1), &master(2), WORKER, CLIENT] {
        runtime.ready(pod);
    }
    all_vote(&runtime);
    let path = text(&runtime.mount_path());
    let check = |turn: &str| {
        let script = r#"echo "$2" > "$1/$2" && cat "$1"/turn-* | sort | tail -n 1"#;
        assert_eq!(sh(script, &[&path, &format!("turn-{turn}")]), format!("turn-{turn}\n"));
    };
    check("0");
    // Fluid executes its entries in the pod with the number 0, whoever leads.
    assert_eq!(mounted(&runtime), ["/demo"]);

    // A rolling restart, the highest number first, each after the one before is ready.
    for number in [2, 1, 0] {
        assert!(runtime.terminate(&master(number)).success());
        runtime.start(&master(number));
        runtime.ready(&master(number));
    }
    all_vote(&runtime);
    check("1");

    // The leader's pod is killed, and made anew on another node: another address, and nothing on its disk.
    let leader = all_vote(&runtime).into_iter().find(|(_, leads)| *leads).map(|(pod, _)| pod).unwrap();
    runtime.kill(&leader);
    check("2");
    std::fs::remove_dir_all(runtime.journal(&leader)).unwrap();
    runtime.readdress(&leader);
    runtime.start(&leader);
    runtime.ready(&leader);
    all_vote(&runtime);
    check("3");
    assert_eq!(mounted(&runtime), ["/demo"]);
    assert!(runtime.terminate(CLIENT).success(), "{}", runtime.log(CLIENT));
}
