//! What the client tells about its caches, passed on to the kernel.

use curvine_client::CacheEvents;
use curvine_types::InodeId;

/// Given to `FileSystem::connect`; silent until `Mount::start` binds it to a mounted session.
#[derive(Default)]
pub struct KernelEvents {}

impl KernelEvents {
    /// Not bound yet: there is no kernel cache to tell.
    pub fn new() -> std::sync::Arc<Self> {
        Default::default()
    }
}

impl CacheEvents for KernelEvents {
    fn names_changed(&self, _dirs: &[InodeId]) {
        todo!()
    }

    fn inodes_changed(&self, _inodes: &[InodeId]) {
        todo!()
    }
}
