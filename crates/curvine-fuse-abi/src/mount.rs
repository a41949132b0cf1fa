//! Mounting and unmounting, and the recovery of a mount point that a predecessor left behind.
//!
//! Always: nothing under a mount point is ever deleted; only dead mounts of our own kind are detached; no step waits
//! for a daemon that may not answer, except under a deadline.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tracing::{info, warn};

use crate::device::Device;
use crate::mountinfo::{MountedAt, mounts_on};

/// The type that `/proc/mounts` shows.
pub const FILESYSTEM_TYPE: &str = "fuse.curvine";
/// The source that `df` shows.
const SOURCE: &str = "curvine";
/// Most dead mounts that are taken off one path: each crash of a predecessor may have left one.
const STALE_MOUNTS_MAX: usize = 64;
/// How long a mount that is on the path may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    pub allow_other: bool,
    /// The kernel checks permissions from the attributes.
    pub default_permissions: bool,
    pub read_only: bool,
    /// Ignore setuid bits.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Refuse to execute files.
    pub noexec: bool,
    /// Bytes of the largest READ.
    pub max_read: u32,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: true,
            default_permissions: true,
            read_only: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            max_read: 1 << 20,
        }
    }
}

/// A path that our session is mounted on. Dropping it unmounts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    path: PathBuf,
    /// Minor number of the super block's device; also the number of the connection.
    minor: u32,
}

impl MountPoint {
    /// That of a session which another process has mounted.
    pub fn of(path: PathBuf, device_minor: u32) -> Self {
        Self { path, minor: device_minor }
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the FUSE connection and of the device.
    pub fn device_minor(&self) -> u32 {
        self.minor
    }

    /// Whether our session is mounted on the path, visible or below another mount.
    pub fn is_mounted(&self) -> Result<bool> {
        Ok(mounts_on(&self.path)?.iter().any(|mount| self.is_ours(mount)))
    }

    fn is_ours(&self, mount: &MountedAt) -> bool {
        mount.kind == FILESYSTEM_TYPE && mount.major == 0 && mount.minor == self.minor
    }

    /// Takes the mount off its path at once; files that are open stay usable until they are closed. Fine if it is gone
    /// already; `Busy` if something else is mounted above it.
    pub fn detach(&self) -> Result<()> {
        match mounts_on(&self.path)?.last() {
            Some(top) if self.is_ours(top) => detach(&self.path),
            _ if !self.is_mounted()? => Ok(()),
            _ => Err(Error::new(ErrorKind::Busy, "something else is mounted above this mount; unmount that first")
                .with("path", self.path.display())),
        }
    }

    /// As [`detach`](Self::detach), but requests in flight end with an error now.
    pub fn force(&self) -> Result<()> {
        if mounts_on(&self.path)?.last().is_some_and(|top| self.is_ours(top)) {
            let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            rustix::mount::unmount(&self.path, flags).map_err(|errno| cannot_unmount(errno, &self.path))?;
        }
        Ok(())
    }
}

/// Makes `path` ready to be mounted on, and says what it found: creates the directory, detaches dead mounts of our own.
/// Returns the path without symlinks.
pub fn prepare(path: &Path) -> Result<PathBuf> {
    let path = resolve(path)?;
    for _ in 0..STALE_MOUNTS_MAX {
        let Some(top) = mounts_on(&path)?.pop() else {
            break;
        };
        let dead = is_dead(&path);
        if !dead || top.kind != FILESYSTEM_TYPE {
            warn!(path = %path.display(), kind = top.kind, source = top.source, dead, "mounting over another mount");
            return Ok(path);
        }
        info!(path = %path.display(), id = top.id, "detaching a dead mount that a predecessor left");
        detach(&path)?;
    }
    let kind = std::fs::metadata(&path)
        .map_err(|error| Error::from_io(error, "cannot look at the mount point").with("path", path.display()))?;
    if !kind.is_dir() {
        return Err(
            Error::new(ErrorKind::NotADirectory, "the mount point must be a directory").with("path", path.display())
        );
    }
    let empty = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
    if !empty {
        warn!(path = %path.display(), "the mount point is not empty; what is in it is hidden while mounted");
    }
    Ok(path)
}

/// Mounts the session of `device` on `path`, which [`prepare`] has returned.
pub fn mount(device: &Device, path: &Path, options: &MountOptions) -> Result<MountPoint> {
    let mut data = format!("fd={},rootmode=40000", device.as_fd().as_raw_fd());
    data += &format!(",user_id={}", rustix::process::getuid().as_raw());
    data += &format!(",group_id={}", rustix::process::getgid().as_raw());
    if options.allow_other {
        data += ",allow_other";
    }
    if options.default_permissions {
        data += ",default_permissions";
    }
    data += &format!(",max_read={}", options.max_read.max(4096));
    let data = CString::new(data).map_err(|_| Error::new(ErrorKind::Internal, "a mount option contains NUL"))?;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, options.nosuid);
    flags.set(MountFlags::NODEV, options.nodev);
    flags.set(MountFlags::NOEXEC, options.noexec);
    rustix::mount::mount(SOURCE, path, FILESYSTEM_TYPE, flags, Some(data.as_c_str())).map_err(|errno| {
        Error::from_io(errno.into(), "cannot mount; that needs root or CAP_SYS_ADMIN").with("path", path.display())
    })?;
    let top = mounts_on(path)?.pop().filter(|top| top.kind == FILESYSTEM_TYPE);
    let top = top.ok_or_else(|| {
        Error::new(ErrorKind::Internal, "the new mount is not in the mount table").with("path", path.display())
    })?;
    Ok(MountPoint { path: path.to_path_buf(), minor: top.minor })
}

fn detach(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        // Nothing is mounted there any more: somebody else was faster.
        Err(Errno::INVAL) if mounts_on(path)?.is_empty() => Ok(()),
        Err(errno) => Err(cannot_unmount(errno, path)),
    }
}

fn cannot_unmount(errno: Errno, path: &Path) -> Error {
    Error::from_io(errno.into(), "cannot unmount").with("path", path.display())
}

/// The absolute path without symlinks; missing directories are created. The last component may be a dead mount, which
/// cannot be looked into.
fn resolve(path: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error, message: &str| Error::from_io(error, message).with("path", path.display());
    let absolute = std::path::absolute(path).map_err(|error| failed(error, "not a usable path"))?;
    let is_link = absolute.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let (parent, name) = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if !is_link => (parent, name),
        _ => return absolute.canonicalize().map_err(|error| failed(error, "cannot resolve the mount point")),
    };
    std::fs::create_dir_all(parent).map_err(|error| failed(error, "cannot create the parent of the mount point"))?;
    let parent = parent.canonicalize().map_err(|error| failed(error, "cannot resolve the mount point"))?;
    let resolved = parent.join(name);
    match std::fs::create_dir(&resolved) {
        Ok(()) => info!(path = %resolved.display(), "created the mount point"),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        // A dead mount or a file; what follows finds out which.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
        Err(error) => return Err(failed(error, "cannot create the mount point")),
    }
    Ok(resolved)
}

/// Whether the daemon behind the mount on `path` is gone. STATFS always asks it; one that does not answer in time counts
/// as alive, because it may come back.
fn is_dead(path: &Path) -> bool {
    let (sender, answer) = mpsc::channel();
    let path = path.to_path_buf();
    // The thread may stay until a hung daemon answers or dies; it holds nothing but its path.
    let probe = std::thread::Builder::new().name("mount-probe".into()).spawn(move || {
        let dead = matches!(rustix::fs::statfs(&path), Err(Errno::NOTCONN | Errno::CONNABORTED));
        let _ = sender.send(dead);
    });
    probe.is_ok() && answer.recv_timeout(PROBE_TIMEOUT).unwrap_or(false)
}
