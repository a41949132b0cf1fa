//! Crashes and damage: every prefix of a log recovers what was acknowledged in it, and no damage before that goes unnoticed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvine_types::{ClusterId, Error, ErrorKind, Result};

use super::recovery::{Recovered, recover};
use super::segment::HEADER_LEN;
use crate::disk::{Disk, RealDisk};
use crate::testing::{CLUSTER, copy_dir, create, files, open, options, propose_all};

fn recover_dir(dir: &Path) -> Result<Recovered> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    recover(&disk, dir, CLUSTER)
}

/// Where the records of a segment end.
fn end(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    let first = super::segment::parse_file_name(path.file_name().unwrap().to_str().unwrap()).unwrap();
    super::segment::scan(&bytes, first).ends.last().map_or(HEADER_LEN, |end| *end as usize)
}

/// A log of `segments` segments with some records each, and no room behind them; the directory and where each record of the last
/// segment ends.
async fn sample(segments: usize) -> (tempfile::TempDir, Vec<u32>) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.segment_bytes = 1500;
    let replica = create(&options).await;
    let mut sequence = 1;
    while files(dir.path(), "seg").len() < segments {
        propose_all(&replica, sequence..sequence + 1, 50).await;
        sequence += 1;
    }
    propose_all(&replica, sequence..sequence + 8, 50).await;
    replica.shutdown().await;
    let ends = recover_dir(dir.path()).unwrap().segments.pop().unwrap().ends;
    assert!(ends.len() >= 8);
    let end = u64::from(ends[ends.len() - 1]);
    std::fs::OpenOptions::new().write(true).open(last(dir.path())).unwrap().set_len(end).unwrap();
    (dir, ends)
}

fn damage(path: &Path, position: usize, flip: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[position] ^= flip;
    std::fs::write(path, bytes).unwrap();
}

fn last(dir: &Path) -> PathBuf {
    files(dir, "seg").pop().unwrap()
}

fn assert_refused(error: Error, path: &Path, what: &str) -> u64 {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    assert_eq!(error.get("file"), Some(path.display().to_string().as_str()), "{what}: {error}");
    error.get("offset").unwrap_or_else(|| panic!("{what}: {error}")).parse().unwrap()
}

#[tokio::test]
async fn a_log_cut_at_any_byte_keeps_every_whole_record() {
    let (dir, ends) = sample(2).await;
    let path = last(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for cut in (HEADER_LEN..=whole.len()).rev() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let recovered = recover_dir(dir.path()).unwrap();
        let kept = ends.iter().filter(|end| **end as usize <= cut).count();
        assert_eq!(recovered.segments.last().unwrap().ends.len(), kept, "cut at {cut}");
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        assert_eq!(
            length,
            kept.checked_sub(1).map_or(HEADER_LEN, |at| ends[at] as usize),
            "the tail is cut from the file"
        );
    }
}

#[tokio::test]
async fn a_tail_of_noise_is_cut() {
    let (dir, ends) = sample(1).await;
    let path = last(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let noise: Vec<u8> = (0..5000).map(|_| noise()).collect();
    for tail in [noise.clone(), [vec![0; 5000], noise].concat(), [vec![0; 5000], vec![1]].concat()] {
        std::fs::write(&path, [whole.as_slice(), &tail].concat()).unwrap();
        assert_eq!(recover_dir(dir.path()).unwrap().segments[0].ends, ends);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}

#[tokio::test]
async fn records_go_into_room_that_is_there_already_and_nobody_takes_it_for_a_tail() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let replica = create(&options).await;
    propose_all(&replica, 1..2, 1).await;
    let path = last(dir.path());
    let length = std::fs::metadata(&path).unwrap().len();
    propose_all(&replica, 2..40, 1).await;
    replica.shutdown().await;
    let records = end(&path);
    assert!(length > 500_000 && std::fs::metadata(&path).unwrap().len() == length, "{length}");
    assert!(std::fs::read(&path).unwrap()[records..].iter().all(|byte| *byte == 0));
    let replica = open(&options).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length, "it was cut");
    propose_all(&replica, 40..50, 1).await;
    assert_eq!(replica.state().read().sequences(), (1..50).collect::<Vec<u64>>());
    replica.shutdown().await;
    assert!(end(&path) > records && std::fs::metadata(&path).unwrap().len() == length);
}

#[tokio::test]
async fn a_changed_byte_before_acknowledged_records_is_refused_by_file_and_offset() {
    let (dir, ends) = sample(1).await;
    let path = last(dir.path());
    let before_last = ends[ends.len() - 2] as usize;
    for position in 0..before_last {
        damage(&path, position, 0x41);
        let error = recover_dir(dir.path()).expect_err(&format!("byte {position}"));
        if position < HEADER_LEN {
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Foreign), "byte {position}: {error}");
        } else {
            let offset = assert_refused(error, &path, &format!("byte {position}")) as usize;
            let start = ends.iter().map(|end| *end as usize).filter(|end| *end <= position).max().unwrap_or(HEADER_LEN);
            assert_eq!(offset, start, "byte {position}");
        }
        damage(&path, position, 0x41);
    }
    recover_dir(dir.path()).unwrap();
}

#[tokio::test]
async fn damage_in_an_older_segment_is_refused_even_in_its_last_record() {
    let (dir, _) = sample(3).await;
    let path = files(dir.path(), "seg").remove(1);
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    assert_eq!(length, end(&path), "room behind the records of an older segment");
    damage(&path, length - 1, 1);
    assert_refused(recover_dir(dir.path()).unwrap_err(), &path, "last byte");
    damage(&path, length - 1, 1);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..length - 3]).unwrap();
    assert_refused(recover_dir(dir.path()).unwrap_err(), &path, "cut short");
    let zeroes = vec![0; length - length / 2];
    std::fs::write(&path, [&whole[..length / 2], &zeroes].concat()).unwrap();
    assert_refused(recover_dir(dir.path()).unwrap_err(), &path, "zeroes");
}

#[tokio::test]
async fn records_of_one_unfinished_append_may_be_torn_in_any_order() {
    let (dir, _) = sample(1).await;
    let path = last(dir.path());
    let durable = std::fs::read(&path).unwrap();
    let next = recover_dir(dir.path()).unwrap().last.unwrap().index + 1;
    let mut bytes = durable.clone();
    let info = crate::entry::RecordInfo { durable: durable.len() as u32, committed: 0 };
    for index in next..next + 3 {
        let entry =
            crate::entry::Entry { log_id: crate::entry::log_id(1, 1, index), payload: openraft::EntryPayload::Blank };
        super::segment::put_record(&entry, info, &mut bytes);
    }
    bytes[durable.len() + 20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let recovered = recover_dir(dir.path()).unwrap();
    assert_eq!(recovered.last.unwrap().index, next - 1);
    assert_eq!(std::fs::read(&path).unwrap(), durable);
}

#[tokio::test]
async fn a_missing_segment_is_a_gap() {
    let (dir, _) = sample(4).await;
    let segments = files(dir.path(), "seg");
    std::fs::remove_file(&segments[1]).unwrap();
    let error = recover_dir(dir.path()).unwrap_err();
    assert_refused(error, &segments[2], "gap");
}

#[tokio::test]
async fn a_log_of_another_cluster_is_refused() {
    let (dir, _) = sample(1).await;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let error = recover(&disk, dir.path(), ClusterId([1; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    assert_eq!(error.get("file"), Some(last(dir.path()).display().to_string().as_str()));
}

#[tokio::test]
async fn a_killed_replica_has_everything_acknowledged_before() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let original_options = options(&original);
    let replica = create(&original_options).await;
    // While it runs, its directory is copied as a crash would leave it, torn at some byte of what came later.
    for round in 0..20u64 {
        propose_all(&replica, round * 10 + 1..round * 10 + 11, 30).await;
        let acknowledged = end(&last(&original));
        propose_all(&replica, 10_001 + round..10_002 + round, 30).await;
        let copy = dir.path().join(format!("copy-{round}"));
        copy_dir(&original, &copy);
        let torn = last(&copy);
        let bytes = std::fs::read(&torn).unwrap();
        let cut = acknowledged + (end(&torn) - acknowledged) * round as usize / 20;
        let room = vec![0; if round % 2 == 0 { 0 } else { bytes.len() - cut }];
        std::fs::write(&torn, [&bytes[..cut], &room].concat()).unwrap();
        let reopened = open(&options(&copy)).await.unwrap();
        let expected: Vec<u64> = (0..=round)
            .flat_map(|done| {
                let later = (done < round).then_some(10_001 + done);
                (done * 10 + 1..done * 10 + 11).chain(later)
            })
            .collect();
        assert_eq!(reopened.state().read().sequences(), expected, "round {round}");
        reopened.shutdown().await;
    }
    replica.shutdown().await;
}
