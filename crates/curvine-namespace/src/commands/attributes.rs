//! SetAttr: mode, owner, times, and sizes that need no worker.

use curvine_proto::{Outcome, SetAttr};
use curvine_types::limits::{FILE_SIZE_MAX, INLINE_MAX};
use curvine_types::{ErrorKind, InodeId, Result};

use crate::record::*;
use crate::state::{State, fail};
use crate::store::Store;

impl State {
    pub(super) fn set_attr(&mut self, command: &SetAttr) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.inode(id)?;
        self.check_writable(id, &inode)?;
        if let Some(size) = command.size {
            check_size(id, &inode, size)?;
            self.check_growth(&inode, size)?;
            self.resize(id, &inode, size);
        }
        let now = self.meta.now;
        let mode = new_mode(&inode, command);
        if command.mode.is_some() {
            self.chmod_acl(id, &inode, mode);
        }
        self.edit(id, |inode| {
            inode.set_mode(mode);
            inode.uid = command.uid.unwrap_or(inode.uid);
            inode.gid = command.gid.unwrap_or(inode.gid);
            if command.size.is_some() {
                inode.mtime = inode.mtime.advanced(now);
            }
            match command.atime {
                _ if command.atime_now => inode.atime = now,
                Some(time) => inode.atime = time.into(),
                None => {}
            }
            match command.mtime {
                _ if command.mtime_now => inode.mtime = now,
                Some(time) => inode.mtime = time.into(),
                None => {}
            }
            inode.changed(command.ctime.map_or(now, Into::into));
        });
        Ok(Outcome {
            attr: self.attr(id),
            layout: self.layout(id, false),
            epoch: self.grants.get(&id).map_or(0, |grant| grant.epoch),
            ..Outcome::default()
        })
    }

    /// Cuts or extends content; the size has been checked.
    fn resize(&mut self, id: InodeId, inode: &Inode, size: u64) {
        if size == 0 {
            return self.start_generation(id, inode);
        }
        let mut data = self.store.inline(id).map(|data| data.to_vec()).unwrap_or_default();
        data.resize(size as usize, 0);
        self.set_inline(id, &data);
        self.edit(id, |inode| inode.size = size);
    }
}

fn check_size(id: InodeId, inode: &Inode, size: u64) -> Result<()> {
    let problem = if inode.is_dir() {
        (ErrorKind::IsADirectory, "a directory has no content to cut")
    } else if !inode.is_file() {
        (ErrorKind::InvalidArgument, "only a file has content to cut")
    } else if size == 0 {
        return Ok(());
    } else if size > FILE_SIZE_MAX {
        (ErrorKind::FileTooLarge, "the file would be too large")
    } else if !inode.is_inline() {
        (ErrorKind::Conflict, "the content is on workers; cut it there")
    } else if size > INLINE_MAX as u64 {
        (ErrorKind::FileTooLarge, "too large for inline content; place the file first")
    } else {
        return Ok(());
    };
    Err(fail(problem.0, problem.1).with("inode", id).with("length", size))
}

/// The mode after the command: as given, or without the privileges that the change takes away.
fn new_mode(inode: &Inode, command: &SetAttr) -> u32 {
    if let Some(mode) = command.mode {
        return mode;
    }
    if !command.kill_privileges || inode.is_dir() {
        return inode.mode();
    }
    without_privileges(inode.mode())
}

/// What a write or a change of owner leaves of a mode: no setuid, and setgid only where it does not mean execution as the group.
pub(super) fn without_privileges(mode: u32) -> u32 {
    let killed = if mode & S_IXGRP != 0 { S_ISUID | S_ISGID } else { S_ISUID };
    mode & !killed
}
