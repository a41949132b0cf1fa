//! System calls, one by one, from a script: it needs calls that have no safe name in Rust.

use std::process::Command;
use std::time::Duration;

use crate::harness::Run;

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
