//! Attributes, extended attributes, totals.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    Attr, GetAttrReply, GetAttrRequest, GetXattrReply, GetXattrRequest, ListXattrReply, ListXattrRequest, Method,
    RemoveXattr, SetAttr, SetXattr, StatFsReply, StatFsRequest, TruncateFileRequest,
};
use curvine_types::{Error, ErrorKind, InodeId, Result};

use crate::FileSystem;
use crate::clock::boot_time;
use crate::core::Core;
use crate::mutation::{Done, Touched};
use crate::names::present;

impl Core {
    pub(crate) async fn ask_attr(&self, inode: InodeId, deadline: tokio::time::Instant) -> Result<(Attr, Duration)> {
        let request = |session| GetAttrRequest { session, inode };
        let (reply, ticket) = match self.ask::<_, GetAttrReply>(Method::GetAttr, request, deadline).await {
            Err(error) if error.kind() == ErrorKind::Stale => {
                return self.graves.find(inode).map(|attr| (attr, Duration::ZERO)).ok_or(error);
            }
            answered => answered?,
        };
        self.cache.grant(&ticket, &reply.leases, boot_time());
        Ok(self.settle(&ticket, present(reply.attr)?))
    }
}

/// Takes the attributes of an outcome.
fn settle_attr(core: &Arc<Core>, done: Done) -> Result<(Attr, Duration)> {
    let attr = present(done.outcome.attr)?;
    core.saw(&attr);
    Ok(core.cache.changed_attr(&done.ticket, attr, boot_time()))
}

/// Whether anything but the size is to be set.
fn sets_more_than_size(change: &SetAttr) -> bool {
    let SetAttr { mode, uid, gid, atime, mtime, ctime, atime_now, mtime_now, .. } = change;
    mode.is_some()
        || uid.is_some()
        || gid.is_some()
        || atime.is_some()
        || mtime.is_some()
        || ctime.is_some()
        || *atime_now
        || *mtime_now
}

impl FileSystem {
    /// From the cache, without waiting; `None`: ask `getattr`.
    pub fn try_getattr(&self, inode: InodeId) -> Option<(Attr, Duration)> {
        self.core.cache.attr(inode, boot_time())
    }

    /// Names the lease that is held on the inode: while it is the same, nobody else has changed the inode. `None`: there is none.
    pub fn tenure(&self, inode: InodeId) -> Option<u64> {
        self.core.cache.tenure(inode, boot_time())
    }

    /// The attributes and how long they may be believed.
    pub async fn getattr(&self, inode: InodeId) -> Result<(Attr, Duration)> {
        match self.try_getattr(inode) {
            Some(known) => Ok(known),
            None => self.core.ask_attr(inode, self.core.deadline()).await,
        }
    }

    /// Changes attributes; `change.inode` is set from `inode`. A size takes the way of a truncation, before all else.
    pub async fn setattr(&self, inode: InodeId, mut change: SetAttr) -> Result<(Attr, Duration)> {
        change.inode = inode;
        if let Some(size) = change.size.take() {
            let truncated = self.truncate(inode, size, change.kill_privileges).await?;
            if !sets_more_than_size(&change) {
                return Ok(truncated);
            }
        }
        let touched = Touched::inode(inode);
        self.core.mutate(CommandBody::SetAttr(change), touched, self.core.deadline(), settle_attr).await?
    }

    /// Sets the size of a file. Runs to its end even if the caller gives up.
    pub(crate) async fn truncate(&self, inode: InodeId, size: u64, kill_privileges: bool) -> Result<(Attr, Duration)> {
        let core = self.core.clone();
        let deadline = core.data_deadline();
        core.clone()
            .detached(Touched::inode(inode), deadline, async move {
                let worker = core.workers.local(&core, deadline).await;
                let request = |session| TruncateFileRequest {
                    session,
                    inode,
                    size,
                    kill_privileges,
                    worker,
                    caller: core.caller(),
                };
                let truncated = core.ask::<_, GetAttrReply>(Method::TruncateFile, request, deadline).await;
                if let Some(file) = core.opens.get(inode) {
                    file.drop_layout();
                    file.written(&core);
                }
                match truncated {
                    Ok((reply, ticket)) => {
                        core.cache.grant(&ticket, &reply.leases, boot_time());
                        Ok(core.cache.changed_attr(&ticket, present(reply.attr)?, boot_time()))
                    }
                    Err(error) => {
                        core.cache.doubt(&[inode]);
                        Err(error)
                    }
                }
            })
            .await
    }

    /// Sets an extended attribute. `flags`: CREATE 1, REPLACE 2.
    pub async fn set_xattr(&self, inode: InodeId, name: &[u8], value: Bytes, flags: u32) -> Result<()> {
        self.set_xattr_with(inode, name, value, flags, false).await
    }

    /// The same. `kill_setgid`: of an access ACL, that is set by somebody outside the inode's group.
    pub async fn set_xattr_with(
        &self,
        inode: InodeId,
        name: &[u8],
        value: Bytes,
        flags: u32,
        kill_setgid: bool,
    ) -> Result<()> {
        let set = SetXattr { inode, name: Bytes::copy_from_slice(name), value, flags, kill_setgid };
        let touched = Touched::inode(inode);
        let settle = |core: &Arc<Core>, done: Done| settle_attr(core, done).map(|_| ());
        self.core.mutate(CommandBody::SetXattr(set), touched, self.core.deadline(), settle).await?
    }

    /// The value of an extended attribute. The kernel asks for `security.capability` before the first write to a file.
    pub async fn get_xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        if self.is_plain(inode) {
            return Err(Error::new(ErrorKind::NoAttribute, "no such attribute").with("inode", inode));
        }
        let request = |session| GetXattrRequest { session, inode, name: Bytes::copy_from_slice(name) };
        let (reply, _) = self.core.ask::<_, GetXattrReply>(Method::GetXattr, request, self.core.deadline()).await?;
        Ok(reply.value)
    }

    /// The names of all extended attributes.
    pub async fn list_xattr(&self, inode: InodeId) -> Result<Vec<Bytes>> {
        if self.is_plain(inode) {
            return Ok(Vec::new());
        }
        let request = |session| ListXattrRequest { session, inode };
        let (reply, _) = self.core.ask::<_, ListXattrReply>(Method::ListXattr, request, self.core.deadline()).await?;
        Ok(reply.names)
    }

    /// Whether it is known to have no extended attributes.
    fn is_plain(&self, inode: InodeId) -> bool {
        self.core.cache.attr(inode, boot_time()).is_some_and(|(attr, _)| attr.plain)
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(&self, inode: InodeId, name: &[u8]) -> Result<()> {
        let remove = RemoveXattr { inode, name: Bytes::copy_from_slice(name) };
        let touched = Touched::inode(inode);
        let settle = |core: &Arc<Core>, done: Done| settle_attr(core, done).map(|_| ());
        self.core.mutate(CommandBody::RemoveXattr(remove), touched, self.core.deadline(), settle).await?
    }

    /// Totals over all workers, or what the quotas of a directory and those above it leave; 0: no directory.
    pub async fn statfs(&self, dir: InodeId) -> Result<StatFsReply> {
        let request = |session| StatFsRequest { session, inode: dir };
        let (reply, _) = self.core.ask::<_, StatFsReply>(Method::StatFs, request, self.core.deadline()).await?;
        Ok(reply)
    }
}
