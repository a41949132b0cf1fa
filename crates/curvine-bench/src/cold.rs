//! Making the kernel forget what it has read, so that a read is a cold one.

use curvine_types::{Error, Result};

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Whether this process may do it.
pub(crate) fn can_drop() -> bool {
    std::fs::File::options().write(true).open(DROP_CACHES).is_ok()
}

/// Writes back what is dirty and drops pages, names and inodes of every file system.
pub(crate) fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write(DROP_CACHES, "3").map_err(|source| Error::from_io(source, "cannot drop the kernel's caches"))
}
