//! One `/dev/fuse` descriptor: reading requests, writing replies and notifications.
//!
//! Always: a reply is one `writev`; a reply or notification that the kernel no longer wants is no error.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::SharedWords;
use crate::kernel::{InHeader, NotifyDelete, NotifyInvalEntry, NotifyInvalInode, OutHeader, WriteIn, notify};

/// What a read of the device gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadResult {
    /// The buffer holds one request.
    Request,
    /// Nothing this time (a signal, or the request went away); read again.
    Again,
    /// The file system was unmounted or its connection aborted; there will be no more requests.
    Ended,
}

fn what_came(read: rustix::io::Result<usize>) -> Result<(ReadResult, usize)> {
    match read {
        Ok(0) => Ok((ReadResult::Ended, 0)),
        Ok(length) => Ok((ReadResult::Request, length)),
        Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => Ok((ReadResult::Again, 0)),
        Err(Errno::NODEV | Errno::CONNABORTED) => Ok((ReadResult::Ended, 0)),
        Err(errno) => Err(Error::from_io(errno.into(), "cannot read from /dev/fuse")),
    }
}

/// An open `/dev/fuse`.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

impl Device {
    /// A descriptor without a session yet; mounting with it makes one.
    pub fn open() -> Result<Self> {
        let fd = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            Error::from_io(errno.into(), "cannot open /dev/fuse; is the fuse module loaded, the device allowed here?")
        })?;
        Ok(Self { fd })
    }

    /// The kernel puts every request that was read and not answered in front of its queue again, marked with
    /// [`UNIQUE_RESEND`](crate::kernel::UNIQUE_RESEND). Once, and only when whoever read them can no longer answer: otherwise
    /// they are served twice. Waits for nothing.
    pub fn resend(&self) -> Result<()> {
        let header = OutHeader { len: size_of::<OutHeader>() as u32, error: notify::RESEND, unique: 0 };
        self.send(&header, &[]).map(|_| ())
    }

    /// One more descriptor of the same session, with its own queue of requests being served (`FUSE_DEV_IOC_CLONE`).
    pub fn clone_reader(&self) -> Result<Self> {
        let fresh = Self::open()?;
        crate::ioctl::clone_device(&fresh.fd, &self.fd)
            .map_err(|errno| Error::from_io(errno.into(), "cannot clone a /dev/fuse descriptor"))?;
        Ok(fresh)
    }

    /// Bytes that a read buffer must have for writes of `max_write`.
    pub fn buffer_size(max_write: u32) -> usize {
        const KERNEL_MINIMUM: usize = 8192;
        (size_of::<InHeader>() + size_of::<WriteIn>() + max_write as usize).max(KERNEL_MINIMUM)
    }

    /// Waits for one request and appends it to `buffer`, whose spare capacity must be at least
    /// [`buffer_size`](Self::buffer_size). Ends only by a request, a signal, or the end of the session.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<ReadResult> {
        what_came(rustix::io::read(&self.fd, spare_capacity(buffer))).map(|(result, _)| result)
    }

    /// The same into shared memory, from word `start` on, and how many bytes came. There must be `words` of them, and room for
    /// [`buffer_size`](Self::buffer_size).
    pub fn read_shared(&self, memory: &SharedWords, start: usize, words: usize) -> Result<(ReadResult, usize)> {
        what_came(memory.read_from(self.fd.as_fd(), start, words))
    }

    /// Waits until a request can be read; false after `timeout`. A signal begins the wait anew: it says nothing about requests.
    pub fn wait_readable(&self, timeout: Duration) -> Result<bool> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            return match poll(&mut fds, Some(&timeout)) {
                Ok(ready) => Ok(ready > 0),
                Err(Errno::INTR) => continue,
                Err(errno) => Err(Error::from_io(errno.into(), "cannot poll /dev/fuse")),
            };
        }
    }

    /// Answers a request with the concatenation of `parts`. True if the kernel took it, false if nobody waits any more.
    pub fn reply(&self, unique: u64, parts: &[IoSlice<'_>]) -> Result<bool> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(size_of::<OutHeader>() + length)
            .map_err(|_| Error::new(ErrorKind::Internal, "a reply is too long").with("length", length))?;
        self.send(&OutHeader { len: length, error: 0, unique }, parts)
    }

    /// Answers a request with one structure.
    pub fn reply_with<T: IntoBytes + zerocopy::Immutable>(&self, unique: u64, value: &T) -> Result<bool> {
        self.reply(unique, &[IoSlice::new(value.as_bytes())])
    }

    /// Answers a request with a positive errno; 0 is success without a value.
    pub fn reply_error(&self, unique: u64, errno: i32) -> Result<bool> {
        self.send(&OutHeader { len: size_of::<OutHeader>() as u32, error: -errno, unique }, &[])
    }

    /// Makes the kernel forget the attributes of a node and, with `pages`, all its cached pages.
    ///
    /// With `pages` it may wait for reads and writes of the node that are in flight: never call it from a thread that
    /// serves requests. False if the kernel does not know the node.
    pub fn invalidate_inode(&self, node: u64, pages: bool) -> Result<bool> {
        let body = NotifyInvalInode { ino: node, off: if pages { 0 } else { -1 }, len: 0 };
        self.notify(notify::INVAL_INODE, body.as_bytes(), &[])
    }

    /// Makes the kernel forget cached pages of a node: those of `length` bytes from `offset`. It may wait like
    /// [`invalidate_inode`](Self::invalidate_inode).
    pub fn invalidate_pages(&self, node: u64, offset: u64, length: u64) -> Result<bool> {
        // Of no bytes the kernel would make all.
        if length == 0 {
            return Ok(true);
        }
        let (off, len) = (i64::try_from(offset), i64::try_from(length));
        let (Ok(off), Ok(len)) = (off, len) else { return self.invalidate_inode(node, true) };
        let body = NotifyInvalInode { ino: node, off, len };
        self.notify(notify::INVAL_INODE, body.as_bytes(), &[])
    }

    /// Makes the kernel forget one name. Waits for operations in flight in that directory: never from a thread that serves
    /// requests, nor while a request there waits for us.
    pub fn invalidate_entry(&self, parent: u64, name: &[u8]) -> Result<bool> {
        let body = NotifyInvalEntry { parent, namelen: name.len() as u32, flags: 0 };
        self.notify(notify::INVAL_ENTRY, body.as_bytes(), name)
    }

    /// Tells the kernel that a name is gone, so that watchers hear of it. Waits like
    /// [`invalidate_entry`](Self::invalidate_entry).
    pub fn notify_delete(&self, parent: u64, child: u64, name: &[u8]) -> Result<bool> {
        let body = NotifyDelete { parent, child, namelen: name.len() as u32, padding: 0 };
        self.notify(notify::DELETE, body.as_bytes(), name)
    }

    /// Makes the kernel look every cached name up again before it trusts it (ABI 7.44). Never waits.
    pub fn increment_epoch(&self) -> Result<()> {
        let header = OutHeader { len: size_of::<OutHeader>() as u32, error: notify::INC_EPOCH, unique: 0 };
        self.send(&header, &[]).map(|_| ())
    }

    /// Registers a local file that the kernel may read and write by itself (`FUSE_DEV_IOC_BACKING_OPEN`, Linux 6.9).
    pub fn register_backing(&self, file: impl AsFd) -> Result<i32> {
        crate::ioctl::open_backing(&self.fd, file)
            .map_err(|errno| Error::from_io(errno.into(), "the kernel does not take a file for passthrough"))
    }

    /// Takes a registration back. Never while an inode is open with it: new opens of that inode would fail.
    pub fn unregister_backing(&self, id: i32) -> Result<()> {
        crate::ioctl::close_backing(&self.fd, id)
            .map_err(|errno| Error::from_io(errno.into(), "cannot take a file back from the kernel"))
    }

    /// Names in notifications end with a NUL.
    fn notify(&self, code: i32, body: &[u8], name: &[u8]) -> Result<bool> {
        let terminator: &[u8] = if name.is_empty() { b"" } else { b"\0" };
        let length = size_of::<OutHeader>() + body.len() + name.len() + terminator.len();
        let header = OutHeader { len: length as u32, error: code, unique: 0 };
        self.send(&header, &[IoSlice::new(body), IoSlice::new(name), IoSlice::new(terminator)])
    }

    fn send(&self, header: &OutHeader, parts: &[IoSlice<'_>]) -> Result<bool> {
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(IoSlice::new(header.as_bytes()));
        all.extend(parts.iter().filter(|part| !part.is_empty()).copied());
        loop {
            return match rustix::io::writev(&self.fd, &all) {
                Ok(_) => Ok(true),
                Err(Errno::INTR) => continue,
                // The request was interrupted or aborted, the node is unknown, or the session has ended.
                Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED | Errno::NOTCONN | Errno::PERM) => Ok(false),
                Err(errno) => Err(Error::from_io(errno.into(), "cannot write to /dev/fuse")
                    .with("length", header.len)
                    .with("code", header.error)),
            };
        }
    }
}

/// A descriptor of `/dev/fuse` that somebody else opened.
impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
