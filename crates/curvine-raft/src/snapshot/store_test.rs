//! Snapshots together with the log: what is kept, what is purged, and what a damaged file costs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvine_types::ErrorKind;
use rustix::io::Errno;

use crate::testing::{At, FaultDisk, Journal, create, files, open, options, propose_all};
use crate::{Options, Replica};

fn small(dir: &Path) -> Options {
    Options { segment_bytes: 1000, ..options(dir) }
}

/// A closed replica with commands 1 to 60 and snapshots after 20 and 40.
async fn sample(dir: &Path) -> Options {
    sample_with(small(dir)).await
}

async fn sample_with(options: Options) -> Options {
    let replica = create(&options).await;
    for round in 0..3 {
        propose_all(&replica, round * 20 + 1..round * 20 + 21, 40).await;
        if round < 2 {
            replica.snapshot_now().await.unwrap();
        }
    }
    replica.shutdown().await;
    options
}

async fn sequences(options: &Options) -> Vec<u64> {
    let replica = open(options).await.unwrap();
    let sequences = replica.state().read().sequences();
    replica.shutdown().await;
    sequences
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    files(dir, "snap")
}

#[tokio::test]
async fn a_restart_takes_the_newest_snapshot_and_the_log_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = sample(dir.path()).await;
    assert_eq!(sequences(&options).await, (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_log_behind_the_oldest_kept_snapshot_stays_and_the_rest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let options = small(dir.path());
    let replica = create(&options).await;
    let mut indexes = Vec::new();
    for round in 0..5 {
        propose_all(&replica, round * 20 + 1..round * 20 + 21, 40).await;
        replica.snapshot_now().await.unwrap();
        indexes.push(replica.status().snapshot_index);
    }
    assert_eq!(snapshots(dir.path()).len(), 2);
    let oldest_kept = indexes[3];
    // Purging goes through openraft's core; a read barrier of its state orders this check behind it.
    let purged = |metrics: &openraft::RaftMetrics<u64, openraft::BasicNode>| {
        metrics.purged.is_some_and(|purged| purged.index == oldest_kept)
    };
    replica.raft().wait(Some(std::time::Duration::from_secs(10))).metrics(purged, "purged").await.unwrap();
    let first: u64 = files(dir.path(), "seg")[0].file_stem().unwrap().to_str().unwrap()[4..].parse().unwrap();
    assert!(first <= oldest_kept + 1 && first + 20 > oldest_kept, "first segment starts at {first}");
    replica.shutdown().await;
    assert_eq!(sequences(&options).await, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_newest_snapshot_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = sample(dir.path()).await;
    damage(&snapshots(dir.path())[1]);
    assert_eq!(sequences(&options).await, (1..=60).collect::<Vec<_>>());
    assert_eq!(files(dir.path(), "damaged").len(), 1, "it is kept for people");
    assert_eq!(sequences(&options).await, (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_any_good_snapshot_a_purged_log_is_refused_by_the_name_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = small(dir.path());
    let replica = create(&options).await;
    for round in 0..4 {
        propose_all(&replica, round * 20 + 1..round * 20 + 21, 40).await;
        replica.snapshot_now().await.unwrap();
    }
    replica.shutdown().await;
    let files = snapshots(dir.path());
    files.iter().for_each(|path| damage(path));
    let error = open(&options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.get("file"), Some(files[1].display().to_string().as_str()), "{error}");
    assert_eq!(snapshots(dir.path()), files, "nothing was moved");
}

#[tokio::test]
async fn damaged_snapshots_cost_nothing_while_the_log_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = sample_with(Options { snapshots_kept: 3, ..small(dir.path()) }).await;
    snapshots(dir.path()).iter().for_each(|path| damage(path));
    assert_eq!(sequences(&options).await, (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_snapshot_that_reaches_further_than_the_log_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let options = small(dir.path());
    let replica = create(&options).await;
    propose_all(&replica, 1..21, 40).await;
    replica.snapshot_now().await.unwrap();
    let short = dir.path().with_extension("short");
    crate::testing::copy_dir(dir.path(), &short);
    propose_all(&replica, 21..41, 40).await;
    replica.snapshot_now().await.unwrap();
    replica.shutdown().await;
    // The log of then with the snapshot of now, damaged: the commands from 21 on are only in the damaged file.
    let newest = snapshots(dir.path()).pop().unwrap();
    let moved = short.join(newest.file_name().unwrap());
    std::fs::copy(&newest, &moved).unwrap();
    damage(&moved);
    let error = open(&small(&short)).await.err().unwrap();
    assert_eq!((error.kind(), error.get("file")), (ErrorKind::Corrupt, Some(moved.display().to_string().as_str())));
    std::fs::copy(&newest, &moved).unwrap();
    assert_eq!(sequences(&small(&short)).await, (1..=40).collect::<Vec<_>>());
    std::fs::remove_dir_all(&short).unwrap();
}

#[tokio::test]
async fn a_snapshot_is_taken_when_enough_log_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { snapshot_log_bytes: 10_000, ..small(dir.path()) };
    let replica = create(&options).await;
    propose_all(&replica, 1..31, 400).await;
    let noticed = replica.raft().wait(Some(std::time::Duration::from_secs(10)));
    noticed.metrics(|metrics| metrics.snapshot.is_some(), "snapshot").await.unwrap();
    assert!(replica.status().snapshot_index > 0);
    replica.shutdown().await;
    assert_eq!(sequences(&options).await, (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_stops_nothing_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let options = small(dir.path());
    Replica::<Journal>::create(dir.path(), crate::testing::CLUSTER).unwrap();
    let disk = FaultDisk::default();
    let replica = Replica::open_on(Arc::new(disk.clone()), options.clone(), Journal::default(), None).await.unwrap();
    propose_all(&replica, 1..11, 40).await;
    for at in [At::Create, At::Write, At::Sync, At::Rename] {
        disk.fail(at, "snap-", Errno::NOSPC, 1);
        assert!(replica.snapshot_now().await.is_err(), "{at:?}");
        assert!(replica.status().snapshot_error.is_some());
        assert!(snapshots(dir.path()).is_empty() && files(dir.path(), "tmp").is_empty(), "{at:?} left something");
        propose_all(&replica, 11..12, 40).await;
    }
    replica.snapshot_now().await.unwrap();
    assert_eq!(replica.status().snapshot_error, None);
    replica.shutdown().await;
    assert_eq!(sequences(&options).await.len(), 14);
}
