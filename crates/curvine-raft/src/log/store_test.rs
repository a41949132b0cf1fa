//! openraft's own suite against this storage, and what it does not ask for: files, restarts, bounded reads.

use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftLogReader};
use parking_lot::RwLock;
use tempfile::TempDir;

use super::store::{LogPlace, LogStore};
use crate::applier::Applier;
use crate::disk::RealDisk;
use crate::entry::{Batch, Entry, StorageError, Types, Vote, log_id};
use crate::snapshot::store::SnapshotStore;
use crate::testing::{CLUSTER, Journal, command, files};
use crate::{NodeFile, Options};

fn open(options: &Options) -> LogStore {
    let node = NodeFile::load(&options.dir).unwrap().unwrap();
    let place = LogPlace { disk: Arc::new(RealDisk), node, health: Arc::default() };
    let lock = std::fs::File::open(&options.dir).unwrap();
    LogStore::open(options, place, lock).unwrap().0
}

fn options(dir: &TempDir) -> Options {
    NodeFile::create(&RealDisk, dir.path(), CLUSTER).unwrap();
    Options { disk_reserve: 0, segment_bytes: 2000, cache_bytes: 500, ..Options::new(dir.path()) }
}

fn entry(term: u64, index: u64) -> Entry {
    let batch = curvine_proto::CommandBatch { now: None, commands: vec![command(index, 100)] };
    Entry { log_id: log_id(term, 9, index), payload: EntryPayload::Normal(Batch::new(batch)) }
}

async fn append(store: &mut LogStore, term: u64, indexes: std::ops::Range<u64>) {
    for index in indexes {
        store.blocking_append([entry(term, index)]).await.unwrap();
    }
}

async fn all(store: &mut LogStore) -> Vec<Entry> {
    store.try_get_log_entries(..).await.unwrap()
}

struct Builder;

impl StoreBuilder<Types, LogStore, Applier<Journal>, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Applier<Journal>), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let store = open(&options);
        let mut restore = |_: &mut dyn std::io::Read| Ok(());
        let (snapshots, restored) =
            SnapshotStore::open(Arc::new(RealDisk), dir.path(), CLUSTER, 2, (None, None), &mut restore).unwrap();
        let applier = Applier::new(
            Arc::new(RwLock::new(Journal::default())),
            Arc::new(snapshots),
            restored,
            std::time::Duration::ZERO,
        );
        Ok((dir, store, applier))
    }
}

macro_rules! suite {
    ($($case:ident)*) => {
        $(
            let (_dir, store, applier) = Builder.build().await.unwrap();
            Suite::<Types, LogStore, Applier<Journal>, Builder, TempDir>::$case(store, applier).await.unwrap();
        )*
    };
}

/// All but `get_initial_state_membership_from_log_and_sm`, which appends an entry behind a hole: this log refuses that.
#[tokio::test]
async fn the_storage_passes_the_suite_of_openraft() {
    suite! {
        last_membership_in_log_initial last_membership_in_log last_membership_in_log_multi_step get_membership_initial
        get_membership_from_log_and_empty_sm get_membership_from_empty_log_and_sm
        get_membership_from_log_le_sm_last_applied get_membership_from_log_gt_sm_last_applied_1
        get_membership_from_log_gt_sm_last_applied_2 get_initial_state_without_init get_initial_state_with_state
        get_initial_state_last_log_gt_sm get_initial_state_last_log_lt_sm get_initial_state_log_ids
        get_initial_state_re_apply_committed save_vote get_log_entries limited_get_log_entries try_get_log_entry
        initial_logs get_log_state get_log_id last_id_in_log last_applied_state purge_logs_upto_0 purge_logs_upto_5
        purge_logs_upto_20 delete_logs_since_11 delete_logs_since_0 append_to_log snapshot_meta apply_single
        apply_multiple
    }
    Suite::<Types, LogStore, Applier<Journal>, Builder, TempDir>::transfer_snapshot(&Builder).await.unwrap();
}

#[tokio::test]
async fn entries_are_read_back_from_files_and_cache_alike() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let mut store = open(&options);
    append(&mut store, 1, 0..100).await;
    assert!(files(dir.path(), "seg").len() > 5, "several segments");
    assert!(store.reader().memory.lock().cache_bytes() <= 500);
    for start in 0..100 {
        let entries = store.try_get_log_entries(start..start + 30).await.unwrap();
        let expected: Vec<Entry> = (start..100.min(start + 30)).map(|index| entry(1, index)).collect();
        assert_eq!(entries, expected);
    }
    drop(store);
    let mut store = open(&options);
    assert_eq!(all(&mut store).await, (0..100).map(|index| entry(1, index)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_read_for_replication_is_bounded_by_bytes_but_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&Options { segment_bytes: 1 << 30, ..options(&dir) });
    for index in 0..8 {
        let batch = curvine_proto::CommandBatch { now: None, commands: vec![command(index, 400 << 10)] };
        let entry = Entry { log_id: log_id(1, 9, index), payload: EntryPayload::Normal(Batch::new(batch)) };
        store.blocking_append([entry]).await.unwrap();
    }
    for start in 0..8 {
        let entries = store.limited_get_log_entries(start, 8).await.unwrap();
        assert_eq!(entries.len() as u64, 2.min(8 - start), "two of 400 KiB fit into 1 MiB");
        assert_eq!(entries[0].log_id.index, start);
    }
}

#[tokio::test]
async fn a_truncation_is_durable_whatever_segments_it_spans() {
    for since in [1, 30, 57, 99] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let mut store = open(&options);
        append(&mut store, 1, 0..100).await;
        store.truncate(log_id(1, 9, since)).await.unwrap();
        drop(store);
        let mut store = open(&options);
        assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 9, since - 1)));
        append(&mut store, 2, since..since + 20).await;
        drop(store);
        let mut store = open(&options);
        let expected: Vec<Entry> =
            (0..since).map(|index| entry(1, index)).chain((since..since + 20).map(|index| entry(2, index))).collect();
        assert_eq!(all(&mut store).await, expected);
    }
}

#[tokio::test]
async fn a_purge_removes_whole_segments_and_a_restart_knows_where_the_log_begins() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let mut store = open(&options);
    append(&mut store, 1, 0..100).await;
    let before = files(dir.path(), "seg").len();
    store.purge(log_id(1, 9, 60)).await.unwrap();
    assert_eq!(store.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 9, 60)));
    assert_eq!(all(&mut store).await.first().unwrap().log_id.index, 61);
    assert!(files(dir.path(), "seg").len() < before);
    drop(store);
    let mut store = open(&options);
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(1, 9, 99)));
    let purged = state.last_purged_log_id.unwrap();
    assert!(purged.index <= 60 && purged.index > 30, "{purged}");
    assert_eq!(all(&mut store).await.first().unwrap().log_id.index, purged.index + 1);
}

#[tokio::test]
async fn a_log_begins_anew_behind_an_installed_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let mut store = open(&options);
    append(&mut store, 1, 0..50).await;
    let old = files(dir.path(), "seg");
    let saved: Vec<Vec<u8>> = old.iter().map(|path| std::fs::read(path).unwrap()).collect();
    store.purge(log_id(3, 8, 1000)).await.unwrap();
    append(&mut store, 3, 1001..1010).await;
    drop(store);
    // A crash may have left the old segments; they are behind the beginning.
    old.iter().zip(&saved).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    let mut store = open(&options);
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 8, 1000)));
    assert_eq!(all(&mut store).await, (1001..1010).map(|index| entry(3, index)).collect::<Vec<_>>());
    assert!(old.iter().all(|path| !path.exists()));
}

#[tokio::test]
async fn what_was_committed_is_known_after_a_restart_as_far_as_records_tell() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let mut store = open(&options);
    append(&mut store, 1, 0..10).await;
    store.save_committed(Some(log_id(1, 9, 9))).await.unwrap();
    append(&mut store, 1, 10..11).await;
    store.save_committed(Some(log_id(1, 9, 10))).await.unwrap();
    drop(store);
    assert_eq!(open(&options).read_committed().await.unwrap(), Some(log_id(1, 9, 9)));
}

#[tokio::test]
async fn a_vote_is_read_back_and_one_for_itself_must_be_won_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let own = NodeFile::load(dir.path()).unwrap().unwrap().node;
    for (saved, read) in
        [(Vote::new_committed(4, 5), Vote::new_committed(4, 5)), (Vote::new_committed(6, own), Vote::new(6, own))]
    {
        let mut store = open(&options);
        store.save_vote(&saved).await.unwrap();
        assert_eq!(store.read_vote().await.unwrap(), Some(saved));
        drop(store);
        assert_eq!(open(&options).read_vote().await.unwrap(), Some(read));
    }
}

#[tokio::test]
async fn an_append_that_would_leave_a_gap_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&options(&dir));
    append(&mut store, 1, 0..3).await;
    assert!(store.blocking_append([entry(1, 5)]).await.is_err());
}

#[tokio::test]
async fn applied_batches_come_out_in_order() {
    let (_dir, _store, mut applier) = Builder.build().await.unwrap();
    let commands = (0..1000).map(|sequence| command(sequence, 10)).collect();
    let batch = Batch::new(curvine_proto::CommandBatch { now: None, commands });
    let entry = Entry { log_id: log_id(1, 9, 0), payload: EntryPayload::Normal(batch) };
    let outcomes = applier.apply([entry]).await.unwrap().remove(0).0;
    assert!(outcomes.iter().enumerate().all(|(position, outcome)| outcome.epoch == position as u64));
    assert_eq!(applier.state.read().sequences(), (0..1000).collect::<Vec<_>>());
}
