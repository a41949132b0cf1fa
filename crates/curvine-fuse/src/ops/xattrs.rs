//! Extended attributes.

use bytes::Bytes;
use curvine_fuse_abi::kernel::GetxattrOut;
use curvine_types::limits::XATTR_SIZE_MAX;

use super::Call;
use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;

/// ACLs are not kept: the kernel would have to be told to check them. `ls -l` asks for one on each file.
fn is_unsupported(name: &[u8]) -> bool {
    name.starts_with(b"system.")
}

/// Answered by the mount and listed nowhere: how the kernel does the I/O of the file now, and why.
const STATUS: &[u8] = b"curvine.status";

impl<B: Backend> Call<'_, B> {
    fn status(&self) -> String {
        let (open, passthrough) = (self.server.modes.describe(self.inode), &self.server.passthrough);
        match passthrough.off() {
            Some(why) => format!("{open}; passthrough is off: {why}"),
            None => open,
        }
    }

    pub(super) async fn getxattr(&self, name: &[u8], size: u32) -> Outcome {
        if is_unsupported(name) {
            return Err(Failure::Errno(libc::EOPNOTSUPP));
        }
        if name == STATUS {
            return sized(self.status().into(), size);
        }
        let value = self.server.backend.get_xattr(self.inode, name).await?;
        sized(value, size)
    }

    pub(super) async fn listxattr(&self, size: u32) -> Outcome {
        let mut names = self.server.backend.list_xattr(self.inode).await?;
        if self.header.uid != 0 {
            // As other file systems do; the kernel hides their values, but not their names.
            names.retain(|name| !name.starts_with(b"trusted."));
        }
        let mut list = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names {
            list.extend_from_slice(&name);
            list.push(0);
        }
        sized(list.into(), size)
    }

    pub(super) async fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Outcome {
        if is_unsupported(name) {
            return Err(Failure::Errno(libc::EOPNOTSUPP));
        }
        if value.len() > XATTR_SIZE_MAX {
            return Err(Failure::Errno(libc::E2BIG));
        }
        self.server.backend.set_xattr(self.inode, name, Bytes::copy_from_slice(value), flags).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn removexattr(&self, name: &[u8]) -> Outcome {
        if is_unsupported(name) {
            return Err(Failure::Errno(libc::EOPNOTSUPP));
        }
        self.server.backend.remove_xattr(self.inode, name).await?;
        Ok(Answer::Done)
    }
}

/// A value for a caller that has room for `size` bytes; 0 asks only how much is needed.
fn sized(value: Bytes, size: u32) -> Outcome {
    match (size as usize, value.len()) {
        (0, length) => Ok(Answer::value(&GetxattrOut { size: length as u32, padding: 0 })),
        (room, length) if room < length => Err(Failure::Errno(libc::ERANGE)),
        _ => Ok(Answer::Data(vec![value])),
    }
}
