//! Moves between tiers, and a working set larger than the cache.

use crate::test_util::*;
use crate::*;

fn copy(inode: u64) -> ContentKey {
    ContentKey::new(inode, 1)
}

fn fill(store: &BlockStore, inode: u64, chunks: u64) {
    store.prepare_cached(copy(inode), chunks * MIB).unwrap();
    for chunk in 0..chunks {
        store.fill(copy(inode), chunk * MIB, &pattern(inode + chunk, MIB as usize)).unwrap();
    }
}

/// A content of 5 MiB on the slower tier, because the faster one had no room when it was made.
fn fill_slow(store: &BlockStore, inode: u64) {
    fill(store, 900, 4);
    fill(store, inode, 5);
    store.delete(&[copy(900)]).unwrap();
    assert_eq!(tier(store, inode), TierKind::Ssd);
}

fn bytes(inode: u64, chunks: u64) -> Vec<u8> {
    (0..chunks).flat_map(|chunk| pattern(inode + chunk, MIB as usize)).collect()
}

fn tier(store: &BlockStore, inode: u64) -> TierKind {
    store.map(copy(inode), 0).unwrap().tier
}

fn used(store: &BlockStore) -> Vec<u64> {
    store.tiers().iter().map(|tier| tier.used).collect()
}

const TWO: [(TierKind, Option<u64>); 2] = [(TierKind::Mem, Some(8 * MIB)), (TierKind::Ssd, Some(64 * MIB))];

#[test]
fn copies_fill_all_tiers_before_any_makes_way() {
    let bench = Bench::new(&TWO);
    let store = bench.open();
    for inode in 1..=40 {
        fill(&store, inode, 1);
    }
    assert_eq!((used(&store), store.gauges().evictions), (vec![8 * MIB, 32 * MIB], 0));
    for inode in 1..=40 {
        assert!(read_all(&store, copy(inode), 0).unwrap() == bytes(inode, 1));
    }
}

#[test]
fn what_is_read_often_moves_to_a_faster_tier_with_room_and_keeps_its_bytes() {
    let bench = Bench::new(&TWO);
    let mut store = bench.open();
    fill_slow(&store, 1);
    store.maintain();
    assert_eq!(tier(&store, 1), TierKind::Ssd, "nobody has read it");
    for _ in 0..3 {
        assert!(read_all(&store, copy(1), 0).unwrap() == bytes(1, 5));
    }
    store.maintain();
    for _ in 0..2 {
        assert_eq!(tier(&store, 1), TierKind::Mem);
        assert!(read_all(&store, copy(1), 0).unwrap() == bytes(1, 5));
        assert_eq!(used(&store), [5 * MIB, 0]);
        drop(store);
        store = bench.open();
    }
    // There is no room for another one, and nothing makes way for it.
    fill(&store, 2, 5);
    for _ in 0..3 {
        read_all(&store, copy(2), 0).unwrap();
    }
    store.maintain();
    assert_eq!((tier(&store, 1), tier(&store, 2)), (TierKind::Mem, TierKind::Ssd));
    assert_eq!(store.gauges().evictions, 0);
}

#[test]
fn above_its_high_watermark_a_tier_hands_whole_copies_down_before_it_evicts() {
    let mut bench = Bench::new(&TWO);
    bench.tiers[0].watermarks = Some((50, 25));
    let store = bench.open();
    fill(&store, 1, 3);
    fill(&store, 10, 3);
    assert_eq!(used(&store), [6 * MIB, 0]);
    store.maintain();
    let gauges = store.gauges();
    assert_eq!((gauges.demotions, gauges.evictions), (2, 0));
    assert_eq!(used(&store), [0, 6 * MIB]);
    for inode in [1, 10] {
        assert!(read_all(&store, copy(inode), 0).unwrap() == bytes(inode, 3));
    }
    // What is not whole is worth no move.
    store.prepare_cached(copy(20), 4 * MIB).unwrap();
    for chunk in 0..3 {
        store.fill(copy(20), chunk * MIB, &pattern(1, MIB as usize)).unwrap();
    }
    fill(&store, 30, 2);
    store.maintain();
    assert!(!store.contains(copy(20)) && store.contains(copy(30)));
    assert_eq!(store.gauges().evictions, 1);
}

#[test]
fn what_is_exposed_or_the_only_copy_never_moves() {
    let bench = Bench::new(&TWO);
    let store = bench.open();
    let data = pattern(1, MIB as usize);
    store.place(KEY, 1, 1, T0, &data).unwrap();
    store.seal(KEY, 1, 1).unwrap();
    fill_slow(&store, 1);
    let Ok(_held) = store.expose(copy(1), 0, Access::Read).unwrap() else {
        eprintln!("skipped: this file system has no leases");
        return;
    };
    for _ in 0..4 {
        read_all(&store, copy(1), 0).unwrap();
        read_all(&store, KEY, 1).unwrap();
    }
    store.maintain();
    assert_eq!((tier(&store, 1), store.map(KEY, 1).unwrap().tier), (TierKind::Ssd, TierKind::Ssd));
    assert_eq!(store.gauges().promotions, 0);
}

#[test]
fn a_content_that_a_crash_left_in_two_tiers_is_one_after_the_next_start() {
    let bench = Bench::new(&TWO);
    let store = bench.open();
    fill_slow(&store, 1);
    for _ in 0..3 {
        read_all(&store, copy(1), 0).unwrap();
    }
    // The old file cannot be deleted, as if the process had died before.
    let (old, new) = (bench.root(1), bench.root(0));
    bench.faults.set(DiskOp::Unlink, &old.display().to_string(), busy());
    store.maintain();
    bench.faults.clear();
    assert_eq!((tier(&store, 1), store.gauges().promotions), (TierKind::Mem, 1));
    assert!(read_all(&store, copy(1), 0).unwrap() == bytes(1, 5));
    drop(store);
    let store = bench.open();
    assert_eq!(store.gauges().contents, 1);
    assert!(read_all(&store, copy(1), 0).unwrap() == bytes(1, 5));
    assert_eq!(used(&store), [5 * MIB, 0]);
    let files = |root: &std::path::Path| {
        let shards = std::fs::read_dir(root.join("data")).unwrap();
        shards.map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count()).sum::<usize>()
    };
    assert_eq!((files(&new), files(&old)), (1, 0));
}

fn busy() -> i32 {
    rustix::io::Errno::BUSY.raw_os_error()
}

#[test]
fn a_working_set_of_twice_the_cache_is_served_right_while_everything_moves() {
    let mut bench = Bench::new(&[(TierKind::Mem, Some(6 * MIB)), (TierKind::Ssd, Some(10 * MIB))]);
    bench.tiers.iter_mut().for_each(|tier| tier.watermarks = Some((80, 50)));
    let store = bench.open();
    let only = pattern(99, MIB as usize);
    store.place(KEY, 1, 1, T0, &only).unwrap();
    store.seal(KEY, 1, 1).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3u64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let mut random = thread + 1;
                    for round in 0..100 {
                        if thread == 0 && round % 2 == 0 {
                            store.maintain();
                        }
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        // 16 files of 2 MiB; the first ones more often.
                        let inode = 100 * (1 + (random >> 33) % 16 * ((random >> 40) % 16) / 15);
                        let _ = store.prepare_cached(copy(inode), 2 * MIB);
                        for chunk in 0..2 {
                            // Without room, or evicted meanwhile: whoever wants it is served past the cache.
                            let _ = store.fill(copy(inode), chunk * MIB, &pattern(inode + chunk, MIB as usize));
                        }
                        let Ok(plan) = store.read(copy(inode), 0, 0, 2 * MIB) else { continue };
                        for segment in &plan.segments {
                            let (offset, len) = segment.range();
                            if let Segment::Data { .. } = segment
                                && let Ok(data) = store.load(copy(inode), segment)
                            {
                                assert!(data == bytes(inode, 2)[offset as usize..(offset + len) as usize]);
                            }
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert!(read_all(&store, KEY, 1).unwrap() == only, "the only copy stayed");
    let gauges = store.gauges();
    assert!(gauges.evictions > 0 && gauges.demotions > 0, "{gauges:?}");
    for (tier, quota) in store.tiers().iter().zip([6 * MIB, 10 * MIB]) {
        assert!(tier.used <= quota && tier.clean <= tier.used, "{tier:?}");
    }
}

#[test]
fn what_is_pinned_stays_under_pressure_and_pins_leave_room_for_others() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(10 * MIB))]);
    let store = bench.open();
    for inode in 1..=4 {
        fill(&store, inode * 10, 2);
        assert!(store.pin(copy(inode * 10), true).unwrap());
    }
    assert_eq!((store.pinned_bytes(), store.tiers()[0].clean), (8 * MIB, 0));
    fill(&store, 50, 2);
    assert!(!store.pin(copy(50), true).unwrap(), "a fifth of the directory stays for others");
    for inode in 100..120 {
        fill(&store, inode * 10, 1);
    }
    assert!(!store.contains(copy(50)));
    for inode in 1..=4 {
        assert!(read_all(&store, copy(inode * 10), 0).unwrap() == bytes(inode * 10, 2));
    }
    store.pin(copy(10), false).unwrap();
    store.pin(copy(10), false).unwrap();
    assert_eq!((store.pinned_bytes(), store.tiers()[0].clean), (6 * MIB, 4 * MIB));
    fill(&store, 5000, 4);
    assert!(!store.contains(copy(10)) && store.contains(copy(20)));
    // A content that goes takes its pin along.
    store.delete(&[copy(20)]).unwrap();
    assert_eq!(store.pinned_bytes(), 4 * MIB);
    assert!(store.pin(copy(999), true).unwrap(), "what is not here is fine");
}
