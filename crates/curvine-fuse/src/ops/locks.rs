//! Record locks and flock, held at the master so that all mounts respect them.

use curvine_fuse_abi::kernel::{LK_FLOCK, LkIn};
use curvine_proto::{LockType, SetLock};
use curvine_types::ErrorKind;

use super::Call;
use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;
use crate::convert;

impl<B: Backend> Call<'_, B> {
    pub(super) async fn getlk(&self, args: &LkIn) -> Outcome {
        let lock = convert::lock(args).ok_or(Failure::Errno(libc::EINVAL))?;
        let holder = self.server.backend.getlk(self.inode, lock).await?;
        Ok(Answer::value(&convert::conflict(holder.as_ref())))
    }

    pub(super) async fn setlk(&self, args: &LkIn, wait: bool) -> Outcome {
        let lock = convert::lock(args).ok_or(Failure::Errno(libc::EINVAL))?;
        let takes = lock.r#type() != LockType::Unlock;
        if takes && args.flags & LK_FLOCK == 0 {
            // Before the request: whatever becomes of it, the close will drop it.
            self.server.locks.note(self.inode, args.fh, lock.owner);
        }
        // What nobody knows of is given back first: its owner may be the same.
        self.server.interrupts.giving_back.clear([self.header.nodeid; 2]).await;
        let mut set = self.server.backend.setlk(self.inode, lock, wait && takes).await;
        if set.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
            && self.server.locks.released(self.inode).await
        {
            set = self.server.backend.setlk(self.inode, lock, false).await;
        }
        set?;
        if takes {
            let undo = SetLock { r#type: LockType::Unlock.into(), ..lock };
            Ok(Answer::Locked { inode: self.inode, undo })
        } else {
            Ok(Answer::Done)
        }
    }
}
