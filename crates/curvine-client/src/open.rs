//! Opening, making, flushing and releasing files.
//!
//! Always: an open that the master has counted is registered here or given back, even if the caller has gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    Attr, Create, DataMode, Empty, FileKind, FlushToStoreReply, FlushToStoreRequest, FsyncRequest, InlineLayout,
    Layout, Method, OpenReply, OpenRequest, layout,
};
use curvine_rpc::{Body, detached};
use curvine_types::{Error, ErrorKind, InodeId, Name, Result};
use tokio::time::Instant;

use crate::clock::boot_time;
use crate::core::{Core, Pause};
use crate::handle::Open;
use crate::mutation::{Done, Touched};
use crate::names::present;
use crate::{Entry, FileSystem, Handle, NewFile, OpenFlags};

impl Core {
    async fn open_now(self: &Arc<Self>, inode: InodeId, flags: OpenFlags, deadline: Instant) -> Result<Handle> {
        self.opens.check_limit()?;
        let mut pause = Pause::new(deadline);
        loop {
            let conn = self.master.declared(deadline).await?;
            let ticket = self.ticket(&conn);
            let epoch_sent = self.opens.epoch_now();
            let OpenFlags { read, write, .. } = flags;
            let request = OpenRequest { session: conn.session, inode, write, caller: self.caller(), read };
            let error = match conn.peer.call::<_, OpenReply>(Method::Open, &request, Body::Empty, deadline).await {
                Ok((reply, _)) => match self.opens.register(self, conn.serial(), inode, write) {
                    Some(file) => {
                        // From here on the open ends with the handle, whatever fails.
                        let (mode, epoch) = (reply.mode(), reply.epoch);
                        let generation = reply.attr.as_ref().map_or(0, |attr| attr.generation);
                        self.cache.grant(&ticket, &reply.leases, boot_time());
                        let handle = Handle(Arc::new(Open::new(self, file, flags, conn.session, generation)));
                        let attr = present(reply.attr)?;
                        let file = &handle.0.file;
                        file.saw(&attr);
                        file.set_mode(mode);
                        file.belongs_to(attr.mount);
                        file.opened(self, reply.layout, &attr, epoch, epoch_sent)?;
                        self.settle_opened(&ticket, attr, write);
                        return Ok(handle);
                    }
                    // Not counted any more by the master that we talk to now.
                    None => Error::new(ErrorKind::ConnectionLost, "the connection broke while the file was opened"),
                },
                Err(error) => {
                    if error.kind() == ErrorKind::TimedOut {
                        // It may have been counted. Only a new declaration makes that certain.
                        conn.peer.close();
                    }
                    if !self.master.recovers(&conn, &error) {
                        return Err(error);
                    }
                    error
                }
            };
            pause.wait(error).await?;
        }
    }

    /// Opening for writing is a change of the file.
    fn settle_opened(&self, ticket: &crate::cache::Ticket, attr: Attr, write: bool) {
        if write {
            self.cache.changed_attr(ticket, attr, boot_time());
        } else {
            self.cache.settle_attr(ticket, attr, boot_time());
        }
    }

    /// The handle of a file that `create` made and opened, if the master still counts it.
    fn open_made(self: &Arc<Self>, done: &Done, attr: &Attr, flags: OpenFlags, epoch_sent: u64) -> Option<Handle> {
        let counted = done.outcome.created && done.mode != DataMode::Unknown;
        if !counted {
            return None;
        }
        let file = self.opens.register(self, done.serial, attr.inode, true)?;
        let handle = Handle(Arc::new(Open::new(self, file, flags, done.session, attr.generation)));
        let empty = Layout {
            generation: attr.generation,
            kind: Some(layout::Kind::Inline(InlineLayout { data: Bytes::new() })),
        };
        handle.0.file.set_mode(done.mode);
        handle.0.file.belongs_to(attr.mount);
        handle.0.file.opened(self, Some(empty), attr, done.outcome.epoch, epoch_sent).ok()?;
        Some(handle)
    }
}

impl FileSystem {
    /// Opens a file. Every handle is counted by the master until it is released.
    pub async fn open(&self, inode: InodeId, flags: OpenFlags) -> Result<Handle> {
        let (core, deadline) = (self.core.clone(), self.core.deadline());
        let opening = detached(async move { core.open_now(inode, flags, deadline).await });
        let handle = opening.await.map_err(crashed)??;
        // Whoever may write may also empty a file that is opened only for reading.
        if flags.truncate {
            self.truncate(inode, 0, false).await?;
        }
        Ok(handle)
    }

    /// Makes a file, or finds it if it exists and `exclusive` is not set, and opens it if asked.
    pub async fn create(&self, parent: InodeId, name: &Name, new: NewFile) -> Result<(Entry, Option<Handle>)> {
        let NewFile { mode, umask, uid, gid, exclusive, open } = new;
        self.core.opens.check_limit()?;
        // A file that is opened for reading only gets its open separately.
        let opened_along = open.filter(|flags| flags.write);
        let name = Bytes::copy_from_slice(name.as_bytes());
        let create = Create {
            parent,
            name: name.clone(),
            kind: FileKind::File as i32,
            mode,
            umask,
            uid,
            gid,
            grant_write: opened_along.is_some(),
            exclusive,
            ..Default::default()
        };
        let epoch_sent = self.core.opens.epoch_now();
        let settle = move |core: &Arc<Core>, done: Done| {
            let attr = present(done.outcome.attr)?;
            let made = done.outcome.created;
            let entry = core.settle_made(&done.ticket, done.outcome.parent.as_ref(), &name, attr);
            let handle = opened_along.and_then(|flags| core.open_made(&done, &entry.attr, flags, epoch_sent));
            Ok::<_, Error>((entry, handle, made))
        };
        let touched = Touched::dirs([parent]);
        let (mut entry, handle, made) =
            self.core.mutate(CommandBody::Create(create), touched, self.core.deadline(), settle).await??;
        let Some(flags) = open else { return Ok((entry, None)) };
        if let Some(handle) = handle {
            return Ok((entry, Some(handle)));
        }
        let flags = OpenFlags { truncate: flags.truncate && !made, ..flags };
        let handle = self.open(entry.attr.inode, flags).await?;
        (entry.attr, entry.attr_ttl) = self.getattr(entry.attr.inode).await?;
        Ok((entry, Some(handle)))
    }

    /// Makes a file without a name in the place of `parent` and opens it for writing; it is gone with its last close, unless a
    /// link gives it a name, which `new.exclusive` rules out.
    pub async fn create_unnamed(&self, parent: InodeId, new: NewFile) -> Result<(Entry, Handle)> {
        let NewFile { mode, umask, uid, gid, exclusive, open } = new;
        let flags = open
            .filter(|flags| flags.write)
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "a file without a name is opened for writing"))?;
        self.core.opens.check_limit()?;
        let kind = FileKind::File as i32;
        let create = Create {
            parent,
            kind,
            mode,
            umask,
            uid,
            gid,
            grant_write: true,
            exclusive,
            unnamed: true,
            ..Default::default()
        };
        let epoch_sent = self.core.opens.epoch_now();
        let settle = move |core: &Arc<Core>, done: Done| {
            let (attr, attr_ttl) = core.cache.changed_attr(&done.ticket, present(done.outcome.attr)?, boot_time());
            let handle = core.open_made(&done, &attr, flags, epoch_sent);
            Ok::<_, Error>((Entry { attr, entry_ttl: Duration::ZERO, attr_ttl }, handle))
        };
        let body = CommandBody::Create(create);
        let (entry, handle) = self.core.mutate(body, Touched::default(), self.core.deadline(), settle).await??;
        let handle = match handle {
            Some(handle) => handle,
            // Counted by a master that is no longer the one we talk to.
            None => self.open(entry.attr.inode, OpenFlags { truncate: false, ..flags }).await?,
        };
        Ok((entry, handle))
    }

    /// Returns at once; the master is told in the background, when the last clone is gone.
    pub fn release(&self, handle: Handle) {
        drop(handle);
    }

    /// A descriptor was closed. Everything that was written has been acknowledged already; of a file of an under file system the
    /// store has it, too, when this returns, unless the mount writes back or others write the file.
    pub async fn flush(&self, handle: &Handle) -> Result<()> {
        if !handle.flags().write {
            return Ok(());
        }
        handle.0.check_writable()?;
        let file = &handle.0.file;
        let Some(written) = file.unstored() else { return Ok(()) };
        let inode = file.inode;
        loop {
            let request = |session| FlushToStoreRequest { session, inode };
            let deadline = self.core.data_deadline();
            let (reply, _) = self.core.ask::<_, FlushToStoreReply>(Method::FlushToStore, request, deadline).await?;
            // Not done: it goes on, and the master sees to it that it ends.
            if reply.done {
                file.stored(written);
                return Ok(());
            }
        }
    }

    /// Makes what was written durable. The log is so already; a live file's bytes are with its primary worker.
    pub async fn fsync(&self, handle: &Handle, _datasync: bool) -> Result<()> {
        if handle.flags().write {
            handle.0.check_writable()?;
        }
        let (core, file) = (&self.core, &handle.0.file);
        let deadline = core.data_deadline();
        let mut pause = Pause::new(deadline);
        loop {
            let placed = file.layout(core, deadline).await?;
            let Some((content, worker)) = placed.primary(file.inode)? else { return Ok(()) };
            let request = FsyncRequest { content: Some(content) };
            let synced = core.workers.call::<_, Empty>(core, worker, Method::Fsync, &request, deadline).await;
            let Err(error) = synced else { return Ok(()) };
            if !crate::workers::may_pass(&error) {
                return Err(error);
            }
            file.drop_layout();
            pause.wait(error).await?;
        }
    }

    /// Whether a POSIX lock was taken through an open of this inode.
    pub(crate) fn has_locks(&self, inode: InodeId) -> bool {
        self.core.opens.get(inode).is_none_or(|file| file.locked.load(Ordering::SeqCst))
    }
}

pub(crate) fn crashed(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task of the client failed").caused_by(error)
}
