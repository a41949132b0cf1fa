//! Names: looking them up, making and removing them.

use std::time::Duration;

use curvine_client::{Entry, NewNode};
use curvine_fuse_abi::kernel::EntryOut;
use curvine_fuse_abi::reply::{entry_out, negative_entry_out};
use curvine_types::Name;
use curvine_types::limits::SYMLINK_MAX;

use super::Call;
use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;
use crate::convert;

impl<B: Backend> Call<'_, B> {
    pub(super) async fn lookup(&self, name: &[u8]) -> Outcome {
        let (server, name) = (self.server, Name::new(name)?);
        let found = match server.backend.try_lookup(self.inode, &name) {
            Some(known) => known,
            None => server.backend.lookup(self.inode, &name).await?,
        };
        match found.entry {
            Some(entry) => Ok(Answer::value(&self.entry(&entry))),
            None => {
                let ttl = server.cap_name(found.negative_ttl);
                if ttl > Duration::ZERO {
                    Ok(Answer::value(&negative_entry_out(ttl)))
                } else {
                    Err(Failure::Errno(libc::ENOENT))
                }
            }
        }
    }

    pub(super) async fn readlink(&self) -> Outcome {
        Ok(Answer::Data(vec![self.server.backend.readlink(self.inode).await?]))
    }

    pub(super) async fn symlink(&self, name: &[u8], target: &[u8]) -> Outcome {
        if target.is_empty() {
            return Err(Failure::Errno(libc::ENOENT));
        }
        if target.len() > SYMLINK_MAX {
            return Err(Failure::Errno(libc::ENAMETOOLONG));
        }
        let entry = self.server.backend.symlink(self.inode, &Name::new(name)?, target, self.owner(0o777, 0)).await?;
        Ok(Answer::value(&self.entry(&entry)))
    }

    pub(super) async fn mknod(&self, name: &[u8], mode: u32, umask: u32, rdev: u32) -> Outcome {
        let kind = convert::node_kind(mode).ok_or(Failure::Errno(libc::EINVAL))?;
        let (name, owner) = (Name::new(name)?, self.owner(mode, umask));
        let entry = self.server.backend.mknod(self.inode, &name, owner, kind, rdev).await?;
        Ok(Answer::value(&self.entry(&entry)))
    }

    pub(super) async fn mkdir(&self, name: &[u8], mode: u32, umask: u32) -> Outcome {
        let entry = self.server.backend.mkdir(self.inode, &Name::new(name)?, self.owner(mode, umask)).await?;
        Ok(Answer::value(&self.entry(&entry)))
    }

    pub(super) async fn link(&self, node: u64, name: &[u8]) -> Outcome {
        let inode = self.server.inode(node);
        let entry = self.server.backend.link(inode, self.inode, &Name::new(name)?).await?;
        Ok(Answer::value(&self.entry(&entry)))
    }

    pub(super) async fn unlink(&self, name: &[u8]) -> Outcome {
        self.server.backend.unlink(self.inode, &Name::new(name)?).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn rmdir(&self, name: &[u8]) -> Outcome {
        self.server.backend.rmdir(self.inode, &Name::new(name)?).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn rename(&self, name: &[u8], new_parent: u64, new_name: &[u8], flags: u32) -> Outcome {
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT) != 0 {
            return Err(Failure::Errno(libc::EINVAL));
        }
        let (name, new_name) = (Name::new(name)?, Name::new(new_name)?);
        let new_parent = self.server.inode(new_parent);
        if flags & libc::RENAME_WHITEOUT != 0 {
            let owner = (self.header.uid, self.header.gid);
            self.server.backend.rename_as(self.inode, &name, new_parent, &new_name, flags, owner).await?;
        } else {
            self.server.backend.rename(self.inode, &name, new_parent, &new_name, flags).await?;
        }
        Ok(Answer::Done)
    }

    /// Who owns what the caller makes. A kernel that has applied the umask itself sends it too.
    fn owner(&self, mode: u32, umask: u32) -> NewNode {
        NewNode { mode: convert::permissions(mode), umask, uid: self.header.uid, gid: self.header.gid }
    }

    pub(super) fn entry(&self, entry: &Entry) -> EntryOut {
        let (attr, ttl) = self.attr_now(&entry.attr, entry.attr_ttl);
        entry_out(&attr, self.server.cap_name(entry.entry_ttl), ttl)
    }
}
