//! Whether the kernel may use local files by itself, for which files it does, and how often it did not and why.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_client::NotLocal;
use curvine_fuse_abi::{Device, Negotiated};
use curvine_types::InodeId;
use parking_lot::Mutex;
use rustix::fs::MemfdFlags;
use tracing::{info, warn};

use crate::backing::Kept;
use crate::options::{FuseOptions, PassthroughWrites};

/// A new file that became so large makes the next one of its directory be placed when it is made.
const LARGE: u64 = 1 << 20;
/// Directories that are remembered.
const DIRECTORIES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Passthrough {
    pub device: Arc<Device>,
    pub keeper: Kept,
    /// Why it is off altogether.
    off: Option<&'static str>,
    pub min_size: u64,
    /// Bytes of the largest file that is rewritten so.
    pub rewrite_max: u64,
    writes: PassthroughWrites,
    taken: AtomicU64,
    refused: [AtomicU64; NotLocal::ALL.len()],
    /// Whether the last new file of a directory became large, and the last one of all.
    became_large: Mutex<(HashMap<InodeId, bool>, bool)>,
}

impl Passthrough {
    /// Finds out by trying; the mount is there and nobody is served yet.
    pub fn new(device: &Arc<Device>, negotiated: &Negotiated, options: &FuseOptions, keeper: Kept) -> Self {
        let off = if !options.passthrough {
            Some("it is switched off by [fuse] passthrough or --no-passthrough")
        } else if !negotiated.has_passthrough() {
            Some("this kernel cannot; Linux 6.9 or newer is needed")
        } else {
            try_it(device).err()
        };
        match off {
            None => info!("local files are read and written by the kernel itself"),
            Some(why) => info!(why, "all reads and writes come through the mount"),
        }
        Self {
            device: device.clone(),
            keeper,
            off,
            min_size: options.passthrough_min_size,
            rewrite_max: options.passthrough_rewrite_max,
            writes: options.passthrough_writes,
            taken: AtomicU64::new(0),
            refused: Default::default(),
            became_large: Mutex::default(),
        }
    }

    /// Why it is off altogether; `None`: it is on.
    pub fn off(&self) -> Option<&'static str> {
        self.off
    }

    /// Whether new files may be written so at all.
    pub fn writes(&self) -> bool {
        self.writes != PassthroughWrites::Never
    }

    /// Whether a new file in this directory is worth a place on a worker from the start.
    pub fn expects_large(&self, parent: InodeId) -> bool {
        match self.writes {
            PassthroughWrites::Always => true,
            PassthroughWrites::Never => false,
            PassthroughWrites::Auto => {
                let became_large = self.became_large.lock();
                became_large.0.get(&parent).copied().unwrap_or(became_large.1)
            }
        }
    }

    /// A file that was made here was closed for the last time.
    pub fn learn(&self, parent: InodeId, size: u64) {
        let (known, last) = &mut *self.became_large.lock();
        if known.len() >= DIRECTORIES && !known.contains_key(&parent) {
            known.clear();
        }
        known.insert(parent, size >= LARGE);
        *last = size >= LARGE;
    }

    /// Counts an open that is served so.
    pub fn count_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that is not.
    pub fn count_refused(&self, why: NotLocal) {
        if let Some(counter) = self.refused.get(why as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens that were served so.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Opens that were not, by reason.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        NotLocal::ALL
            .iter()
            .zip(&self.refused)
            .map(|(why, count)| (why.name(), count.load(Ordering::Relaxed)))
            .collect()
    }
}

/// One registration, of a file in memory: the kernel says whether it is allowed to us.
fn try_it(device: &Device) -> Result<(), &'static str> {
    let file = rustix::fs::memfd_create("curvine-passthrough", MemfdFlags::CLOEXEC).map_err(|error| {
        warn!(%error, "cannot make a file in memory");
        "a file in memory to try it with cannot be made"
    })?;
    match device.register_backing(&file) {
        Ok(id) => {
            if let Err(error) = device.unregister_backing(id) {
                warn!(%error, "the kernel keeps a file that nobody uses");
            }
            Ok(())
        }
        Err(error) if error.errno() == libc::EPERM => Err("this process lacks CAP_SYS_ADMIN"),
        Err(error) => {
            warn!(%error, "the kernel refuses to read and write local files by itself");
            Err("the kernel refuses it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_those_of_the_reasons() {
        for (number, why) in NotLocal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number);
        }
    }
}
