//! What each fuzz target does with its input, and what must hold: for `tests/fuzz.rs`, and for cargo-fuzz in `fuzz/`.

use std::path::Path;
use std::sync::OnceLock;

use curvine_blockstore::{BlockStore, ContentKey, Options, TierConfig, TierKind, Timestamp, crc32c};
use curvine_config::ClusterConf;
use curvine_master::MetaState;
use curvine_namespace::{Namespace, snapshot_of_portable};
use curvine_proto::frame::{HEADER_LEN, Header};
use curvine_types::ClusterId;

const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");
/// Files in the tier directory whose index is the seed.
const FILES: u64 = 19;

/// The header of a frame, and messages after it.
pub fn frame(input: &[u8]) {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>() else { return };
    if let Ok(header) = Header::decode(header, crc32c) {
        // What is believed of lengths has a limit.
        assert!((header.meta_len as usize) < 64 << 20 && (header.data_len as usize) < 64 << 20);
        let _ = <curvine_proto::Command as curvine_proto::Message>::decode(rest);
        let _ = <curvine_proto::ReportReply as curvine_proto::Message>::decode(rest);
    }
}

/// A request of the kernel.
pub fn fuse(input: &[u8]) {
    let _ = curvine_fuse_abi::request::header(input);
    let _ = curvine_fuse_abi::parse(input).map(|request| format!("{:?}", request.operation));
}

/// A config file.
pub fn config(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = ClusterConf::parse(text, "fuzz").map(|(conf, _)| conf.to_toml());
    }
}

/// A snapshot of the namespace, read as it is and as what is left of one.
pub fn snapshot(input: &[u8]) {
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
}

/// Metadata as text.
pub fn portable(input: &[u8]) {
    let mut bytes = Vec::new();
    if snapshot_of_portable(&mut &*input, &mut bytes).is_ok()
        && let Ok(mut namespace) = Namespace::restore(&mut &bytes[..])
    {
        namespace.repair(false);
        namespace.check().expect("what is loaded is sound");
    }
}

/// The only segment of a log; its node file is made new.
pub fn log(input: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    curvine_raft::Replica::<MetaState>::create(dir.path(), CLUSTER).expect("a node file");
    std::fs::write(dir.path().join("log-00000000000000000000.seg"), input).expect("write a segment");
    if let Ok(rescued) = curvine_raft::salvage::<MetaState>(dir.path()) {
        let _ = rescued.machine.0.check();
    }
}

/// The index of a tier directory, whose files are gone.
pub fn index(input: &[u8]) {
    static IDENTITY: OnceLock<Vec<u8>> = OnceLock::new();
    let identity = IDENTITY.get_or_init(|| small_tier().0);
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join(CLUSTER.to_string());
    std::fs::create_dir_all(root.join("data")).expect("make directories");
    std::fs::write(root.join("identity"), identity).expect("write");
    std::fs::write(root.join("index"), input).expect("write");
    let Ok(store) = BlockStore::open(CLUSTER, &[tier(dir.path())], options()) else { return };
    for item in store.inventory(None, 100) {
        // Nothing may be read as if they were there.
        let read = store.read(item.key, item.version, 0, 100);
        let empty = read.as_ref().is_ok_and(|plan| plan.size == 0);
        assert!(read.is_err() || empty || item.key.inode > FILES, "bytes of a file that is not there");
    }
}

/// Identity and index of a tier directory with some contents.
pub fn small_tier() -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = BlockStore::open(CLUSTER, &[tier(dir.path())], options()).expect("a store");
    for inode in 1..=FILES {
        let mtime = Timestamp { sec: 1, nsec: 0 };
        store.place(ContentKey::new(inode, 1), 1, 1, mtime, &vec![inode as u8; 5000]).expect("place");
    }
    store.close().expect("close");
    let read = |name| std::fs::read(dir.path().join(CLUSTER.to_string()).join(name)).expect("a file of the tier");
    (read("identity"), read("index"))
}

fn tier(dir: &Path) -> TierConfig {
    TierConfig { dir: dir.to_path_buf(), kind: TierKind::Ssd, quota: Some(64 << 20), reserve: 0, watermarks: None }
}

fn options() -> Options {
    Options { boot_id: "fuzz".into(), ..Options::default() }
}
