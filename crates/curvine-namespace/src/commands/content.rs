//! Content: inline bytes, placing them on a worker, sizes that workers have made durable, garbage.
//!
//! Always: inline content is exactly as long as the inode's size, and none is kept for empty files; `BLOCKS` is set if and only
//! if there is a record of blocks; `LIVE` if and only if the inode is in `live`, and only with `BLOCKS`.

use std::sync::Arc;

use curvine_proto::{CommitSize, ForgetGarbage, Outcome, PlaceBlocks, SetLive, WriteInline};
use curvine_types::limits::{FILE_SIZE_MAX, INLINE_MAX};
use curvine_types::{ErrorKind, InodeId, Result};

use super::attributes::without_privileges;
use crate::record::*;
use crate::stamp::Stamp;
use crate::state::{State, fail};
use crate::store::Store;

impl State {
    /// Sets the bytes of inline content or of a symlink; the inode's size is the caller's business.
    pub(super) fn set_inline(&mut self, id: InodeId, data: &[u8]) {
        let before = self.store.inline(id).map_or(0, |data| data.len());
        if data.is_empty() {
            self.store.remove_inline(id);
        } else {
            self.store.put_inline(id, data.into());
        }
        let bytes = &mut self.meta.tally.inline_bytes;
        *bytes = bytes.saturating_sub(before as u64) + data.len() as u64;
    }

    /// Forgets where an inode's content is; what workers hold of it becomes garbage. The inode is not changed.
    pub fn drop_content(&mut self, id: InodeId, inode: &Inode) {
        if inode.has(BLOCKS)
            && let Some(Placed::Blocks(blocks)) = self.store.placed(id).as_deref()
        {
            for worker in blocks.extents.iter().flat_map(|extent| &extent.workers) {
                self.garbage.insert((*worker, id, inode.content), ());
            }
        }
        if inode.has(BLOCKS) || inode.is_object() {
            self.store.remove_placed(id);
        } else {
            self.set_inline(id, &[]);
        }
        if inode.has(LIVE) {
            self.live.remove(&id);
        }
    }

    /// Replaces a file's content by a new, empty one. Writers stay, but must look again.
    pub(super) fn start_generation(&mut self, id: InodeId, inode: &Inode) {
        if inode.is_object() {
            self.begin_upload_over(id, inode);
        }
        self.drop_content(id, inode);
        self.edit(id, |inode| {
            inode.set(LIVE | BLOCKS, false);
            inode.content += 1;
            inode.size = 0;
        });
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.epoch += 1;
        }
        self.drop_idle_grant(id);
    }

    pub(super) fn write_inline(&mut self, command: &WriteInline) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.file(id)?;
        self.check_writable(id, &inode)?;
        if !inode.is_inline() {
            return Err(fail(ErrorKind::Conflict, "the content is on workers; write it there").with("inode", id));
        }
        let offset = if command.append { inode.size } else { command.offset };
        let end = offset.saturating_add(command.data.len() as u64);
        if end > INLINE_MAX as u64 {
            return Err(fail(ErrorKind::FileTooLarge, "too large for inline content; place the file first")
                .with("inode", id)
                .with("length", end));
        }

        self.check_growth(&inode, end)?;
        if !command.data.is_empty() {
            let mut data = self.store.inline(id).map(|data| data.to_vec()).unwrap_or_default();
            data.resize(data.len().max(end as usize), 0);
            if let Some(place) = data.get_mut(offset as usize..end as usize) {
                place.copy_from_slice(&command.data);
            }
            self.set_inline(id, &data);
            let now = self.meta.now;
            self.edit(id, |inode| {
                inode.size = data.len() as u64;
                inode.mtime = inode.mtime.advanced(now);
                if command.kill_privileges {
                    inode.set_mode(without_privileges(inode.mode()));
                }
                inode.changed(now);
            });
        }
        Ok(Outcome { attr: self.attr(id), id: offset, ..Outcome::default() })
    }

    pub(super) fn place_blocks(&mut self, command: &PlaceBlocks) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.file(id)?;
        self.check_writable(id, &inode)?;
        if !inode.is_inline() || inode.change != command.change {
            return Err(fail(ErrorKind::Conflict, "the file has changed since the worker got its bytes")
                .with("inode", id)
                .with("have", inode.change)
                .with("want", command.change));
        }
        self.check_takes_content(command.worker)?;
        if command.block_size == 0 {
            return Err(fail(ErrorKind::InvalidArgument, "a block size is above zero").with("inode", id));
        }

        self.check_quota_room(&inode, false)?;
        self.set_inline(id, &[]);
        let extent = Extent { first_block: 0, block_count: 0, version: 1, workers: vec![command.worker] };
        let allocated = inode.size.div_ceil(512);
        let blocks = Blocks { block_size: command.block_size, allocated, extents: vec![extent] };
        self.store.put_placed(id, Arc::new(Placed::Blocks(blocks)));
        self.live.insert(id, ());
        self.edit(id, |inode| {
            inode.set(BLOCKS | LIVE, true);
            inode.change += 1;
        });
        if !self.grants.contains(&id) {
            self.grants.insert(id, GrantRecord { epoch: 1, writers: Vec::new() });
        }
        Ok(self.content_outcome(id))
    }

    pub(super) fn set_live(&mut self, command: &SetLive) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.blocks_file(id)?;
        if command.fence
            && let Some(grant) = self.grants.get_mut(&id)
        {
            grant.epoch += 1;
        }
        if command.fence || !inode.has(LIVE) {
            self.live.insert(id, ());
            self.edit(id, |inode| {
                inode.set(LIVE, true);
                inode.change += 1;
            });
        }
        Ok(self.content_outcome(id))
    }

    pub(super) fn commit_size(&mut self, command: &CommitSize) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.blocks_file(id)?;
        let grant = self.grants.get(&id);
        let epoch = grant.map_or(0, |grant| grant.epoch);
        if !inode.has(LIVE) || inode.content != command.generation || epoch != command.epoch {
            return Err(fail(ErrorKind::Conflict, "the content is sealed, or another one by now")
                .with("inode", id)
                .with("generation", inode.content)
                .with("epoch", epoch));
        }
        if command.seal && !command.with_writers && grant.is_some_and(|grant| !grant.writers.is_empty()) {
            return Err(fail(ErrorKind::Conflict, "the file has writers").with("inode", id));
        }
        if command.size > FILE_SIZE_MAX {
            return Err(fail(ErrorKind::FileTooLarge, "the file is too large").with("length", command.size));
        }

        if let Some(Placed::Blocks(blocks)) = self.store.placed(id).as_deref() {
            let blocks = Blocks { allocated: command.blocks, ..blocks.clone() };
            self.store.put_placed(id, Arc::new(Placed::Blocks(blocks)));
        }
        if command.seal {
            self.live.remove(&id);
        }
        self.edit(id, |inode| {
            inode.set(LIVE, !command.seal);
            inode.size = command.size;
            inode.mtime = command.mtime.map_or(inode.mtime, Stamp::from);
            inode.ctime = command.ctime.map_or(inode.ctime, |time| inode.ctime.max(time.into()));
            inode.change += 1;
        });
        Ok(self.content_outcome(id))
    }

    pub(super) fn forget_garbage(&mut self, command: &ForgetGarbage) -> Result<Outcome> {
        let known = command.items.iter();
        let forgotten =
            known.filter(|item| self.garbage.remove(&(item.worker, item.inode, item.generation)).is_some()).count();
        Ok(Outcome { id: forgotten as u64, ..Outcome::default() })
    }

    /// A regular file that must exist.
    pub(super) fn file(&self, id: InodeId) -> Result<Inode> {
        let inode = self.inode(id)?;
        if inode.is_dir() {
            return Err(fail(ErrorKind::IsADirectory, "a directory").with("inode", id));
        }
        if !inode.is_file() {
            return Err(fail(ErrorKind::InvalidArgument, "not a regular file").with("inode", id));
        }
        Ok(inode)
    }

    fn blocks_file(&self, id: InodeId) -> Result<Inode> {
        let inode = self.file(id)?;
        if !inode.has(BLOCKS) {
            return Err(fail(ErrorKind::Conflict, "the content is not in blocks").with("inode", id));
        }
        Ok(inode)
    }

    pub(super) fn content_outcome(&self, id: InodeId) -> Outcome {
        Outcome {
            attr: self.attr(id),
            layout: self.layout(id, false),
            epoch: self.grants.get(&id).map_or(0, |grant| grant.epoch),
            ..Outcome::default()
        }
    }
}
