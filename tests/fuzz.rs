//! Whatever reads bytes that others wrote reads any bytes: mutated seeds go through every parser, and none panics, hangs or takes
//! memory that the input does not justify.
//!
//! The seeds are in `tests/fuzz/seeds/<target>/`; the dice are fixed unless `CURVINE_FUZZ_SEED` is set, and each target runs for
//! `CURVINE_FUZZ_MS` (1,000). Checksums are made right again in half of the inputs: behind them is where the parsers are.

#[path = "fuzz/mutate.rs"]
mod mutate;
// The harness has more uses for it.
#[allow(dead_code)]
#[path = "harness/rng.rs"]
mod rng;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use curvine_blockstore::{BlockStore, ContentKey, Options, TierConfig, TierKind, Timestamp};
use curvine_config::ClusterConf;
use curvine_master::MetaState;
use curvine_namespace::{Namespace, snapshot_of_portable};
use curvine_proto::frame::{HEADER_LEN, Header};
use curvine_types::ClusterId;
use mutate::mutate;
use rng::Rng;

const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");

/// A number from the environment; what `rng.rs` of the harness asks for.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The committed inputs of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&dir).expect("a folder of seeds").filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("read a seed")).collect();
    assert!(!seeds.is_empty(), "no seeds in {}", dir.display());
    seeds
}

/// Feeds the seeds, then mutations of them, for the time of one target.
fn fuzz(target: &str, fix: impl Fn(&mut Vec<u8>), run: impl Fn(&[u8])) {
    let seeds = seeds(target);
    let mut rng = Rng::new(number("CURVINE_FUZZ_SEED", 1) ^ target.len() as u64);
    let end = Instant::now() + Duration::from_millis(number("CURVINE_FUZZ_MS", 1000));
    let mut inputs = 0;
    for input in &seeds {
        check(target, input, &run);
    }
    while Instant::now() < end {
        let mut input = mutate(&seeds, &mut rng);
        if rng.chance(50) {
            fix(&mut input);
        }
        check(target, &input, &run);
        inputs += 1;
    }
    println!("{target}: {inputs} inputs");
    assert!(inputs > 20, "only {inputs} inputs: {target} is too slow to be tested");
}

fn check(target: &str, input: &[u8], run: impl Fn(&[u8])) {
    let began = Instant::now();
    if catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
        let path = std::env::temp_dir().join(format!("curvine-fuzz-{target}-{}", std::process::id()));
        let _ = std::fs::write(&path, input);
        panic!("{target} panicked on {} bytes, kept in {}; make it a seed", input.len(), path.display());
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{target} took {:?} for {} bytes", began.elapsed(), input.len());
}

fn crc32c(bytes: &[u8]) -> u32 {
    curvine_blockstore::crc32c(bytes)
}

fn put_crc(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    if covered.end <= bytes.len() && at + 4 <= bytes.len() {
        let sum = crc32c(&bytes[covered]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn frame_headers() {
    let fix = |input: &mut Vec<u8>| put_crc(input, 0..28, 28);
    fuzz("frame", fix, |input| {
        let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>() else { return };
        if let Ok(header) = Header::decode(header, crc32c) {
            // What is believed of lengths has a limit.
            assert!((header.meta_len as usize) < 64 << 20 && (header.data_len as usize) < 64 << 20);
            let _ = <curvine_proto::Command as curvine_proto::Message>::decode(rest);
            let _ = <curvine_proto::ReportReply as curvine_proto::Message>::decode(rest);
        }
    });
}

#[test]
fn fuse_requests() {
    // The length that the kernel writes is that of what was read.
    let fix = |input: &mut Vec<u8>| {
        let length = input.len() as u32;
        if let Some(field) = input.get_mut(..4) {
            field.copy_from_slice(&length.to_le_bytes());
        }
    };
    fuzz("fuse", fix, |input| {
        let _ = curvine_fuse_abi::request::header(input);
        let _ = curvine_fuse_abi::parse(input).map(|request| format!("{:?}", request.operation));
    });
}

#[test]
fn config_files() {
    fuzz(
        "config",
        |_| {},
        |input| {
            if let Ok(text) = std::str::from_utf8(input) {
                let _ = ClusterConf::parse(text, "fuzz").map(|(conf, _)| conf.to_toml());
            }
        },
    );
}

/// Makes the checksums of a snapshot's header and blocks right, as far as the blocks can be followed.
fn fix_snapshot(bytes: &mut [u8]) {
    put_crc(bytes, 0..28, 28);
    let mut start = 32;
    while start + 24 <= bytes.len() {
        let length =
            u32::from_le_bytes([bytes[start + 12], bytes[start + 13], bytes[start + 14], bytes[start + 15]]) as usize;
        let end = start.saturating_add(24).saturating_add(length);
        if end > bytes.len() {
            return;
        }
        put_crc(bytes, start + 24..end, start + 16);
        put_crc(bytes, start..start + 20, start + 20);
        start = end;
    }
}

#[test]
fn snapshots_of_the_namespace() {
    fuzz(
        "snapshot",
        |input: &mut Vec<u8>| fix_snapshot(input),
        |input| {
            if let Ok(namespace) = Namespace::restore(&mut &*input) {
                let _ = namespace.check();
                let mut text = Vec::new();
                namespace.snapshot().write_portable(&[], &mut text).expect("write into memory");
                snapshot_of_portable(&mut &text[..], &mut Vec::new()).expect("its own portable form");
            }
            let (mut rescued, _) = Namespace::restore_remains(&mut &*input, CLUSTER).expect("bytes in memory");
            rescued.repair(true);
            if let Err(error) = rescued.check() {
                panic!("a rescue is not sound: {error}");
            }
        },
    );
}

#[test]
fn portable_metadata() {
    fuzz(
        "portable",
        |_| {},
        |input| {
            let mut bytes = Vec::new();
            if snapshot_of_portable(&mut &*input, &mut bytes).is_ok()
                && let Ok(mut namespace) = Namespace::restore(&mut &bytes[..])
            {
                namespace.repair(false);
                namespace.check().expect("what is loaded is sound");
            }
        },
    );
}

#[test]
fn directories_of_the_log() {
    // The seed is the segment of a small log; its node file is made new.
    fuzz(
        "log",
        |_| {},
        |input| {
            let dir = tempfile::tempdir().expect("a directory");
            curvine_raft::Replica::<MetaState>::create(dir.path(), CLUSTER).expect("a node file");
            std::fs::write(dir.path().join("log-00000000000000000000.seg"), input).expect("write a segment");
            if let Ok(rescued) = curvine_raft::salvage::<MetaState>(dir.path()) {
                let _ = rescued.machine.0.check();
            }
        },
    );
}

/// A tier directory with some contents; its index is what is mutated.
fn tier(dir: &Path) -> TierConfig {
    TierConfig { dir: dir.to_path_buf(), kind: TierKind::Ssd, quota: Some(64 << 20), reserve: 0, watermarks: None }
}

#[test]
fn indexes_of_tier_directories() {
    let made = tempfile::tempdir().expect("a directory");
    let options = || Options { boot_id: "fuzz".into(), ..Options::default() };
    {
        let store = BlockStore::open(CLUSTER, &[tier(made.path())], options()).expect("a store");
        for inode in 1..20 {
            let mtime = Timestamp { sec: 1, nsec: 0 };
            store.place(ContentKey::new(inode, 1), 1, 1, mtime, &vec![inode as u8; 5000]).expect("place");
        }
        store.close().expect("close");
    }
    let root = CLUSTER.to_string();
    let index = std::fs::read(made.path().join(&root).join("index")).expect("the index");
    let identity = std::fs::read(made.path().join(&root).join("identity")).expect("the identity");
    let mut rng = Rng::new(number("CURVINE_FUZZ_SEED", 1));
    let end = Instant::now() + Duration::from_millis(2 * number("CURVINE_FUZZ_MS", 1000));
    let mut inputs = 0;
    while Instant::now() < end {
        let input = mutate(std::slice::from_ref(&index), &mut rng);
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join(&root).join("data")).expect("make directories");
        std::fs::write(dir.path().join(&root).join("identity"), &identity).expect("write");
        std::fs::write(dir.path().join(&root).join("index"), &input).expect("write");
        check("index", &input, |_| {
            if let Ok(store) = BlockStore::open(CLUSTER, &[tier(dir.path())], options()) {
                // The files are not there: nothing may be read as if they were.
                for item in store.inventory(None, 100) {
                    let read = store.read(item.key, item.version, 0, 100);
                    let empty = read.as_ref().is_ok_and(|plan| plan.size == 0);
                    assert!(read.is_err() || empty || item.key.inode > 19, "bytes of a file that is not there");
                }
            }
        });
        inputs += 1;
    }
    println!("index: {inputs} inputs");
    assert!(inputs > 5, "{inputs}");
}
