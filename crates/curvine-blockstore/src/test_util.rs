//! What the tests of this crate share.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvine_types::ClusterId;
use curvine_types::limits::PIECE_SIZE;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::*;

pub(crate) const CLUSTER: ClusterId = ClusterId(*b"cluster-of-tests");
pub(crate) const KEY: ContentKey = ContentKey { inode: 7, generation: 1 };
pub(crate) const T0: Timestamp = Timestamp { sec: 1_700_000_000, nsec: 5 };
pub(crate) const MIB: u64 = 1 << 20;

/// Makes operations on paths that contain a text fail.
#[derive(Default)]
pub(crate) struct TestFaults(Mutex<HashMap<DiskOp, (String, i32)>>);

impl TestFaults {
    pub fn set(&self, op: DiskOp, path: &str, errno: i32) {
        self.0.lock().insert(op, (path.to_string(), errno));
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Faults for TestFaults {
    fn before(&self, op: DiskOp, path: &Path) -> io::Result<()> {
        match self.0.lock().get(&op) {
            Some((part, errno)) if path.to_string_lossy().contains(part) => Err(io::Error::from_raw_os_error(*errno)),
            _ => Ok(()),
        }
    }
}

/// Tier directories and the settings to open a store on them again and again.
pub(crate) struct Bench {
    _dir: TempDir,
    pub tiers: Vec<TierConfig>,
    pub options: Options,
    pub faults: Arc<TestFaults>,
}

impl Bench {
    /// Directories `0`, `1`, ... of these kinds and quotas.
    pub fn new(tiers: &[(TierKind, Option<u64>)]) -> Self {
        let dir = TempDir::new().unwrap();
        let tiers = tiers
            .iter()
            .enumerate()
            .map(|(number, (kind, quota))| TierConfig {
                dir: dir.path().join(number.to_string()),
                kind: *kind,
                quota: *quota,
                reserve: 0,
                watermarks: None,
            })
            .collect();
        let faults = Arc::new(TestFaults::default());
        let options = Options {
            boot_id: "first boot".to_string(),
            faults: Some(faults.clone()),
            probe_after: std::time::Duration::ZERO,
            ..Options::default()
        };
        Self { _dir: dir, tiers, options, faults }
    }

    pub fn ssd() -> Self {
        Self::new(&[(TierKind::Ssd, None)])
    }

    pub fn open(&self) -> BlockStore {
        BlockStore::open(CLUSTER, &self.tiers, self.options.clone()).unwrap()
    }

    /// `<dir>/<cluster uuid>` of a tier.
    pub fn root(&self, tier: usize) -> PathBuf {
        self.tiers[tier].dir.join(CLUSTER.to_string())
    }
}

pub(crate) fn crcs(data: &[u8]) -> Vec<u32> {
    data.chunks(PIECE_SIZE as usize).map(crc32c).collect()
}

/// Bytes that differ from place to place and from seed to seed, never all zero.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| ((at / 7).wrapping_mul(31).wrapping_add(seed * 131 + 1) % 251) as u8 + 1).collect()
}

/// Everything of a content, through plans and verified loading.
pub(crate) fn read_all(store: &BlockStore, key: ContentKey, version: u64) -> curvine_types::Result<Vec<u8>> {
    let size = store.read(key, version, 0, 0)?.size;
    read(store, key, version, 0, size)
}

/// A range of a content; panics on absent parts.
pub(crate) fn read(
    store: &BlockStore,
    key: ContentKey,
    version: u64,
    offset: u64,
    len: u64,
) -> curvine_types::Result<Vec<u8>> {
    let plan = store.read(key, version, offset, len)?;
    let mut bytes = Vec::new();
    let mut start = None;
    for segment in &plan.segments {
        start.get_or_insert(segment.range().0);
        match segment {
            Segment::Data { .. } => bytes.extend(store.load(key, segment)?),
            Segment::Hole { len, .. } => bytes.resize(bytes.len() + *len as usize, 0),
            Segment::Absent { offset, len } => panic!("{offset}+{len} is absent"),
        }
    }
    let Some(start) = start else { return Ok(Vec::new()) };
    let end = (offset + len).min(plan.size);
    Ok(bytes[(offset - start) as usize..(end - start) as usize].to_vec())
}
