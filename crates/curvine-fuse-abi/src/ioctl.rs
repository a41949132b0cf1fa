//! The ioctls of `/dev/fuse`, which safe wrappers do not offer.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl, opcode};

/// `_IOR(229, 0, u32)`: makes a fresh `/dev/fuse` descriptor one more queue reader of a session.
const FUSE_DEV_IOC_CLONE: Opcode = opcode::read::<u32>(229, 0);

/// Joins `fresh` to the session of `session`.
pub(crate) fn clone_device(fresh: impl AsFd, session: impl AsFd) -> rustix::io::Result<()> {
    let number = session.as_fd().as_raw_fd() as u32;
    // SAFETY: the kernel reads one u32 through the pointer that `Setter` passes, which lives during the call, and writes
    // nothing; both descriptors are open for as long as they are borrowed.
    unsafe { ioctl(fresh, Setter::<FUSE_DEV_IOC_CLONE, u32>::new(number)) }
}

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// `_IOW(229, 1, struct fuse_backing_map)`: answers with the number of the backing file.
const FUSE_DEV_IOC_BACKING_OPEN: Opcode = opcode::write::<BackingMap>(229, 1);
/// `_IOW(229, 2, u32)`.
const FUSE_DEV_IOC_BACKING_CLOSE: Opcode = opcode::write::<u32>(229, 2);

struct BackingOpen(BackingMap);

// SAFETY: the opcode is that of a `BackingMap`, which the pointer points to for as long as `self` lives; the kernel only reads it,
// and the result is the return value alone.
unsafe impl Ioctl for BackingOpen {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        FUSE_DEV_IOC_BACKING_OPEN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(&mut self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Registers a file that the kernel may read and write by itself; answers with its number, above 0.
pub(crate) fn open_backing(session: impl AsFd, file: impl AsFd) -> rustix::io::Result<i32> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: see the implementation; both descriptors are open for as long as they are borrowed.
    unsafe { ioctl(session, BackingOpen(map)) }
}

/// Takes a registration back. Those who have it open keep it.
pub(crate) fn close_backing(session: impl AsFd, id: i32) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads one u32 through the pointer that `Setter` passes, which lives during the call, and writes nothing.
    unsafe { ioctl(session, Setter::<FUSE_DEV_IOC_BACKING_CLOSE, u32>::new(id as u32)) }
}
