//! Measures the store on a directory: `cargo run --release -p curvine-blockstore --example throughput -- DIR`.

use std::time::Instant;

use curvine_blockstore::{BlockStore, ContentKey, Options, TierConfig, TierKind, Timestamp, WriteAt, crc32c};
use curvine_types::ClusterId;

const MIB: u64 = 1 << 20;
const FILE: u64 = 1024;

fn main() -> curvine_types::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "/tmp/curvine-throughput".to_string());
    let tier = TierConfig { dir: dir.into(), kind: TierKind::Ssd, quota: None, reserve: 0, watermarks: None };
    let store = BlockStore::open(ClusterId(*b"throughput-bench"), std::slice::from_ref(&tier), Options::default())?;
    let key = ContentKey::new(1, 1);
    store.delete(&[key])?;
    store.place(key, 1, 1, Timestamp::now(), b"")?;
    let data = vec![0x5a; MIB as usize];
    let crcs: Vec<u32> = data.chunks(64 << 10).map(crc32c).collect();

    let began = Instant::now();
    for chunk in 0..FILE {
        store.write(key, 1, 1, WriteAt::At(chunk * MIB), &data, &crcs)?;
    }
    rate("write, 1 MiB", began, FILE * MIB);

    let small = &data[..4096];
    let crc = [crc32c(small)];
    let began = Instant::now();
    for at in 0..50_000u64 {
        store.write(key, 1, 1, WriteAt::At(at * 7919 % (FILE * 256) * 4096), small, &crc)?;
    }
    println!("write, 4 KiB: {:.1} us each", began.elapsed().as_secs_f64() * 1e6 / 50_000.0);

    let began = Instant::now();
    store.seal(key, 1, 1)?;
    rate("seal", began, FILE * MIB);

    let began = Instant::now();
    for chunk in 0..FILE {
        let plan = store.read(key, 1, chunk * MIB, MIB)?;
        for segment in &plan.segments {
            store.load(key, segment)?;
        }
    }
    rate("read and verify, 1 MiB", began, FILE * MIB);

    let began = Instant::now();
    for at in 0..1_000_000u64 {
        store.read_now(key, 1, at * 7919 % FILE * MIB, 4096);
    }
    println!("plan: {:.2} us each", began.elapsed().as_secs_f64() * 1e6 / 1e6);

    let began = Instant::now();
    for inode in 10..20_010 {
        store.prepare_cached(ContentKey::new(inode, 1), 4096)?;
        store.fill(ContentKey::new(inode, 1), 0, small)?;
    }
    println!("small copies: {:.1} us each", began.elapsed().as_secs_f64() * 1e6 / 20_000.0);
    drop(store);
    let began = Instant::now();
    let store = BlockStore::open(ClusterId(*b"throughput-bench"), &[tier], Options::default())?;
    println!("open with {} contents: {:.1} ms", store.gauges().contents, began.elapsed().as_secs_f64() * 1e3);
    let keys: Vec<ContentKey> = store.inventory(None, usize::MAX).iter().map(|item| item.key).collect();
    store.delete(&keys)
}

fn rate(what: &str, began: Instant, bytes: u64) {
    println!("{what}: {:.2} GB/s", bytes as f64 / began.elapsed().as_secs_f64() / 1e9);
}
