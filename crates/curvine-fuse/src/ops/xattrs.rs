//! Extended attributes.

use bytes::Bytes;
use curvine_fuse_abi::kernel::GetxattrOut;
use curvine_types::limits::XATTR_SIZE_MAX;

use super::Call;
use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;

fn is_acl(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Answered by the mount and listed nowhere: how the kernel does the I/O of the file now, and why.
const STATUS: &[u8] = b"curvine.status";

impl<B: Backend> Call<'_, B> {
    fn status(&self) -> String {
        let (open, passthrough) = (self.server.modes.describe(self.inode), &self.server.passthrough);
        let off = passthrough.off().map(|why| format!("; passthrough is off: {why}")).unwrap_or_default();
        let attributes = match self.server.backend.try_getattr(self.inode) {
            Some((_, left)) => format!("attributes are believed for {:.1} s more, under a lease", left.as_secs_f64()),
            None => "attributes are asked for each time".to_string(),
        };
        format!("{open}{off}; {attributes}")
    }

    /// A list that nobody checks would be a lie: in a session that a kernel without them began, there are none.
    fn check_namespace(&self, name: &[u8]) -> Result<(), Failure> {
        match name.starts_with(b"system.") && !(is_acl(name) && self.server.acls) {
            true => Err(Failure::Errno(libc::EOPNOTSUPP)),
            false => Ok(()),
        }
    }

    pub(super) async fn getxattr(&self, name: &[u8], size: u32) -> Outcome {
        self.check_namespace(name)?;
        if name == STATUS {
            return sized(self.status().into(), size);
        }
        // The kernel asks for the list of each file and directory that somebody else than its owner uses.
        if is_acl(name) && !self.server.backend.getattr(self.inode).await?.0.acl {
            return Err(Failure::Errno(libc::ENODATA));
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

    pub(super) async fn setxattr(&self, name: &[u8], value: &[u8], flags: u32, kill_setgid: bool) -> Outcome {
        self.check_namespace(name)?;
        if value.len() > XATTR_SIZE_MAX {
            return Err(Failure::Errno(libc::E2BIG));
        }
        let value = Bytes::copy_from_slice(value);
        self.server.backend.set_xattr_with(self.inode, name, value, flags, kill_setgid).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn removexattr(&self, name: &[u8]) -> Outcome {
        self.check_namespace(name)?;
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
