//! System calls, one by one, from a script: it needs calls that have no safe name in Rust.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Role, Run, Sh, until};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/calls/calls.py");

#[test]
fn system_calls_do_what_their_manual_pages_say() {
    let Some((_alone, cluster)) = crate::cluster(Duration::from_secs(400)) else { return };
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-B").arg(SCRIPT).arg(cluster.mount(0)).arg(cluster.mount(1)).arg("-v");
    let run = Run::of(&mut command, Duration::from_secs(300));
    assert!(run.worked(), "{run}");
    let ran = run.stderr.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(ran > 40, "{ran} tests prove little: {run}");
    cluster.finish();
}

#[test]
fn the_locks_of_a_mount_that_dies_are_free_when_its_lease_is_over() {
    let Some((_alone, cluster)) = crate::cluster(Duration::from_secs(200)) else { return };
    let [here, there] = [0, 1].map(|number| cluster.mount(number).join("file").display().to_string());
    let mut holder = Command::new("flock").args(["-F", here.as_str(), "sleep", "1000"]).spawn().expect("start flock");
    let free = |wait: &str| Sh::run(&format!("flock {wait} \"$1\" true"), &[&there]).code() == Some(0);
    until("the lock is taken", Duration::from_secs(30), || (!free("-n")).then_some(()));
    cluster.kill(Role::Mount(0));
    assert!(free("-w 50"), "the lock of a dead mount is still held");
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    cluster.finish();
}
