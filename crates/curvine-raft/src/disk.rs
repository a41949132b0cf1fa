//! The disk as the log and the snapshots use it: a trait, so that tests can make each operation fail.
//!
//! What must hold: `sync_data` returning `Ok` means that every byte written before is on stable storage; `sync_dir` the same for
//! names made, renamed or removed in the directory. Calls block; nothing here runs on an async thread.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use curvine_types::{Error, Result};

/// Files and names of one directory.
pub(crate) trait Disk: Send + Sync + Debug + 'static {
    /// Creates a file, or empties the existing one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged writer can still take.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// One open file.
pub(crate) trait DiskFile: Send + Sync + Debug {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Takes real blocks for the first `length` bytes.
    fn allocate(&self, length: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
}

/// The machine's file system.
#[derive(Debug, Default)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), 0, length)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Replaces a small file as a whole: after a crash it has the old or the new content.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<()> {
    let failed = |source: io::Error| Error::from_io(source, "cannot replace a file").with("file", path.display());
    let temporary = path.with_extension("tmp");
    let file = disk.create(&temporary).map_err(failed)?;
    file.write_all_at(content, 0).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    disk.rename(&temporary, path).map_err(failed)?;
    match path.parent() {
        Some(dir) => disk.sync_dir(dir).map_err(failed),
        None => Ok(()),
    }
}
