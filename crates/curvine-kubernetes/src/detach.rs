//! Taking our mounts off a path, for the hook before a pod's end.
//!
//! Always: only mounts of our own kind go, the top one first; a busy one is waited for and then detached lazily.

use std::path::Path;
use std::time::{Duration, Instant};

use curvine_fuse_abi::mount::FILESYSTEM_TYPE;
use curvine_fuse_abi::mountinfo::mounts_on;
use curvine_types::{Error, Result};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Most mounts on one path; more must be a mistake.
const MOUNTS_MAX: usize = 64;
/// Between two attempts on a busy mount.
const PAUSE: Duration = Duration::from_millis(100);

/// Unmounts; how many mounts there were. A mount that stays busy for `patience` disappears from the path all the same, and goes
/// when its last user does.
pub fn detach(path: &Path, patience: Duration) -> Result<usize> {
    let path = std::path::absolute(path).map_err(|source| Error::from_io(source, "not a path"))?;
    let deadline = Instant::now() + patience;
    for taken in 0..MOUNTS_MAX {
        match mounts_on(&path)?.last() {
            Some(top) if top.kind == FILESYSTEM_TYPE => one(&path, deadline)?,
            _ => return Ok(taken),
        }
    }
    Ok(MOUNTS_MAX)
}

fn one(path: &Path, deadline: Instant) -> Result<()> {
    let failed = |errno: Errno| Error::from_io(errno.into(), "cannot unmount").with("path", path.display());
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => return Ok(()),
            // Somebody else was faster.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(Errno::BUSY) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    tracing::warn!(path = %path.display(), "still in use: detached, it ends with its last user");
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_mounted_nothing_is_done() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kept"), "kept").unwrap();
        assert_eq!(detach(dir.path(), Duration::ZERO).unwrap(), 0);
        assert_eq!(detach(&dir.path().join("nothing"), Duration::ZERO).unwrap(), 0);
        assert!(dir.path().join("kept").exists());
    }
}
