use curvine_types::ErrorKind;
use curvine_types::limits::{CHUNK_SIZE, PIECE_SIZE};

use crate::test_util::*;
use crate::*;

const SOURCE: ContentKey = ContentKey { inode: 70, generation: 1 };

/// Copies a whole range, step by step.
fn copy(store: &BlockStore, from: u64, to: u64, length: u64) -> curvine_types::Result<u64> {
    let mut done = 0;
    while done < length {
        let source = CopyFrom { key: SOURCE, version: 1, offset: from + done };
        let target = CopyTo { key: KEY, version: 1, epoch: 1, offset: to + done };
        let (copied, attr) = store.copy_step(source, target, length - done)?;
        assert_eq!(attr.is_some(), copied > 0);
        if copied == 0 {
            break;
        }
        done += copied;
    }
    Ok(done)
}

fn put(store: &BlockStore, key: ContentKey, offset: u64, data: &[u8]) {
    for (number, part) in data.chunks(1 << 20).enumerate() {
        let at = WriteAt::At(offset + ((number as u64) << 20));
        store.write(key, 1, 1, at, part, &crcs(part)).unwrap();
    }
}

#[test]
fn a_copy_holds_what_the_source_held_at_any_offsets_live_or_sealed() {
    let bench = Bench::ssd();
    let store = bench.open();
    let data = pattern(1, 3 * CHUNK_SIZE as usize + 777);
    store.place(SOURCE, 1, 1, T0, b"").unwrap();
    put(&store, SOURCE, 0, &data);
    let cases = [(0, 0, data.len()), (1, 65_537, 200_000), (PIECE_SIZE - 1, 0, 2), (CHUNK_SIZE - 9, 5, 2 << 20)];
    for sealed in [false, true] {
        if sealed {
            store.seal(SOURCE, 1, 1).unwrap();
        }
        for (from, to, length) in cases {
            store.place(KEY, 1, 1, T0, b"old bytes").unwrap();
            assert_eq!(copy(&store, from, to, length as u64).unwrap(), length as u64);
            let (from, to) = (from as usize, to as usize);
            let mut expected = b"old bytes".to_vec();
            expected.resize(expected.len().max(to + length), 0);
            expected[to..to + length].copy_from_slice(&data[from..from + length]);
            assert!(read_all(&store, KEY, 1).unwrap() == expected, "{sealed} {from} {to} {length}");
            store.delete(&[KEY]).unwrap();
        }
    }
    store.place(KEY, 1, 1, T0, b"").unwrap();
    assert_eq!(copy(&store, data.len() as u64 - 5, 0, 100).unwrap(), 5, "the source ends");
    assert_eq!(copy(&store, data.len() as u64, 0, 100).unwrap(), 0);
}

#[test]
fn holes_are_copied_as_holes_and_take_the_place_of_data() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(SOURCE, 1, 1, T0, b"").unwrap();
    put(&store, SOURCE, 8 * CHUNK_SIZE, b"tail");
    store.place(KEY, 1, 1, T0, b"").unwrap();
    put(&store, KEY, 0, &pattern(2, 2 * CHUNK_SIZE as usize));
    assert_eq!(copy(&store, 0, 0, 9 * CHUNK_SIZE).unwrap(), 8 * CHUNK_SIZE + 4);
    let attr = store.stat(KEY, 1).unwrap();
    assert_eq!(attr.size, 8 * CHUNK_SIZE + 4);
    assert!(attr.blocks * 512 <= CHUNK_SIZE, "{attr:?}");
    let copied = read_all(&store, KEY, 1).unwrap();
    assert!(copied.ends_with(b"\0tail") && copied[..8 << 20].iter().all(|byte| *byte == 0));
}

#[test]
fn a_copy_needs_the_grant_on_its_target_and_the_version_of_its_source() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.place(SOURCE, 1, 1, T0, b"data").unwrap();
    store.place(KEY, 1, 2, T0, b"").unwrap();
    let from = CopyFrom { key: SOURCE, version: 1, offset: 0 };
    let to = CopyTo { key: KEY, version: 1, epoch: 2, offset: 0 };
    for (from, to) in [
        (from, CopyTo { epoch: 1, ..to }),
        (from, CopyTo { version: 2, ..to }),
        (CopyFrom { version: 2, ..from }, to),
        (CopyFrom { key: ContentKey { inode: 71, generation: 1 }, ..from }, to),
    ] {
        assert_eq!(store.copy_step(from, to, 4).unwrap_err().kind(), ErrorKind::VersionMismatch);
    }
    assert_eq!(store.copy_step(from, to, 4).unwrap().0, 4);
}

#[test]
fn bytes_that_are_lost_are_not_copied_as_zeroes() {
    let bench = Bench::ssd();
    let store = bench.open();
    store.prepare_cached(SOURCE, 100).unwrap();
    store.place(KEY, 1, 1, T0, b"").unwrap();
    let from = CopyFrom { key: SOURCE, version: 0, offset: 0 };
    let to = CopyTo { key: KEY, version: 1, epoch: 1, offset: 0 };
    assert_eq!(store.copy_step(from, to, 100).unwrap_err().kind(), ErrorKind::DataLoss);
    assert_eq!(store.stat(KEY, 1).unwrap().size, 0);
}
