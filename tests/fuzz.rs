//! Whatever reads bytes that others wrote reads any bytes: mutated seeds go through every parser, and none panics, hangs or takes
//! memory that the input does not justify.
//!
//! The seeds are in `tests/fuzz/seeds/<target>/`; the dice are fixed unless `CURVINE_FUZZ_SEED` is set, and each target runs for
//! `CURVINE_FUZZ_MS` (1,000). Checksums are made right again in half of the inputs: behind them is where the parsers are.

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/targets.rs"]
mod targets;
// The harness has more uses for it.
#[allow(dead_code)]
#[path = "harness/rng.rs"]
mod rng;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::mutate;
use rng::Rng;

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
    for input in &seeds {
        check(target, input, &run);
    }
    let end = Instant::now() + Duration::from_millis(number("CURVINE_FUZZ_MS", 1000));
    let mut inputs = 0;
    while Instant::now() < end {
        let mut input = mutate(&seeds, &mut rng);
        if rng.chance(50) {
            fix(&mut input);
        }
        check(target, &input, &run);
        inputs += 1;
    }
    println!("{target}: {inputs} inputs");
    assert!(inputs > 0, "only {inputs} inputs: {target} is too slow to be tested");
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

fn put_crc(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    if covered.end <= bytes.len() && at + 4 <= bytes.len() {
        let sum = curvine_blockstore::crc32c(&bytes[covered]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn frame_headers() {
    let fix = |input: &mut Vec<u8>| put_crc(input, 0..28, 28);
    fuzz("frame", fix, targets::frame);
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
    fuzz("fuse", fix, targets::fuse);
}

#[test]
fn config_files() {
    fuzz("config", |_| {}, targets::config);
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
    fuzz("snapshot", |input: &mut Vec<u8>| fix_snapshot(input), targets::snapshot);
}

#[test]
fn portable_metadata() {
    fuzz("portable", |_| {}, targets::portable);
}

#[test]
fn directories_of_the_log() {
    fuzz("log", |_| {}, targets::log);
}

#[test]
fn indexes_of_tier_directories() {
    fuzz("index", |_| {}, targets::index);
}

/// The seed of `indexes_of_tier_directories`, should the format of the index change.
#[test]
#[ignore = "writes a file of the repository"]
fn write_the_seed_of_the_index() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/index");
    std::fs::create_dir_all(&seeds).expect("a folder");
    std::fs::write(seeds.join("small-tier"), targets::small_tier().1).expect("write the seed");
}
