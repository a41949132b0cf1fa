//! What the client tells about its caches, passed on to the kernel.
//!
//! Always: names and attributes are invalidated without waiting for anything (INC_EPOCH and INVAL_INODE with offset -1 take
//! no lock that a request holds); only pages may have to wait, under a deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use curvine_client::CacheEvents;
use curvine_fuse_abi::Device;
use curvine_fuse_abi::kernel::ROOT_ID;
use curvine_types::InodeId;
use tracing::warn;

use crate::io_mode::IoModes;
use crate::pages::Pages;

/// Given to `FileSystem::connect`; silent until `Mount::start` binds it to a mounted session.
#[derive(Default)]
pub struct KernelEvents {
    kernel: OnceLock<Kernel>,
    sent: AtomicU64,
}

/// The mounted session.
pub(crate) struct Kernel {
    pub device: Arc<Device>,
    pub modes: Arc<IoModes>,
    pub pages: Arc<Pages>,
    /// The kernel has FUSE_NOTIFY_INC_EPOCH; otherwise it never believes a name without asking.
    pub has_epoch: bool,
    /// The inode that is the root of this mount.
    pub root: InodeId,
}

impl KernelEvents {
    /// Not bound yet: there is no kernel cache to tell.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on there is a kernel cache. False if there was one already: events serve one mount.
    pub(crate) fn bind(&self, kernel: Kernel) -> bool {
        self.kernel.set(kernel).is_ok()
    }

    /// Notifications sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn all_names(&self, kernel: &Kernel) {
        if kernel.has_epoch {
            self.sent.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = kernel.device.increment_epoch() {
                warn!(%error, "cannot tell the kernel that names have changed");
            }
        }
    }

    /// Whether the kernel knew all of them.
    fn attributes(&self, kernel: &Kernel, inodes: &[InodeId]) -> bool {
        let mut knew_all = true;
        for inode in inodes {
            self.sent.fetch_add(1, Ordering::Relaxed);
            match kernel.device.invalidate_inode(kernel.node(*inode), false) {
                Ok(known) => knew_all &= known,
                Err(error) => warn!(%error, inode, "cannot tell the kernel that attributes have changed"),
            }
        }
        knew_all
    }
}

impl Kernel {
    fn node(&self, inode: InodeId) -> u64 {
        if inode == self.root { ROOT_ID } else { inode }
    }
}

impl CacheEvents for KernelEvents {
    fn names_changed(&self, dirs: &[InodeId]) {
        let Some(kernel) = self.kernel.get() else { return };
        if dirs.is_empty() {
            return;
        }
        self.attributes(kernel, dirs);
        self.all_names(kernel);
    }

    fn inodes_changed(&self, inodes: &[InodeId]) {
        let Some(kernel) = self.kernel.get() else { return };
        kernel.modes.contested.changed(inodes);
        if !self.attributes(kernel, inodes) {
            // A LOOKUP whose reply is on its way makes the node known only now, with attributes that are void. A new epoch
            // has the kernel look its name up again.
            self.all_names(kernel);
        }
        let cached: Vec<u64> =
            inodes.iter().filter(|inode| kernel.modes.is_cached(**inode)).map(|inode| kernel.node(*inode)).collect();
        if !cached.is_empty() {
            self.sent.fetch_add(cached.len() as u64, Ordering::Relaxed);
            kernel.pages.invalidate(&cached);
        }
    }
}
