//! The one ioctl that safe wrappers do not offer.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `_IOR(229, 0, u32)`: makes a fresh `/dev/fuse` descriptor one more queue reader of a session.
const FUSE_DEV_IOC_CLONE: Opcode = opcode::read::<u32>(229, 0);

/// Joins `fresh` to the session of `session`.
pub(crate) fn clone_device(fresh: impl AsFd, session: impl AsFd) -> rustix::io::Result<()> {
    let number = session.as_fd().as_raw_fd() as u32;
    // SAFETY: the kernel reads one u32 through the pointer that `Setter` passes, which lives during the call, and writes
    // nothing; both descriptors are open for as long as they are borrowed.
    unsafe { ioctl(fresh, Setter::<FUSE_DEV_IOC_CLONE, u32>::new(number)) }
}
