//! Random histories of one content against a `Vec<u8>`, with restarts, seals and reopenings anywhere.

use proptest::prelude::*;

use crate::test_util::*;
use crate::*;

#[derive(Clone, Debug)]
enum Op {
    Write {
        offset: u64,
        len: usize,
    },
    Append {
        len: usize,
    },
    Truncate {
        size: u64,
    },
    Allocate {
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    Punch {
        offset: u64,
        len: u64,
    },
    Zero {
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    Fsync,
    SealAndReopen,
    /// Dropped without a word and opened again.
    Kill,
    Close,
    UncleanBoot,
    Compact,
    Read {
        offset: u64,
        len: u64,
    },
}

const SPAN: u64 = 3 * MIB + 12_345;

/// Offsets and lengths that like the borders of pieces and chunks.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..SPAN,
        (0..SPAN / 65_536).prop_map(|piece| piece * 65_536),
        (0..SPAN / MIB + 1, 0..3u64).prop_map(|(chunk, near)| (chunk * MIB + near).saturating_sub(1)),
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![1..5_000u64, Just(65_536), 1..200_000u64, Just(MIB)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (position(), length()).prop_map(|(offset, len)| Op::Write { offset, len: len as usize }),
        3 => length().prop_map(|len| Op::Append { len: len as usize }),
        3 => position().prop_map(|size| Op::Truncate { size }),
        1 => (position(), length(), any::<bool>())
            .prop_map(|(offset, len, keep_size)| Op::Allocate { offset, len, keep_size }),
        2 => (position(), length()).prop_map(|(offset, len)| Op::Punch { offset, len }),
        1 => (position(), length(), any::<bool>()).prop_map(|(offset, len, keep_size)| Op::Zero { offset, len, keep_size }),
        2 => Just(Op::Fsync),
        3 => Just(Op::SealAndReopen),
        2 => Just(Op::Kill),
        1 => Just(Op::Close),
        1 => Just(Op::UncleanBoot),
        1 => Just(Op::Compact),
        4 => (position(), length()).prop_map(|(offset, len)| Op::Read { offset, len }),
    ]
}

/// Grows the model to `end` if need be and gives the range.
fn range(model: &mut Vec<u8>, offset: u64, end: u64) -> &mut [u8] {
    if model.len() < end as usize {
        model.resize(end as usize, 0);
    }
    &mut model[offset as usize..end as usize]
}

fn run(ops: Vec<Op>) {
    let mut bench = Bench::ssd();
    bench.options.compact_after = 0;
    let mut store = bench.open();
    let mut model = pattern(99, 1000);
    store.place(KEY, 1, 1, T0, &model).unwrap();
    let mut boots = 0;
    let mut mtime = store.stat(KEY, 1).unwrap().mtime;
    for (seed, op) in ops.into_iter().enumerate() {
        let changes = !matches!(
            op,
            Op::Fsync | Op::SealAndReopen | Op::Kill | Op::Close | Op::UncleanBoot | Op::Compact | Op::Read { .. }
        );
        match op {
            Op::Write { offset, len } => {
                let data = pattern(seed as u64, len);
                let written = store.write(KEY, 1, 1, WriteAt::At(offset), &data, &crcs(&data)).unwrap();
                assert_eq!(written.offset, offset);
                range(&mut model, offset, offset + len as u64).copy_from_slice(&data);
            }
            Op::Append { len } => {
                let data = pattern(seed as u64, len);
                let written = store.write(KEY, 1, 1, WriteAt::Append, &data, &crcs(&data)).unwrap();
                assert_eq!(written.offset, model.len() as u64);
                model.extend(data);
            }
            Op::Truncate { size } => {
                store.truncate(KEY, 1, 1, size).unwrap();
                model.resize(size as usize, 0);
            }
            Op::Allocate { offset, len, keep_size } => {
                store.fallocate(KEY, 1, 1, offset, len, Fallocate::Allocate { keep_size }).unwrap();
                if !keep_size {
                    range(&mut model, offset, offset + len);
                }
            }
            Op::Punch { offset, len } => {
                store.fallocate(KEY, 1, 1, offset, len, Fallocate::PunchHole).unwrap();
                let end = (offset + len).min(model.len() as u64);
                if offset < end {
                    range(&mut model, offset, end).fill(0);
                }
            }
            Op::Zero { offset, len, keep_size } => {
                store.fallocate(KEY, 1, 1, offset, len, Fallocate::ZeroRange { keep_size }).unwrap();
                let end = if keep_size { (offset + len).min(model.len() as u64) } else { offset + len };
                if offset < end {
                    range(&mut model, offset, end).fill(0);
                }
            }
            Op::Fsync => store.fsync(KEY).unwrap(),
            Op::SealAndReopen => {
                let sealed = store.seal(KEY, 1, 1).unwrap();
                assert_eq!((sealed.size, sealed.mtime), (model.len() as u64, mtime));
                // All that a sealed content holds agrees with the checksums that were kept, some of them since the write.
                store.verify(KEY, 1, 0, sealed.size).unwrap();
                assert!(read_all(&store, KEY, 1).unwrap() == model);
                store.open_for_write(KEY, 1, 1).unwrap();
            }
            Op::Kill => {
                drop(store);
                store = bench.open();
            }
            Op::Close => {
                store.close().unwrap();
                drop(store);
                store = bench.open();
                assert_eq!(store.stat(KEY, 1).unwrap().mtime, mtime, "an orderly restart changes nothing");
            }
            Op::UncleanBoot => {
                // The page cache of a test survives; so only what was synced must have been kept.
                store.fsync(KEY).unwrap();
                drop(store);
                boots += 1;
                bench.options.boot_id = format!("boot {boots}");
                store = bench.open();
            }
            Op::Compact => store.maintain(),
            Op::Read { offset, len } => {
                let end = (offset + len).min(model.len() as u64);
                let want = if offset < end { &model[offset as usize..end as usize] } else { &[] };
                assert!(read(&store, KEY, 1, offset, len).unwrap() == want);
            }
        }
        let attr = store.stat(KEY, 1).unwrap();
        assert_eq!(attr.size, model.len() as u64);
        assert!(attr.mtime >= mtime && (!changes || attr.mtime > mtime), "{:?} after {mtime:?}", attr.mtime);
        mtime = attr.mtime;
    }
    assert!(read_all(&store, KEY, 1).unwrap() == model);
    drop(store);
    assert!(read_all(&bench.open(), KEY, 1).unwrap() == model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_content_holds_what_was_written_whatever_happens_in_between(ops in proptest::collection::vec(op(), 1..60)) {
        run(ops);
    }
}
