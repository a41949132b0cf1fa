//! Files that others have open, one test a rule. The others are played by further opens of the same file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use curvine_types::ErrorKind;

use crate::test_util::*;
use crate::*;

const WRITER: u64 = 77;
const WRITE: Access = Access::Write { epoch: 1, session: WRITER };

/// A live content of `data`, and where its file is.
fn live(bench: &Bench, store: &BlockStore, data: &[u8]) -> PathBuf {
    store.place(KEY, 1, 1, T0, b"").unwrap();
    if !data.is_empty() {
        store.write(KEY, 1, 1, WriteAt::At(0), data, &crcs(data)).unwrap();
    }
    file_of(bench, KEY)
}

fn file_of(bench: &Bench, key: ContentKey) -> PathBuf {
    bench.root(0).join(format!("data/{:02x}/{:x}-{:x}", crate::tier::shard_of(key), key.inode, key.generation))
}

fn cached(store: &BlockStore, key: ContentKey, data: &[u8]) {
    store.prepare_cached(key, data.len() as u64).unwrap();
    store.fill(key, 0, data).unwrap();
}

fn key(inode: u64) -> ContentKey {
    ContentKey::new(inode, 1)
}

/// A descriptor as a process has it that was given one for writing: opened by itself.
fn writer(path: &PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn bytes_of(file: &File, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn used(store: &BlockStore) -> u64 {
    store.tiers()[0].used
}

#[test]
fn a_deleted_file_that_is_open_keeps_its_bytes_and_its_charge_until_it_is_let_go_also_over_a_restart() {
    let bench = Bench::ssd();
    let store = bench.open();
    let data = pattern(1, 3 * MIB as usize);
    live(&bench, &store, &data);
    store.seal(KEY, 1, 1).unwrap();
    let reader = store.expose(KEY, 1, Access::Read).unwrap().unwrap().file;
    let charged = used(&store);
    store.delete(&[KEY]).unwrap();
    store.maintain();
    assert!(!store.contains(KEY));
    assert_eq!((used(&store), store.gauges().orphaned_bytes), (charged, charged));
    drop(store);

    let store = bench.open();
    store.maintain();
    assert_eq!((used(&store), bytes_of(&reader, data.len())), (charged, data));
    drop(reader);
    store.maintain();
    assert_eq!((used(&store), store.gauges().orphaned_bytes), (0, 0));
    assert_eq!(std::fs::read_dir(bench.root(0).join("orphans")).unwrap().count(), 0);
}

#[test]
fn a_restarted_worker_still_knows_what_it_gave_away() {
    let bench = Bench::ssd();
    let store = bench.open();
    let path = live(&bench, &store, b"");
    assert!(store.expose(KEY, 1, WRITE).unwrap().is_ok());
    let mut file = writer(&path);
    drop(store);

    // Killed, then compacted: the index is written anew from what was read back.
    let store = BlockStore::open(CLUSTER, &bench.tiers, Options { compact_after: 0, ..bench.options.clone() }).unwrap();
    store.maintain();
    file.write_all(b"behind the back").unwrap();
    assert_eq!(store.stat(KEY, 1).unwrap().size, 15);
    drop(store);
    let store = bench.open();
    assert_eq!(store.seal(KEY, 1, 1).unwrap_err().get("session"), Some("77"));
    file.write_all(b", again").unwrap();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), b"behind the back, again");
    drop(file);
    assert_eq!(store.seal(KEY, 1, 1).unwrap().size, 22);
}

#[test]
fn under_pressure_what_is_open_stays_whole_and_what_was_let_go_is_evicted() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(8 * MIB))]);
    let store = bench.open();
    let data = pattern(2, 3 * MIB as usize);
    cached(&store, key(1), &data);
    cached(&store, key(2), &data);
    let reader = store.expose(key(1), 0, Access::Read).unwrap().unwrap().file;
    for inode in 10..30 {
        let full = store.prepare_cached(key(inode), data.len() as u64).and_then(|()| store.fill(key(inode), 0, &data));
        assert!(full.is_ok() || full.unwrap_err().kind() == ErrorKind::NoSpace);
        assert_eq!(bytes_of(&reader, data.len()), data);
    }
    assert!(store.contains(key(1)) && !store.contains(key(2)));
    drop(reader);
    let most = pattern(9, 7 * MIB as usize);
    store.prepare_cached(key(30), most.len() as u64).unwrap();
    store.fill(key(30), 0, &most).unwrap();
    assert!(!store.contains(key(1)));
    assert!(used(&store) <= 8 * MIB);
}

#[test]
fn copies_of_what_is_at_home_elsewhere_make_way_first() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(10 * MIB))]);
    let store = bench.open();
    let data = pattern(2, 3 * MIB as usize);
    cached(&store, key(1), &data);
    store.prepare_copy(key(2), data.len() as u64).unwrap();
    store.fill(key(2), 0, &data).unwrap();
    assert_eq!(store.copied_bytes(), data.len() as u64);
    assert!(store.read(key(2), 0, 0, 10).is_ok(), "it was used last");
    cached(&store, key(3), &data);
    cached(&store, key(4), &data);
    assert!(store.contains(key(1)) && !store.contains(key(2)));
    assert_eq!(store.copied_bytes(), 0);
}

#[test]
fn a_mapping_counts_as_open_after_its_descriptor_was_closed() {
    let bench = Bench::new(&[(TierKind::Ssd, Some(4 * MIB))]);
    let store = bench.open();
    let data = pattern(3, 3 * MIB as usize);
    cached(&store, key(1), &data);
    let reader = store.expose(key(1), 0, Access::Read).unwrap().unwrap().file;
    let mapping = Mapping::of(&reader, data.len());
    drop(reader);
    store.prepare_cached(key(2), data.len() as u64).unwrap();
    assert_eq!(store.fill(key(2), 0, &data).unwrap_err().kind(), ErrorKind::NoSpace);
    drop(mapping);
    store.fill(key(2), 0, &data).unwrap();
    assert!(!store.contains(key(1)));
}

#[test]
fn what_is_written_past_the_store_is_seen_by_all_that_it_answers() {
    let bench = Bench::ssd();
    let store = bench.open();
    let path = live(&bench, &store, &pattern(4, 100_000));
    let file = {
        let exposed = store.expose(KEY, 1, WRITE).unwrap().unwrap();
        assert_eq!((exposed.attr.size, exposed.kind), (100_000, ContentKind::Live));
        writer(&path)
    };
    let mut told = store.stat(KEY, 1).unwrap();
    let mut expected = pattern(4, 100_000);
    for round in 0..20u64 {
        let (at, data) = (round as usize * 9_000, pattern(round, 20_000));
        file.write_all_at(&data, at as u64).unwrap();
        expected.resize(expected.len().max(at + data.len()), 0);
        expected[at..at + data.len()].copy_from_slice(&data);
        let now = store.stat(KEY, 1).unwrap();
        assert!(now.mtime > told.mtime && now.size == expected.len() as u64, "{now:?} after {told:?}");
        assert_eq!(store.stat(KEY, 1).unwrap(), now, "nothing was written in between");
        told = now;
        // What comes through the store goes on from there.
        let more = pattern(100 + round, 500);
        let written = store.write(KEY, 1, 1, WriteAt::Append, &more, &crcs(&more)).unwrap();
        assert_eq!(written.offset, expected.len() as u64);
        expected.extend(&more);
        assert_eq!(read_all(&store, KEY, 1).unwrap(), expected);
    }
    file.set_len(5).unwrap();
    assert_eq!(store.seek_hole(KEY, 1, 0).unwrap(), 5);
    file.write_all_at(&expected, 0).unwrap();
    store.fsync(KEY).unwrap();
    drop(file);
    assert_eq!(store.seal(KEY, 1, 1).unwrap().size, expected.len() as u64);
    assert_eq!(read_all(&store, KEY, 1).unwrap(), expected);
    store.verify(KEY, 1, 0, expected.len() as u64).unwrap();
}

#[test]
fn appends_of_both_ways_each_get_their_own_place() {
    let bench = Bench::ssd();
    let store = bench.open();
    let path = live(&bench, &store, b"");
    assert!(store.expose(KEY, 1, WRITE).unwrap().is_ok());
    let mut file = File::options().append(true).open(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..500).for_each(|_| file.write_all(&[1; 64]).unwrap()));
        for _ in 0..500 {
            store.write(KEY, 1, 1, WriteAt::Append, &[2; 64], &crcs(&[2; 64])).unwrap();
        }
    });
    let all = read_all(&store, KEY, 1).unwrap();
    assert_eq!(all.len(), 64_000);
    assert!(all.chunks(64).all(|record| record == [1; 64] || record == [2; 64]));
}

#[test]
fn a_file_is_sealed_only_when_nobody_can_write_it_any_more_and_readers_do_not_matter() {
    let bench = Bench::ssd();
    let store = bench.open();
    let path = live(&bench, &store, &pattern(5, 8192));
    let reader = store.expose(KEY, 1, WRITE).unwrap().unwrap().file;
    let file = writer(&path);
    let mapping = Mapping::of(&file, 8192);
    let busy = store.seal(KEY, 1, 1).unwrap_err();
    assert_eq!((busy.kind(), busy.get("session")), (ErrorKind::Busy, Some("77")));
    drop(file);
    assert_eq!(store.seal(KEY, 1, 1).unwrap_err().kind(), ErrorKind::Busy, "the mapping can still write");
    store.write(KEY, 1, 1, WriteAt::At(0), b"goes on", &crcs(b"goes on")).unwrap();
    drop(mapping);
    store.seal(KEY, 1, 1).unwrap();
    assert_eq!(&bytes_of(&reader, 7), b"goes on");
    // Written again, by way of the store: who has it open sees that at once.
    store.open_for_write(KEY, 1, 2).unwrap();
    store.write(KEY, 1, 2, WriteAt::At(0), b"renewed", &crcs(b"renewed")).unwrap();
    assert_eq!(&bytes_of(&reader, 7), b"renewed");
    store.seal(KEY, 1, 2).unwrap();
}

#[test]
fn a_writer_whose_session_is_over_goes_on_in_a_file_that_nobody_reads() {
    for by_seal in [true, false] {
        let bench = Bench::ssd();
        let store = bench.open();
        let path = live(&bench, &store, b"");
        assert!(store.expose(KEY, 1, WRITE).unwrap().is_ok());
        let file = writer(&path);
        let data = pattern(6, 5 * MIB as usize);
        file.write_all_at(&data, 2 * MIB).unwrap();
        if by_seal {
            store.seal_without(KEY, 1, 1, Some(WRITER)).unwrap();
        } else {
            store.revoke(KEY, WRITER).unwrap();
        }
        file.write_all_at(b"too late", 0).unwrap();
        let size = 2 * MIB + data.len() as u64;
        assert_eq!(read(&store, KEY, 1, 0, 100).unwrap(), [0; 100]);
        assert_eq!(read(&store, KEY, 1, 2 * MIB, size).unwrap(), data);
        assert!(store.gauges().orphaned_bytes >= data.len() as u64);
        drop(file);
        drop(store);
        let store = bench.open();
        store.maintain();
        assert_eq!(store.gauges().orphaned_bytes, 0);
        assert_eq!(read(&store, KEY, 1, 2 * MIB, size).unwrap(), data);
        store.seal(KEY, 1, 1).unwrap();
    }
}

#[test]
fn what_the_master_is_about_to_drop_is_given_to_nobody() {
    let bench = Bench::ssd();
    let store = bench.open();
    live(&bench, &store, b"data");
    store.seal(KEY, 1, 1).unwrap();
    let reader = store.expose(KEY, 1, Access::Read).unwrap().unwrap();
    assert!(store.withdraw(KEY).unwrap(), "it is open");
    drop(reader);
    assert!(!store.withdraw(KEY).unwrap());
    assert_eq!(store.expose(KEY, 1, Access::Read).unwrap().unwrap_err(), Refusal::Leaving);
    // The master has changed its mind.
    store.open_for_write(KEY, 1, 2).unwrap();
    assert!(store.expose(KEY, 1, Access::Read).unwrap().is_ok());
    assert!(!store.withdraw(key(99)).unwrap(), "what is not here is open nowhere");
}

#[test]
fn a_descriptor_is_given_only_for_what_suits_it() {
    let bench = Bench::ssd();
    let store = bench.open();
    let refused = |key, version, access| store.expose(key, version, access).unwrap().map(|_| ()).unwrap_err();
    let data = pattern(8, 3 * MIB as usize);
    store.prepare_cached(key(2), data.len() as u64).unwrap();
    store.fill(key(2), 0, &data[..MIB as usize]).unwrap();
    assert_eq!(refused(key(2), 0, Access::Read), Refusal::Incomplete);
    store.fill(key(2), MIB, &data[MIB as usize..]).unwrap();
    assert!(store.expose(key(2), 0, Access::Read).unwrap().is_ok());
    assert_eq!(refused(key(2), 0, WRITE), Refusal::NotNew);

    live(&bench, &store, b"data");
    let other_epoch = Access::Write { epoch: 2, session: WRITER };
    assert_eq!(refused(KEY, 1, other_epoch), Refusal::Fenced);
    assert_eq!(store.expose(KEY, 2, Access::Read).unwrap_err().kind(), ErrorKind::VersionMismatch);
    store.seal(KEY, 1, 1).unwrap();
    assert_eq!(refused(KEY, 1, WRITE), Refusal::NotNew);
    store.open_for_write(KEY, 1, 1).unwrap();
    assert!(store.expose(KEY, 1, WRITE).unwrap().is_ok());
}

/// A shared mapping of a whole file.
struct Mapping(*mut libc::c_void, usize);

impl Mapping {
    #[allow(unsafe_code)]
    fn of(file: &File, len: usize) -> Self {
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(file);
        // SAFETY: a fresh mapping at a place that the kernel chooses; nobody looks into it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, descriptor, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self(start, len)
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `of` and nothing refers to it.
        let unmapped = unsafe { libc::munmap(self.0, self.1) };
        assert_eq!(unmapped, 0);
    }
}

#[test]
fn checksums_of_before_are_kept_if_nothing_was_written_and_only_then() {
    let bench = Bench::ssd();
    let store = bench.open();
    let data = pattern(3, 2 * MIB as usize);
    let path = live(&bench, &store, &data);
    store.set_mtime(KEY, 1, T0).unwrap();
    store.seal(KEY, 1, 1).unwrap();
    let reopen = |epoch| {
        store.open_for_write(KEY, 1, epoch).unwrap();
        store.expose(KEY, 1, Access::Write { epoch, session: WRITER }).unwrap().unwrap();
    };
    let seal_unread = |epoch| {
        bench.faults.set(DiskOp::Read, path.file_name().unwrap().to_str().unwrap(), libc::EIO);
        let sealed = store.seal(KEY, 1, epoch);
        bench.faults.clear();
        sealed
    };

    reopen(2);
    seal_unread(2).unwrap();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), data);

    // Written, and its time set back: whatever is read is compared with new checksums.
    reopen(3);
    writer(&path).write_all_at(b"new", 0).unwrap();
    store.set_mtime(KEY, 1, T0).unwrap();
    seal_unread(3).unwrap_err();
    store.maintain();
    store.open_for_write(KEY, 1, 4).unwrap();
    store.seal(KEY, 1, 4).unwrap();
    assert_eq!(read_all(&store, KEY, 1).unwrap(), [b"new", &data[3..]].concat());
}
