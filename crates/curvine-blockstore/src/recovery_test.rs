//! Restarts: torn and lost indexes, unclean boots, foreign directories, inventory.

use std::fs;
use std::os::unix::fs::FileExt;

use curvine_types::{ClusterId, ErrorKind};

use crate::record::{Body, Live, Nothing, Record};
use crate::test_util::*;
use crate::*;

/// A sealed content, a live one and a half-filled copy.
fn populate(store: &BlockStore) -> [ContentKey; 3] {
    let [sealed, live, copy] = [1, 2, 3].map(|inode| ContentKey::new(inode, 1));
    let data = pattern(1, MIB as usize);
    for key in [sealed, live] {
        store.place(key, 1, 1, T0, b"").unwrap();
        store.write(key, 1, 1, WriteAt::At(0), &data, &crcs(&data)).unwrap();
    }
    store.seal(sealed, 1, 1).unwrap();
    store.prepare_cached(copy, 2 * MIB).unwrap();
    store.fill(copy, 0, &data).unwrap();
    [sealed, live, copy]
}

#[test]
fn a_killed_process_loses_nothing() {
    let bench = Bench::ssd();
    let store = bench.open();
    let (worker, [sealed, live, copy]) = (store.worker_uuid(), populate(&store));
    let attrs = [sealed, live].map(|key| store.stat(key, 1).unwrap());
    let used = store.tiers()[0].used;
    drop(store);
    let store = bench.open();
    assert_eq!(store.worker_uuid(), worker);
    assert_eq!(store.stat(sealed, 1).unwrap(), attrs[0]);
    let again = store.stat(live, 1).unwrap();
    assert_eq!(again.size, attrs[1].size);
    assert!(again.mtime > attrs[1].mtime, "a write may have been under way");
    for key in [sealed, live] {
        assert!(read_all(&store, key, 1).unwrap() == pattern(1, MIB as usize));
    }
    assert!(read(&store, copy, 0, 0, MIB).unwrap() == pattern(1, MIB as usize));
    assert_eq!(store.tiers()[0].used, used);
    assert_eq!(store.tiers()[0].files, 3);
}

#[test]
fn every_torn_tail_is_cut_and_leaves_a_store_that_works() {
    let bench = Bench::ssd();
    let store = bench.open();
    let [sealed, ..] = populate(&store);
    let index = bench.root(0).join("index");
    let whole = fs::metadata(&index).unwrap().len();
    store.prepare_cached(ContentKey::new(4, 1), MIB).unwrap();
    drop(store);
    let bytes = fs::read(&index).unwrap();
    for cut in whole as usize..bytes.len() {
        fs::write(&index, &bytes[..cut]).unwrap();
        let store = bench.open();
        assert!(!store.contains(ContentKey::new(4, 1)));
        assert!(read_all(&store, sealed, 1).unwrap() == pattern(1, MIB as usize));
        store.prepare_cached(ContentKey::new(5, 1), MIB).unwrap();
        drop(store);
        assert!(bench.open().contains(ContentKey::new(5, 1)));
    }
}

#[test]
fn a_lost_index_makes_everything_unknown_and_nothing_zero() {
    for damage in ["missing", "header"] {
        let bench = Bench::ssd();
        let store = bench.open();
        let (worker, [sealed, live, copy]) = (store.worker_uuid(), populate(&store));
        drop(store);
        let index = bench.root(0).join("index");
        match damage {
            "missing" => fs::remove_file(&index).unwrap(),
            _ => fs::File::options().write(true).open(&index).unwrap().write_all_at(&[9], 3).unwrap(),
        }
        for _ in 0..2 {
            let store = bench.open();
            assert_eq!(store.worker_uuid(), worker);
            for key in [sealed, live, copy] {
                assert_eq!(store.read(key, 1, 0, 1).unwrap_err().kind(), ErrorKind::DataLoss, "{damage}");
            }
            let lost = store.inventory(None, 10);
            assert_eq!(lost.iter().filter(|item| item.kind == ContentKind::Lost).count(), 3);
        }
        let store = bench.open();
        // As a copy it can be fetched again; what nobody needs is deleted.
        store.prepare_cached(copy, 2 * MIB).unwrap();
        assert!(matches!(store.read(copy, 0, 0, 1).unwrap().segments[..], [Segment::Absent { .. }]));
        store.delete(&[sealed, live]).unwrap();
        assert_eq!(store.inventory(None, 10).len(), 1);
    }
}

#[test]
fn damage_in_the_middle_of_an_index_is_not_taken_for_a_torn_tail() {
    let bench = Bench::ssd();
    let store = bench.open();
    let keys = populate(&store);
    drop(store);
    let index = bench.root(0).join("index");
    let len = fs::metadata(&index).unwrap().len();
    // Behind the header and the record of the boot, before nearly everything.
    fs::File::options().write(true).open(&index).unwrap().write_all_at(&[0xff; 4], 64 + 30).unwrap();
    let store = bench.open();
    for key in keys {
        let kind = store.read(key, 1, 0, 1).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::DataLoss, "{key}");
    }
    let kept = fs::read_dir(bench.root(0))
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains("damaged"));
    assert_eq!(kept.unwrap().metadata().unwrap().len(), len, "the damaged index is kept for people");
}

#[test]
fn an_unclean_boot_trusts_only_what_was_synced() {
    let mut bench = Bench::ssd();
    let store = bench.open();
    let [sealed, live, copy] = populate(&store);
    store.fsync(live).unwrap();
    let more = pattern(7, 5000);
    store.write(live, 1, 1, WriteAt::Append, &more, &crcs(&more)).unwrap();
    let mtime = store.stat(live, 1).unwrap().mtime;
    let [sealed_path, copy_path] = [(sealed, 1), (copy, 0)].map(|(key, version)| store.map(key, version).unwrap().path);
    drop(store);
    // What a power cut can do: data that never reached the disk.
    for path in [sealed_path, copy_path] {
        fs::File::options().write(true).open(path).unwrap().write_all_at(&[0; 4096], 8192).unwrap();
    }
    bench.options.boot_id = "second boot".to_string();
    let store = bench.open();
    assert!(read_all(&store, live, 1).unwrap() == pattern(1, MIB as usize));
    assert!(store.stat(live, 1).unwrap().mtime > mtime);
    assert_eq!(store.read(sealed, 1, 0, 1).unwrap_err().kind(), ErrorKind::DataLoss);
    assert!(matches!(store.read(copy, 0, 0, 1).unwrap().segments[..], [Segment::Absent { .. }]));
}

#[test]
fn what_was_cut_off_is_not_taken_for_synced_after_an_unclean_boot() {
    let mut bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, &pattern(1, 1000)).unwrap();
    store.truncate(KEY, 1, 1, 10).unwrap();
    store.write(KEY, 1, 1, WriteAt::At(500), b"unsynced", &crcs(b"unsynced")).unwrap();
    drop(store);
    bench.options.boot_id = "second boot".to_string();
    assert_eq!(read_all(&bench.open(), KEY, 1).unwrap(), pattern(1, 10));
}

#[test]
fn a_seal_that_failed_binds_nobody() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"before").unwrap();
    // The seal reaches the index but not the disk.
    bench.faults.set(DiskOp::IndexSync, "index", 28);
    store.seal(KEY, 1, 1).unwrap_err();
    bench.faults.clear();
    store.write(KEY, 1, 1, WriteAt::At(0), b"after!", &crcs(b"after!")).unwrap();
    drop(store);
    let store = bench.open();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"after!");
    // The index takes nothing: whether it calls the content sealed is not known, so nothing may change.
    bench.faults.set(DiskOp::IndexWrite, "index", 28);
    store.seal(KEY, 1, 1).unwrap_err();
    let refused = store.write(KEY, 1, 1, WriteAt::At(0), b"x", &crcs(b"x")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::VersionMismatch);
    bench.faults.clear();
    store.open_for_write(KEY, 1, 1).unwrap();
    store.write(KEY, 1, 1, WriteAt::At(0), b"AFTER!", &crcs(b"AFTER!")).unwrap();
    store.seal(KEY, 1, 1).unwrap();
    drop(store);
    assert_eq!(read_all(&bench.open(), KEY, 1).unwrap(), b"AFTER!");
}

#[test]
fn checksums_of_a_seal_that_was_interrupted_are_forgotten() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"").unwrap();
    let data = pattern(1, 2 * MIB as usize);
    store.write(KEY, 1, 1, WriteAt::At(0), &data, &crcs(&data)).unwrap();
    store.seal(KEY, 1, 1).unwrap();
    drop(store);
    // Cut `Sealed` off: the process died before it.
    let index = bench.root(0).join("index");
    let bytes = fs::read(&index).unwrap();
    fs::write(&index, &bytes[..bytes.len() - 1]).unwrap();
    let store = bench.open();
    store.fallocate(KEY, 1, 1, 0, MIB, Fallocate::PunchHole).unwrap();
    let end = pattern(9, 100);
    store.write(KEY, 1, 1, WriteAt::At(MIB + 5), &end, &crcs(&end)).unwrap();
    store.seal(KEY, 1, 1).unwrap();
    drop(store);
    let store = bench.open();
    assert_eq!(read(&store, KEY, 1, 0, MIB).unwrap(), vec![0; MIB as usize]);
    assert!(matches!(store.read(KEY, 1, 0, MIB).unwrap().segments[..], [Segment::Hole { .. }]));
    assert_eq!(read(&store, KEY, 1, MIB + 5, 100).unwrap(), end);
}

#[test]
fn what_a_failed_append_left_behind_never_counts() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    let index = bench.root(0).join("index");
    let end = fs::metadata(&index).unwrap().len();
    bench.faults.set(DiskOp::IndexWrite, "index", 28);
    store.open_for_write(KEY, 1, 2).unwrap_err();
    bench.faults.clear();
    // A failed write may have written any part of its bytes: here a whole record, right where the next one will end.
    let (mut next, mut left) = (Vec::new(), Vec::new());
    Record::new(KEY, Body::Live(Live { version: 1, epoch: 2 })).encode_framed(&mut next);
    Record::new(KEY, Body::Delete(Nothing {})).encode_framed(&mut left);
    fs::File::options().write(true).open(&index).unwrap().write_all_at(&left, end + next.len() as u64).unwrap();
    store.open_for_write(KEY, 1, 2).unwrap();
    drop(store);
    assert_eq!(read_all(&bench.open(), KEY, 1).unwrap(), b"abc");
}

#[test]
fn an_orderly_stop_is_trusted_in_the_next_boot() {
    let mut bench = Bench::ssd();
    let store = bench.open();
    let [_, live, copy] = populate(&store);
    let attr = store.stat(live, 1).unwrap();
    store.close().unwrap();
    drop(store);
    bench.options.boot_id = "second boot".to_string();
    let store = bench.open();
    assert_eq!(store.stat(live, 1).unwrap(), attr);
    assert!(read(&store, copy, 0, 0, MIB).unwrap() == pattern(1, MIB as usize));
    // The mark is void as soon as the store is in use again.
    drop(store);
    bench.options.boot_id = "third boot".to_string();
    let file = fs::File::options().write(true).open(bench.open().map(copy, 0).unwrap().path).unwrap();
    file.write_all_at(&[0; 100], 0).unwrap();
    bench.options.boot_id = "fourth boot".to_string();
    assert!(matches!(bench.open().read(copy, 0, 0, 1).unwrap().segments[..], [Segment::Absent { .. }]));
}

#[test]
fn a_placement_that_never_ended_leaves_nothing() {
    let bench = Bench::ssd();
    let store = bench.open();
    bench.faults.set(DiskOp::IndexSync, "index", 28);
    store.place(KEY, 1, 1, T0, b"abc").unwrap_err();
    assert!(!store.contains(KEY));
    bench.faults.clear();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    drop(store);
    assert_eq!(read_all(&bench.open(), KEY, 1).unwrap(), b"abc");
}

#[test]
fn files_that_no_index_knows_are_found_after_an_unclean_boot() {
    let mut bench = Bench::ssd();
    drop(bench.open());
    let store = bench.open();
    store.prepare_cached(KEY, MIB).unwrap();
    let path = store.map(KEY, 0).unwrap().path;
    store.delete(&[KEY]).unwrap();
    drop(store);
    fs::write(path, b"left over").unwrap();
    bench.options.boot_id = "second boot".to_string();
    let store = bench.open();
    (0..256).for_each(|_| store.maintain());
    assert_eq!(store.inventory(None, 10), [InventoryItem { key: KEY, version: 0, kind: ContentKind::Lost }]);
}

#[test]
fn directories_of_other_clusters_are_reported_and_left_alone() {
    let bench = Bench::ssd();
    let store = bench.open();
    populate(&store);
    drop(store);
    assert_eq!(BlockStore::discover(&bench.tiers), Some(CLUSTER));
    let other = ClusterId(*b"another clusters");
    let store = BlockStore::open(other, &bench.tiers, bench.options.clone()).unwrap();
    assert_eq!(store.foreign(), [bench.root(0)]);
    assert!(store.inventory(None, 10).is_empty());
    drop(store);
    assert_eq!(BlockStore::discover(&bench.tiers), None, "two clusters: somebody must say which");
    assert_eq!(bench.open().inventory(None, 10).len(), 3);
}

#[test]
fn a_directory_belongs_to_one_worker_and_one_process() {
    let bench = Bench::new(&[(TierKind::Ssd, None), (TierKind::Hdd, None)]);
    let store = bench.open();
    let busy = BlockStore::open(CLUSTER, &bench.tiers, bench.options.clone()).err().unwrap();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    drop(store);
    let others = Bench::ssd();
    drop(others.open());
    let mixed = [bench.tiers[0].clone(), others.tiers[0].clone()];
    let error = BlockStore::open(CLUSTER, &mixed, bench.options.clone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    // An index of a format that we cannot read is not touched.
    let index = bench.root(0).join("index");
    let mut bytes = fs::read(&index).unwrap();
    bytes[8] = 99;
    let crc = crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&index, &bytes).unwrap();
    let error = BlockStore::open(CLUSTER, &bench.tiers, bench.options.clone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    assert_eq!(fs::read(&index).unwrap(), bytes);
}

#[test]
fn a_directory_that_cannot_be_used_at_the_start_joins_later() {
    let bench = Bench::new(&[(TierKind::Ssd, None), (TierKind::Hdd, None)]);
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    drop(store);
    bench.faults.set(DiskOp::Open, "/0/", 5);
    let store = bench.open();
    assert!(store.tiers()[0].state.starts_with("failed"));
    assert_eq!(store.read(KEY, 1, 0, 1).unwrap_err().kind(), ErrorKind::Io, "nobody knows what is in it");
    bench.faults.clear();
    store.maintain();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"abc");
}

#[test]
fn compaction_keeps_all_that_counts() {
    let mut bench = Bench::ssd();
    bench.options.compact_after = 0;
    let store = bench.open();
    let [sealed, live, copy] = populate(&store);
    for inode in 100..400 {
        store.prepare_cached(ContentKey::new(inode, 1), MIB).unwrap();
        store.delete(&[ContentKey::new(inode, 1)]).unwrap();
    }
    let before = store.gauges().index_bytes;
    store.maintain();
    assert!(store.gauges().index_bytes * 5 < before);
    store.open_for_write(live, 1, 5).unwrap();
    drop(store);
    let store = bench.open();
    assert!(read_all(&store, sealed, 1).unwrap() == pattern(1, MIB as usize));
    store.write(live, 1, 5, WriteAt::At(0), b"x", &crcs(b"x")).unwrap();
    assert!(read(&store, copy, 0, 0, MIB).unwrap() == pattern(1, MIB as usize));
    assert_eq!(store.inventory(Some(sealed), 1)[0].key, live);
}
