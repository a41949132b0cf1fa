//! Clean copies: chunk states, eviction, damage, tiers.

use curvine_types::ErrorKind;

use crate::test_util::*;
use crate::*;

fn copy(inode: u64) -> ContentKey {
    ContentKey::new(inode, 1)
}

fn fill(store: &BlockStore, inode: u64, chunks: u64) -> curvine_types::Result<()> {
    store.prepare_cached(copy(inode), chunks * MIB)?;
    (0..chunks).try_for_each(|chunk| store.fill(copy(inode), chunk * MIB, &pattern(inode + chunk, MIB as usize)))
}

#[test]
fn what_was_not_filled_is_absent_and_nothing_else() {
    let bench = Bench::ssd();
    let mut store = bench.open();
    let size = 5 * MIB / 2;
    store.prepare_cached(KEY, size).unwrap();
    let tail = pattern(2, MIB as usize / 2);
    store.fill(KEY, 2 * MIB, &tail).unwrap();
    store.fill(KEY, 0, &vec![0; MIB as usize]).unwrap();
    for _ in 0..2 {
        let plan = store.read(KEY, 0, 0, u64::MAX).unwrap();
        assert!(matches!(
            plan.segments[..],
            [
                Segment::Hole { offset: 0, len: MIB },
                Segment::Absent { offset: MIB, len: MIB },
                Segment::Data { offset: 2_097_152, crcs: Some(_), .. }
            ]
        ));
        assert!(read(&store, KEY, 0, 2 * MIB, MIB).unwrap() == tail);
        let map = store.map(KEY, 0).unwrap();
        assert_eq!(map.states, [ChunkState::Hole, ChunkState::Absent, ChunkState::Present]);
        assert_eq!(map.present_bytes, MIB / 2);
        drop(store);
        store = bench.open();
    }
    assert_eq!(store.prepare_cached(KEY, size + 1).unwrap_err().kind(), ErrorKind::VersionMismatch);
    for (offset, len) in [(1, MIB as usize), (0, 10), (2 * MIB, MIB as usize)] {
        assert_eq!(store.fill(KEY, offset, &vec![1; len]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn above_the_high_watermark_copies_go_in_the_background_down_to_the_low_one_and_nothing_else_does() {
    let mut bench = Bench::new(&[(TierKind::Ssd, Some(20 * MIB))]);
    bench.tiers[0].watermarks = Some((80, 50));
    let store = bench.open();
    let data = pattern(1, 2 * MIB as usize);
    store.place(KEY, 1, 1, T0, &data).unwrap();
    for inode in 20..34 {
        fill(&store, inode, 1).unwrap();
    }
    store.maintain();
    assert_eq!(store.tiers()[0].clean, 14 * MIB, "at the watermark nothing goes");
    fill(&store, 34, 1).unwrap();
    store.maintain();
    assert_eq!((store.tiers()[0].used, store.tiers()[0].clean), (10 * MIB, 8 * MIB));
    assert!(store.contains(KEY) && store.contains(copy(34)) && !store.contains(copy(20)));
}

#[test]
fn copies_make_way_for_each_other_and_for_writers_but_never_the_other_way_round() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(4 * MIB))]);
    let store = bench.open();
    let data = pattern(1, MIB as usize);
    store.place(KEY, 1, 1, T0, &data).unwrap();
    store.seal(KEY, 1, 1).unwrap();
    for inode in 20..30 {
        fill(&store, inode, 1).unwrap();
    }
    assert!(store.contains(copy(29)));
    assert!(!store.contains(copy(20)), "the oldest copy made way");
    assert!(store.tiers()[0].used <= 4 * MIB);
    assert_eq!(store.tiers()[0].available, 3 * MIB, "copies make way, so their space counts as available");
    // A writer needs everything: all copies go.
    store.open_for_write(KEY, 1, 1).unwrap();
    for chunk in 1..3 {
        store.write(KEY, 1, 1, WriteAt::At(chunk * MIB), &data, &crcs(&data)).unwrap();
    }
    let rest = pattern(2, MIB as usize / 2);
    store.write(KEY, 1, 1, WriteAt::At(3 * MIB), &rest, &crcs(&rest)).unwrap();
    // Nothing of a writer goes for a copy.
    assert_eq!(fill(&store, 40, 1).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(store.stat(KEY, 1).unwrap().size, 3 * MIB + MIB / 2);
    assert_eq!(store.inventory(None, 10).iter().filter(|item| item.kind == ContentKind::Live).count(), 1);
    drop(store);
    let store = bench.open();
    assert!(!store.contains(copy(20)));
    assert!(read(&store, KEY, 1, 0, MIB).unwrap() == data);
}

#[test]
fn a_copy_is_not_evicted_to_fill_itself() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(2 * MIB))]);
    let store = bench.open();
    assert_eq!(fill(&store, 5, 4).unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(read(&store, copy(5), 0, 0, MIB).unwrap() == pattern(5, MIB as usize));
}

#[test]
fn a_damaged_copy_becomes_absent_and_can_be_filled_again() {
    let bench = Bench::ssd();
    let store = bench.open();
    fill(&store, 5, 2).unwrap();
    let used = store.tiers()[0].used;
    let path = store.map(copy(5), 0).unwrap().path;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0], 10).unwrap();
    // Whoever received it damaged asks to verify; readers get a plan without it.
    store.verify(copy(5), 0, 0, 100).unwrap();
    let plan = store.read(copy(5), 0, 0, 2 * MIB).unwrap();
    assert!(matches!(plan.segments[..], [Segment::Absent { offset: 0, len: MIB }, Segment::Data { .. }]));
    assert_eq!(store.tiers()[0].used, used - MIB);
    store.fill(copy(5), 0, &pattern(5, MIB as usize)).unwrap();
    drop(store);
    assert!(read(&bench.open(), copy(5), 0, 0, MIB).unwrap() == pattern(5, MIB as usize));
}

#[test]
fn a_copy_whose_file_is_gone_is_absent() {
    let bench = Bench::ssd();
    let store = bench.open();
    fill(&store, 5, 1).unwrap();
    let path = store.map(copy(5), 0).unwrap().path;
    drop(store);
    std::fs::remove_file(path).unwrap();
    let store = bench.open();
    assert!(matches!(store.read(copy(5), 0, 0, 9).unwrap().segments[..], [Segment::Absent { .. }]));
    fill(&store, 5, 1).unwrap();
    assert!(read_all(&store, copy(5), 0).unwrap() == pattern(5, MIB as usize));
}

#[test]
fn a_copy_too_large_for_the_first_tier_goes_to_the_next() {
    let bench = Bench::new(&[(TierKind::Mem, Some(4 * MIB)), (TierKind::Ssd, Some(400 * MIB))]);
    let store = bench.open();
    fill(&store, 5, 2).unwrap();
    assert_eq!(store.map(copy(5), 0).unwrap().tier, TierKind::Mem);
    store.prepare_cached(copy(6), 100 * MIB).unwrap();
    assert_eq!(store.map(copy(6), 0).unwrap().tier, TierKind::Ssd);
    let tiers = store.tiers();
    assert_eq!((tiers[0].files, tiers[1].files), (1, 1));
    assert_eq!(tiers[0].used, 2 * MIB);
}

#[test]
fn descriptors_are_bounded_and_contents_go_on_working() {
    let mut bench = Bench::ssd();
    bench.options.open_files = 4;
    let store = bench.open();
    for inode in 1..20 {
        fill(&store, inode, 1).unwrap();
    }
    assert_eq!(store.gauges().open_files, 4);
    for inode in 1..20 {
        assert!(read_all(&store, copy(inode), 0).unwrap() == pattern(inode, MIB as usize));
    }
    assert_eq!(store.gauges().open_files, 4);
    assert_eq!(store.gauges().contents, 19);
}

#[test]
fn fills_reads_and_evictions_at_once_never_give_wrong_bytes() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(6 * MIB))]);
    let store = bench.open();
    let served = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let (store, served) = (&store, &served);
            scope.spawn(move || {
                for round in 0..60u64 {
                    let inode = 1 + (thread * 7 + round * 3) % 12;
                    match fill(store, inode, 2) {
                        Ok(()) => {}
                        // Another thread evicted it, or everything is in use.
                        Err(error) => assert!(
                            matches!(
                                error.kind(),
                                ErrorKind::NoSpace | ErrorKind::VersionMismatch | ErrorKind::DataLoss
                            ),
                            "{error}"
                        ),
                    }
                    let Ok(plan) = store.read(copy(inode), 0, MIB, MIB) else { continue };
                    for segment in &plan.segments {
                        if let Segment::Data { .. } = segment
                            && let Ok(data) = store.load(copy(inode), segment)
                        {
                            assert!(data == pattern(inode + 1, MIB as usize));
                            served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert!(served.into_inner() > 20);
    assert!(store.gauges().evictions > 0);
    assert!(store.tiers()[0].used <= 6 * MIB);
}

#[test]
fn a_sealed_content_that_the_store_has_becomes_a_copy_with_the_same_bytes_and_can_be_evicted() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(4 * MIB))]);
    let mut store = bench.open();
    let data = pattern(7, MIB as usize);
    store.place(KEY, 1, 1, T0, &data).unwrap();
    store.truncate(KEY, 1, 1, 5 * MIB / 2).unwrap();
    assert_eq!(store.release(KEY).unwrap_err().kind(), ErrorKind::VersionMismatch, "it is live");
    store.seal(KEY, 1, 1).unwrap();
    assert_eq!(store.sealed(KEY, 1, 2).unwrap_err().kind(), ErrorKind::VersionMismatch);
    assert_eq!(store.sealed(KEY, 1, 1).unwrap().size, 5 * MIB / 2);
    store.release(KEY).unwrap();
    for _ in 0..2 {
        store.release(KEY).unwrap();
        assert_eq!(store.read(KEY, 1, 0, 1).unwrap_err().kind(), ErrorKind::VersionMismatch);
        assert!(read(&store, KEY, 0, 0, MIB).unwrap() == data);
        assert_eq!(read(&store, KEY, 0, MIB, 3 * MIB / 2).unwrap(), vec![0; 3 * MIB as usize / 2]);
        let map = store.map(KEY, 0).unwrap();
        assert_eq!((map.kind, map.present_bytes), (ContentKind::Cached, MIB));
        assert_eq!(store.open_for_write(KEY, 1, 2).unwrap_err().kind(), ErrorKind::VersionMismatch);
        drop(store);
        store = bench.open();
    }
    for inode in 20..30 {
        fill(&store, inode, 1).unwrap();
    }
    assert!(!store.contains(KEY), "it made way for others");
    store.release(KEY).unwrap();
}

#[test]
fn a_clean_copy_is_dropped_on_request_and_an_only_copy_never() {
    let bench = Bench::ssd();
    let store = bench.open();
    fill(&store, 5, 2).unwrap();
    let used = store.tiers()[0].used;
    assert_eq!(store.free(copy(5)).unwrap(), 2 * MIB);
    assert!(!store.contains(copy(5)));
    assert_eq!(store.tiers()[0].used, used - 2 * MIB);
    assert_eq!(store.free(copy(5)).unwrap(), 0);

    let data = pattern(1, MIB as usize);
    store.place(KEY, 1, 1, Timestamp::default(), &[]).unwrap();
    store.write(KEY, 1, 1, WriteAt::At(0), &data, &crcs(&data)).unwrap();
    assert_eq!(store.free(KEY).unwrap(), 0);
    store.seal(KEY, 1, 1).unwrap();
    assert_eq!(store.free(KEY).unwrap(), 0);
    assert!(read(&store, KEY, 1, 0, MIB).unwrap() == data);
}
