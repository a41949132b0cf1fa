//! The kernel's control files of one FUSE connection: requests that wait, abort, read-ahead.
//!
//! fusectl is used where it is mounted; where it is not (containers), a private instance is opened that appears in no
//! mount table.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use curvine_types::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::mount::MountPoint;

const FUSECTL: &str = "/sys/fs/fuse/connections";

/// The control files of a mounted session.
#[derive(Debug)]
pub struct Connection {
    number: u32,
    control: Option<OwnedFd>,
}

impl Connection {
    /// Those of the session that is mounted there.
    pub fn of(mount: &MountPoint) -> Self {
        let number = mount.device_minor();
        Self { number, control: open_control(number) }
    }

    /// The number of the connection.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether the control files can be reached at all (they need root).
    pub fn is_controllable(&self) -> bool {
        self.control.is_some()
    }

    /// Requests that wait to be read or answered; `None` if it cannot be told.
    pub fn waiting(&self) -> Option<u64> {
        let mut text = String::new();
        self.open("waiting", OFlags::RDONLY)?.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Ends the session: all requests fail, all readers of the device return. False if it cannot be done from here.
    pub fn abort(&self) -> bool {
        self.open("abort", OFlags::WRONLY).is_some_and(|mut file| file.write_all(b"1").is_ok())
    }

    /// Sets how far the kernel reads ahead.
    pub fn set_read_ahead(&self, bytes: u64) -> Result<()> {
        let path = format!("/sys/class/bdi/0:{}/read_ahead_kb", self.number);
        std::fs::write(&path, (bytes >> 10).to_string())
            .map_err(|error| Error::from_io(error, "cannot set the kernel's read-ahead").with("file", path))
    }

    /// How far the kernel reads ahead, in bytes.
    pub fn read_ahead(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/sys/class/bdi/0:{}/read_ahead_kb", self.number)).ok()?;
        Some(text.trim().parse::<u64>().ok()? << 10)
    }

    /// Waits until no request waits, up to `limit`; true if that was reached.
    pub fn wait_idle(&self, limit: Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        loop {
            match self.waiting() {
                Some(0) | None => return true,
                Some(_) if std::time::Instant::now() >= end => return false,
                // The kernel has no way to be told; this is a poll of a counter at shutdown.
                Some(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn open(&self, name: &str, flags: OFlags) -> Option<std::fs::File> {
        let control = self.control.as_ref()?;
        let path = format!("{}/{name}", self.number);
        let fd = rustix::fs::openat(control.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(fd.into())
    }
}

fn open_control(number: u32) -> Option<OwnedFd> {
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mounted = rustix::fs::openat(CWD, FUSECTL, directory, Mode::empty()).ok();
    if let Some(fd) = mounted
        && rustix::fs::statat(&fd, number.to_string(), rustix::fs::AtFlags::empty()).is_ok()
    {
        return Some(fd);
    }
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_create(context.as_fd()).ok()?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()
}
