//! Fencing, space, durability and faults of authoritative content.

use curvine_types::ErrorKind;
use curvine_types::limits::{FILE_SIZE_MAX, PIECE_SIZE};

use crate::test_util::*;
use crate::*;

fn write(store: &BlockStore, offset: u64, data: &[u8]) -> curvine_types::Result<Written> {
    store.write(KEY, 1, 1, WriteAt::At(offset), data, &crcs(data))
}

#[test]
fn writers_of_another_version_or_epoch_are_refused() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 3, T0, b"abc").unwrap();
    let data = b"x";
    for (version, epoch) in [(2, 3), (0, 3), (1, 2), (1, 4)] {
        let error = store.write(KEY, version, epoch, WriteAt::At(0), data, &crcs(data)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch, "{version} {epoch}");
    }
    assert_eq!(store.read(KEY, 2, 0, 1).unwrap_err().kind(), ErrorKind::VersionMismatch);
    store.open_for_write(KEY, 1, 4).unwrap();
    assert_eq!(store.open_for_write(KEY, 1, 3).unwrap_err().kind(), ErrorKind::VersionMismatch);
    assert_eq!(
        store.write(KEY, 1, 3, WriteAt::At(0), data, &crcs(data)).unwrap_err().kind(),
        ErrorKind::VersionMismatch
    );
    store.write(KEY, 1, 4, WriteAt::At(0), data, &crcs(data)).unwrap();
    drop(store);
    let store = bench.open();
    assert_eq!(
        store.write(KEY, 1, 3, WriteAt::At(0), data, &crcs(data)).unwrap_err().kind(),
        ErrorKind::VersionMismatch,
        "a fence survives the process"
    );
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"xbc");
}

#[test]
fn a_sealed_content_takes_no_write_until_it_is_opened() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    let sealed = store.seal(KEY, 1, 1).unwrap();
    assert_eq!(store.seal(KEY, 1, 1).unwrap(), sealed, "sealing again is a no-op");
    assert_eq!(write(&store, 0, b"x").unwrap_err().kind(), ErrorKind::VersionMismatch);
    assert_eq!(store.truncate(KEY, 1, 1, 0).unwrap_err().kind(), ErrorKind::VersionMismatch);
    store.open_for_write(KEY, 1, 1).unwrap();
    assert!(write(&store, 0, b"x").unwrap().attr.mtime > sealed.mtime);
}

#[test]
fn placing_again_takes_the_last_bytes_until_the_first_write() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"longer than the next").unwrap();
    store.place(KEY, 1, 1, T0, b"the second").unwrap();
    drop(store);
    let store = bench.open();
    store.place(KEY, 1, 2, Timestamp { sec: T0.sec - 9, nsec: 1 }, b"the third").unwrap();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"the third");
    let data = b"T";
    store.write(KEY, 1, 2, WriteAt::At(0), data, &crcs(data)).unwrap();
    assert_eq!(store.place(KEY, 1, 2, T0, b"the fourth").unwrap_err().kind(), ErrorKind::VersionMismatch);
    drop(store);
    let store = bench.open();
    assert_eq!(store.place(KEY, 1, 2, T0, b"the fifth").unwrap_err().kind(), ErrorKind::VersionMismatch);
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"The third");
}

#[test]
fn a_placed_content_keeps_its_time_over_a_restart() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    assert_eq!(store.stat(KEY, 1).unwrap().mtime, T0);
    drop(store);
    assert_eq!(bench.open().stat(KEY, 1).unwrap().mtime, T0);
}

#[test]
fn a_time_that_was_set_survives_the_process_and_rises_with_the_next_write() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    write(&store, 0, b"x").unwrap();
    let past = Timestamp { sec: 1_000_000_000, nsec: 123 };
    assert_eq!(store.set_mtime(KEY, 1, past).unwrap().mtime, past);
    drop(store);
    let store = bench.open();
    assert_eq!(store.stat(KEY, 1).unwrap().mtime, past);
    assert!(write(&store, 0, b"y").unwrap().attr.mtime > past);
    store.set_mtime(KEY, 1, T0).unwrap();
    let again = store.place(KEY, 1, 1, T0, b"other").unwrap_err();
    assert_eq!(again.kind(), ErrorKind::VersionMismatch, "the time of the placement does not make it unwritten");
    store.seal(KEY, 1, 1).unwrap();
    // Set in the log while the content was sealed.
    let later = Timestamp { sec: 1_800_000_000, nsec: 7 };
    store.open_for_write(KEY, 1, 1).unwrap();
    store.set_mtime(KEY, 1, later).unwrap();
    assert_eq!(store.stat(KEY, 1).unwrap().mtime, later);
    drop(store);
    let store = bench.open();
    assert_eq!(store.seal(KEY, 1, 1).unwrap().mtime, later);
    assert_eq!(store.set_mtime(KEY, 1, past).unwrap_err().kind(), ErrorKind::VersionMismatch);
}

#[test]
fn data_that_differs_from_its_checksums_is_refused_on_arrival() {
    let store_dir = Bench::ssd();
    let store = store_dir.open();
    store.place(KEY, 1, 1, T0, b"").unwrap();
    let data = pattern(1, 100_000);
    let mut wrong = crcs(&data);
    wrong[1] ^= 1;
    for bad in [&wrong[..], &crcs(&data)[..1], &[]] {
        let error = store.write(KEY, 1, 1, WriteAt::Append, &data, bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    assert_eq!(store.stat(KEY, 1).unwrap().size, 0);
}

#[test]
fn a_full_quota_is_an_error_to_the_writer_and_to_nobody_else() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(2 * MIB))]);
    let store = bench.open();
    let other = ContentKey::new(8, 1);
    store.place(KEY, 1, 1, T0, b"").unwrap();
    store.place(other, 1, 1, T0, b"small").unwrap();
    let data = pattern(1, MIB as usize);
    write(&store, 0, &data).unwrap();
    let before = store.stat(KEY, 1).unwrap();
    let error = write(&store, MIB, &data).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(store.stat(KEY, 1).unwrap().size, before.size);
    let allocate = Fallocate::Allocate { keep_size: false };
    assert_eq!(store.fallocate(KEY, 1, 1, MIB, MIB, allocate).unwrap_err().kind(), ErrorKind::NoSpace);
    // What is allocated already can be overwritten however full the tier is.
    write(&store, 0, &pattern(2, MIB as usize)).unwrap();
    store.write(other, 1, 1, WriteAt::Append, b"er", &crcs(b"er")).unwrap();
    assert_eq!(read_all(&store, other, 1).unwrap(), b"smaller");
    store.delete(&[KEY]).unwrap();
    store.write(other, 1, 1, WriteAt::At(0), &data, &crcs(&data)).unwrap();
}

#[test]
fn a_full_disk_leaves_the_content_as_it_was() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"before").unwrap();
    bench.faults.set(DiskOp::Write, "data/", 28);
    assert_eq!(write(&store, 100, b"more").unwrap_err().kind(), ErrorKind::NoSpace);
    bench.faults.clear();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"before");
    bench.faults.set(DiskOp::IndexWrite, "index", 28);
    assert_eq!(store.open_for_write(KEY, 1, 2).unwrap_err().kind(), ErrorKind::NoSpace);
    bench.faults.clear();
    write(&store, 0, b"B").unwrap();
    drop(store);
    assert_eq!(read_all(&bench.open(), KEY, 1).unwrap(), b"Before");
}

#[test]
fn nothing_grows_beyond_the_largest_file() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"").unwrap();
    assert_eq!(write(&store, FILE_SIZE_MAX, b"x").unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(write(&store, u64::MAX, b"x").unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(store.truncate(KEY, 1, 1, FILE_SIZE_MAX + 1).unwrap_err().kind(), ErrorKind::FileTooLarge);
}

#[test]
fn a_huge_sparse_content_is_sealed_and_read_in_no_time() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"").unwrap();
    let far = FILE_SIZE_MAX - PIECE_SIZE;
    write(&store, far, b"the end").unwrap();
    let sealed = store.seal(KEY, 1, 1).unwrap();
    assert_eq!(sealed.size, far + 7);
    assert!(sealed.blocks * 512 < MIB);
    let plan = store.read(KEY, 1, 1 << 40, MIB).unwrap();
    assert!(matches!(plan.segments[..], [Segment::Hole { .. }]));
    assert_eq!(store.seek_data(KEY, 1, 0).unwrap() / MIB, far / MIB);
    assert_eq!(store.seek_hole(KEY, 1, far).unwrap(), far + 7);
    assert_eq!(store.seek_data(KEY, 1, far + 7).unwrap_err().kind(), ErrorKind::NoDevice);
    assert_eq!(read(&store, KEY, 1, far, 100).unwrap(), b"the end");
}

#[test]
fn damaged_sealed_data_is_an_error_never_bytes() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"").unwrap();
    let data = pattern(3, 3 * MIB as usize);
    for (at, part) in (0..).step_by(MIB as usize).zip(data.chunks(MIB as usize)) {
        write(&store, at, part).unwrap();
    }
    store.seal(KEY, 1, 1).unwrap();
    let path = store.map(KEY, 1).unwrap().path;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0], MIB + 70_000).unwrap();
    assert_eq!(read(&store, KEY, 1, MIB, 100_000).unwrap_err().kind(), ErrorKind::DataLoss);
    assert_eq!(store.verify(KEY, 1, MIB + 70_000, 1).unwrap_err().kind(), ErrorKind::DataLoss);
    assert!(read(&store, KEY, 1, 0, MIB).unwrap() == data[..MIB as usize]);
    assert_eq!(store.gauges().checksum_errors, 2);
}

#[test]
fn data_whose_sync_failed_is_never_trusted_again() {
    let bench = Bench::ssd();
    let store = bench.open();
    let other = ContentKey::new(8, 1);
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    store.place(other, 1, 1, T0, b"other").unwrap();
    write(&store, 0, b"x").unwrap();
    let name = format!("{:x}-{:x}", KEY.inode, KEY.generation);
    bench.faults.set(DiskOp::Sync, &name, 5);
    assert_eq!(store.fsync(KEY).unwrap_err().kind(), ErrorKind::Io);
    bench.faults.clear();
    // The disk is out of service, and comes back when a probe has succeeded.
    assert_eq!(read_all(&store, other, 1).unwrap_err().kind(), ErrorKind::Io);
    assert!(store.tiers()[0].state.starts_with("failed"));
    store.maintain();
    assert_eq!(store.tiers()[0].state, "ok");
    assert_eq!(read_all(&store, other, 1).unwrap(), b"other");
    assert_eq!(read_all(&store, KEY, 1).unwrap_err().kind(), ErrorKind::DataLoss);
    drop(store);
    assert_eq!(read_all(&bench.open(), KEY, 1).unwrap_err().kind(), ErrorKind::DataLoss);
}

#[test]
fn a_failed_tier_directory_does_not_take_the_others_along() {
    let bench = Bench::new(&[(TierKind::Ssd, None), (TierKind::Hdd, None)]);
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"on the ssd").unwrap();
    bench.faults.set(DiskOp::Write, "/0/", 5);
    assert_eq!(write(&store, 0, b"x").unwrap_err().kind(), ErrorKind::Io);
    let other = ContentKey::new(9, 1);
    store.place(other, 1, 1, T0, b"on the hdd").unwrap();
    assert_eq!(store.map(other, 1).unwrap().tier, TierKind::Hdd);
    store.maintain();
    assert!(store.tiers()[0].state.starts_with("failed"), "a probe that fails keeps it out");
    bench.faults.clear();
    store.maintain();
    write(&store, 0, b"O").unwrap();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"On the ssd");
}

#[test]
fn written_data_stays_off_mem_tiers_unless_there_is_nothing_else() {
    let bench = Bench::new(&[(TierKind::Mem, None), (TierKind::Ssd, None)]);
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    assert_eq!(store.map(KEY, 1).unwrap().tier, TierKind::Ssd);
    let only = Bench::new(&[(TierKind::Mem, None)]);
    let store = only.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    assert_eq!(store.map(KEY, 1).unwrap().tier, TierKind::Mem);
}

#[test]
fn concurrent_appends_each_get_their_own_place() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"").unwrap();
    let mut attrs: Vec<Written> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u8)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let data = [thread + 1; 1000];
                    (0..50)
                        .map(|_| store.write(KEY, 1, 1, WriteAt::Append, &data, &crcs(&data)).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    attrs.sort_by_key(|written| written.offset);
    assert!(attrs.windows(2).all(|pair| pair[0].attr.mtime < pair[1].attr.mtime), "the mtime rises with each write");
    let bytes = read_all(&store, KEY, 1).unwrap();
    assert_eq!(bytes.len(), 8 * 50 * 1000);
    assert!(bytes.chunks(1000).all(|part| part.iter().all(|byte| *byte == part[0] && *byte > 0)));
}

#[test]
fn an_append_that_is_sent_twice_is_made_once_and_a_dead_process_cannot_write_late() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(KEY, 1, 1, T0, b"abc").unwrap();
    let by = |instance, token, at, data: &[u8]| {
        store.write_by(Some(Writer { session: 9, instance, token }), KEY, 1, 1, at, data, &crcs(data))
    };
    assert_eq!(by(1, 70, WriteAt::Append, b"def").unwrap().offset, 3);
    assert_eq!(by(2, 70, WriteAt::Append, b"def").unwrap().offset, 3, "its successor sends it again");
    assert_eq!(by(2, 72, WriteAt::Append, b"ghi").unwrap().offset, 6);
    assert_eq!(by(1, 0, WriteAt::At(0), b"XXX").unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(by(1, 71, WriteAt::Append, b"XXX").unwrap_err().kind(), ErrorKind::Stale);
    by(2, 0, WriteAt::At(0), b"ABC").unwrap();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"ABCdefghi");
}
