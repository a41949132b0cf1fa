//! The few disk primitives that the store stands on, each behind a fault point.
//!
//! A fault hook is asked before each operation; what it returns is what the disk would have said.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use curvine_types::Error;
use rustix::fs::{SeekFrom, Timespec, Timestamps};

use crate::types::{LiveAttr, Timestamp};

/// What is about to be done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskOp {
    Open,
    Read,
    Write,
    Truncate,
    Fallocate,
    Sync,
    Unlink,
    IndexWrite,
    IndexSync,
}

/// Lets a test make the disk fail.
pub trait Faults: Send + Sync {
    /// Called before each operation on `path`; an error is returned in place of the operation.
    fn before(&self, op: DiskOp, path: &Path) -> io::Result<()>;
}

/// The disk, with its fault points.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    faults: Option<Arc<dyn Faults>>,
}

impl Disk {
    pub fn new(faults: Option<Arc<dyn Faults>>) -> Self {
        Self { faults }
    }

    /// The fault point of an operation that the caller does itself.
    pub fn before(&self, op: DiskOp, path: &Path) -> io::Result<()> {
        match &self.faults {
            Some(faults) => faults.before(op, path),
            None => Ok(()),
        }
    }

    pub fn open(&self, path: &Path, create: bool) -> io::Result<File> {
        self.before(DiskOp::Open, path)?;
        File::options().read(true).write(true).create(create).truncate(false).open(path)
    }

    pub fn write(&self, op: DiskOp, file: &File, path: &Path, data: &[u8], offset: u64) -> io::Result<()> {
        self.before(op, path)?;
        file.write_all_at(data, offset)
    }

    /// Writes at the end of the file, in one piece, wherever that is by then; returns where.
    pub fn append(&self, path: &Path, data: &[u8]) -> io::Result<u64> {
        self.before(DiskOp::Write, path)?;
        let mut file = File::options().append(true).open(path)?;
        let written = io::Write::write(&mut file, data)?;
        let end = io::Seek::stream_position(&mut file)?;
        if written < data.len() {
            // The rest would not be where the first part is.
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(end - written as u64)
    }

    pub fn read(&self, file: &File, path: &Path, data: &mut [u8], offset: u64) -> io::Result<()> {
        self.before(DiskOp::Read, path)?;
        file.read_exact_at(data, offset)
    }

    pub fn truncate(&self, file: &File, path: &Path, size: u64) -> io::Result<()> {
        self.before(DiskOp::Truncate, path)?;
        file.set_len(size)
    }

    pub fn sync(&self, op: DiskOp, file: &File, path: &Path) -> io::Result<()> {
        self.before(op, path)?;
        file.sync_data()
    }

    /// Makes names in a directory durable.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.before(DiskOp::Sync, path)?;
        File::open(path)?.sync_all()
    }

    /// Removes a file; it is fine if there is none.
    pub fn unlink(&self, path: &Path) -> io::Result<()> {
        self.before(DiskOp::Unlink, path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Size, mtime and allocated blocks as the local file system has them.
pub(crate) fn attr_of(file: &File) -> io::Result<LiveAttr> {
    let stat = rustix::fs::fstat(file)?;
    Ok(LiveAttr {
        size: stat.st_size as u64,
        mtime: Timestamp { sec: stat.st_mtime as i64, nsec: stat.st_mtime_nsec as u32 },
        blocks: stat.st_blocks as u64,
    })
}

/// Whether the last change of a local file was one of its data, as far as its times tell: the kernel gives such a change one
/// time as mtime and ctime, while setting the mtime leaves the two apart.
pub(crate) fn changed_last(file: &File) -> io::Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_mtime as i64, stat.st_mtime_nsec as u64) == (stat.st_ctime as i64, stat.st_ctime_nsec as u64))
}

/// Sets the mtime of a local file.
pub(crate) fn set_mtime(file: &File, mtime: Timestamp) -> io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let mtime = Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: omit, last_modification: mtime })?)
}

/// First byte at or after `offset` that is allocated; `None` if there is none up to the end of the file.
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// First byte at or after `offset` that is not allocated; the end of the file counts as one. `None` beyond the end.
pub(crate) fn next_hole(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Hole(offset)) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Bytes of `offset..end` that are allocated.
pub(crate) fn allocated(file: &File, offset: u64, end: u64) -> io::Result<u64> {
    let mut total = 0;
    let mut at = offset;
    while at < end {
        let Some(start) = next_data(file, at)? else { break };
        if start >= end {
            break;
        }
        let stop = next_hole(file, start)?.unwrap_or(end).min(end);
        total += stop - start;
        at = stop;
    }
    Ok(total)
}

/// Free and total bytes of the disk behind a directory.
pub(crate) fn space(dir: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Whether an error says that the disk itself is at fault rather than the request.
pub(crate) fn is_disk_failure(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            5 /* EIO */ | 6 /* ENXIO */ | 19 /* ENODEV */ | 30 /* EROFS */ | 116 /* ESTALE */ | 117 /* EUCLEAN */
        )
    )
}

/// Identity of this boot of the machine; empty where the kernel does not tell.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_string()).unwrap_or_default()
}

/// CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// An error of the disk, with the file that it happened to.
pub(crate) fn io_error(error: io::Error, message: &'static str, path: &Path) -> Error {
    Error::from_io(error, message).with("file", path.display())
}
