//! Taking our mounts off a path, for the hook before a pod's end.
//!
//! Always: only mounts of our own kind go, the top one first; a busy one is waited for and then detached lazily.

use std::path::Path;
use std::time::{Duration, Instant};

use curvine_fuse_abi::mount::FILESYSTEM_TYPE;
use curvine_fuse_abi::mountinfo::mounts_on;
use curvine_types::{Error, ErrorKind, Result};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Most mounts on one path; more must be a mistake.
const MOUNTS_MAX: usize = 64;
/// How long a mount may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const NOTCONN: i32 = Errno::NOTCONN.raw_os_error();
const CONNABORTED: i32 = Errno::CONNABORTED.raw_os_error();
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

/// Refuses a container whose volume is itself the dead mount of a predecessor: what is mounted on it is seen by nobody outside, and
/// from in here it cannot be taken off the node.
pub fn check_volume(path: &Path) -> Result<()> {
    let path = std::path::absolute(path).map_err(|source| Error::from_io(source, "not a path"))?;
    let mounts = curvine_fuse_abi::mountinfo::mounts()?;
    let Some(volume) = mounts.iter().find(|mount| mount.path == path) else { return Ok(()) };
    let in_root = mounts.iter().any(|mount| mount.id == volume.parent && mount.path == Path::new("/"));
    let single = mounts.iter().filter(|mount| mount.path == path).count() == 1;
    if volume.kind != FILESYSTEM_TYPE || !in_root || !single {
        return Ok(());
    }
    match crate::probe::statfs_within(&path, PROBE_TIMEOUT) {
        Some(Err(error)) if matches!(error.raw_os_error(), Some(NOTCONN | CONNABORTED)) => {
            let message = "the volume of this container is a dead mount that a killed client has left on the node; the janitor takes it \
                           off (curvine-janitor.yaml), or umount -l on the node, and the next start of this container works";
            Err(Error::new(ErrorKind::Busy, message).with("path", path.display()))
        }
        _ => Ok(()),
    }
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
