//! What a rescue brings back from directories that a replica refuses.

use std::io::Read;
use std::path::Path;

use curvine_types::{ClusterId, ErrorKind, Result};

use crate::testing::{CLUSTER, Journal, copy_dir, create, files, open, options, propose_all};
use crate::{Foundation, Options, Salvage, StateMachine, found, salvage};

impl Salvage for Journal {
    fn restore_remains(&mut self, reader: &mut dyn Read, _: ClusterId) -> Result<Vec<String>> {
        *self = Self::restored(reader)?;
        Ok(vec!["unchecked".to_string()])
    }

    fn repair(&mut self, _: bool) -> Vec<String> {
        Vec::new()
    }
}

/// A closed directory with `count` commands, and a snapshot after each `every`.
async fn directory(dir: &Path, count: u64, every: u64) -> Options {
    let options = Options { segment_bytes: 3000, ..options(dir) };
    let replica = create(&options).await;
    for start in (1..=count).step_by(every as usize) {
        propose_all(&replica, start..(start + every).min(count + 1), 200).await;
        replica.snapshot_now().await.unwrap();
    }
    replica.shutdown().await;
    options
}

fn damage(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 0x55;
    std::fs::write(path, bytes).unwrap();
}

fn numbers(machine: &Journal) -> Vec<u64> {
    machine.sequences()
}

#[tokio::test]
async fn a_good_directory_is_read_whole_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let options = directory(dir.path(), 100, 40).await;
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let rescued = salvage::<Journal>(dir.path()).unwrap();
    assert_eq!(rescued.lost, Vec::<String>::new());
    assert_eq!(numbers(&rescued.machine), (1..=100).collect::<Vec<_>>());
    for path in files(copy.path(), "seg").into_iter().chain(files(copy.path(), "snap")) {
        let name = path.file_name().unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(dir.path().join(name)).unwrap(), "{name:?}");
    }
    let replica = open(&options).await.unwrap();
    assert_eq!(salvage::<Journal>(dir.path()).err().unwrap().kind(), ErrorKind::Busy, "a replica works on it");
    replica.shutdown().await;
}

#[tokio::test]
async fn damage_in_the_log_costs_what_comes_after_it_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 3000, ..options(dir.path()) };
    let replica = create(&options).await;
    propose_all(&replica, 1..101, 200).await;
    replica.shutdown().await;
    let segments = files(dir.path(), "seg");
    assert!(segments.len() > 4, "{}", segments.len());
    damage(&segments[2], 500);
    let refused = open(&options).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.get("way out").unwrap().contains("cv meta dump"), "{refused}");
    let rescued = salvage::<Journal>(dir.path()).unwrap();
    let have = numbers(&rescued.machine);
    assert_eq!(have, (1..=have.len() as u64).collect::<Vec<_>>(), "all up to the damage, in order");
    assert!((15..60).contains(&have.len()), "{}", have.len());
    assert!(!rescued.lost.is_empty());
}

#[tokio::test]
async fn a_damaged_newest_snapshot_costs_nothing_while_an_older_one_and_the_log_are_there() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path(), 100, 50).await;
    let newest = files(dir.path(), "snap").pop().unwrap();
    damage(&newest, 400);
    let rescued = salvage::<Journal>(dir.path()).unwrap();
    assert_eq!(numbers(&rescued.machine), (1..=100).collect::<Vec<_>>());
    assert!(rescued.lost[0].contains("snapshot"), "{:?}", rescued.lost);
}

#[tokio::test]
async fn without_any_whole_snapshot_what_is_left_of_the_newest_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path(), 120, 40).await;
    for snapshot in files(dir.path(), "snap") {
        damage(&snapshot, 300);
    }
    let rescued = salvage::<Journal>(dir.path()).unwrap();
    assert_eq!(rescued.machine.commands.len(), 120, "the bytes are given to the state machine as they are");
    assert!(rescued.lost.contains(&"unchecked".to_string()), "{:?}", rescued.lost);
}

#[tokio::test]
async fn a_lost_node_file_does_not_lose_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = directory(dir.path(), 60, 25).await;
    damage(&dir.path().join("node"), 30);
    assert!(open(&options).await.is_err());
    let rescued = salvage::<Journal>(dir.path()).unwrap();
    assert_eq!(rescued.cluster, CLUSTER);
    assert_eq!(rescued.machine.commands.len(), 60);
}

#[tokio::test]
async fn a_founded_directory_starts_with_the_state_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path(), 100, 40).await;
    let rescued = salvage::<Journal>(dir.path()).unwrap();
    let fresh = dir.path().join("fresh");
    let source = rescued.machine.snapshot();
    let foundation = Foundation {
        cluster: rescued.cluster,
        term: rescued.term,
        index: rescued.index,
        now: rescued.now,
        address: "m0:8995".to_string(),
        source: source.as_ref(),
    };
    let node = found(&fresh, &foundation).unwrap();
    assert_eq!(found(&fresh, &foundation).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let options = options(&fresh);
    for round in 0..2u64 {
        let replica = open(&options).await.unwrap();
        assert_eq!(replica.node(), node);
        let want = 100 + round * 10;
        assert_eq!(replica.state().read().commands.len() as u64, want);
        propose_all(&replica, want + 1..want + 11, 100).await;
        replica.shutdown().await;
    }
    assert_eq!(numbers(&salvage::<Journal>(&fresh).unwrap().machine), (1..=120).collect::<Vec<_>>());
}
