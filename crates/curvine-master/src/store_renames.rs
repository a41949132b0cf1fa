//! Names of a mount move in its store first, and then in the log.
//!
//! Always: what was answered has happened in both. While a tree is moved nothing in it is made, written, uploaded or removed: a store
//! that copies and deletes key by key would leave it behind, or bring it back.

use curvine_proto::{
    Attr, FileKind, MountInfo, MutateReply, NoteTreeMove, Rename, StoreChangeKind, UfsEntry, UfsObject,
};
use curvine_types::{Error, ErrorKind, InodeId, Result};
use tokio::time::Instant;

use crate::change::Numbered;
use crate::keyed::Passage;
use crate::leader::Leader;
use crate::store_keys::TreeTurns;
use crate::store_names::{check_not_reserved, moved_away};
use crate::trash::has_directories;

/// Dirty files below a directory that a rename of it waits for.
const DIRTY_MAX: usize = 1000;
/// Attempts at a tree in which something becomes dirty, or is removed, again and again.
const ATTEMPTS: usize = 4;
const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

impl Leader {
    /// In the log, and within a mount in its store.
    pub(crate) async fn rename_anywhere(
        &self,
        (from, to): (Attr, Attr),
        numbered: Numbered,
        mut rename: Rename,
        deadline: Instant,
    ) -> Result<MutateReply> {
        // Whatever a client says of it.
        (rename.stored, rename.stored_generation) = (None, 0);
        if from.mount == 0 || from.mount != to.mount || rename.flags & (EXCHANGE | WHITEOUT) != 0 {
            return self.rename(numbered, rename, deadline).await;
        }
        Box::pin(self.rename_stored((from, to), numbered, rename, deadline)).await
    }

    async fn rename_stored(
        &self,
        (from, to): (Attr, Attr),
        numbered: Numbered,
        rename: Rename,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let mount = self.mount_of(&from)?;
        self.fault_in_name(&from, &rename.name, deadline).await?;
        self.fault_in_name(&to, &rename.new_name, deadline).await?;
        let source = self.name_now(from.inode, &rename.name)?;
        let target = self.name_now(to.inode, &rename.new_name)?;
        if let Some(target) = target.as_ref().filter(|target| target.kind() == FileKind::Directory) {
            self.ufs.forget_listing(target.inode);
            self.fault_in_listing(target, deadline).await?;
        }
        let _changes = self.gates(vec![from.inode, to.inode], deadline).await?;
        let writable = self.replica.state().read().0.check_writable(from.inode).is_ok();
        let Some(source) = source.filter(|_| writable) else { return self.rename(numbered, rename, deadline).await };
        let key = self.replica.state().read().0.key_of_new(to.inode, &rename.new_name, source.kind())?;
        check_not_reserved(&key)?;
        let is_dir = source.kind() == FileKind::Directory;
        let refused = target.as_ref().is_some_and(|target| {
            rename.flags & NOREPLACE != 0
                || target.inode == source.inode
                || (target.kind() == FileKind::Directory) != is_dir
                || is_dir && self.attr_now(target.inode).is_ok_and(|target| target.size > 0)
        });
        if refused || is_dir && self.is_within(to.inode, source.inode) {
            return self.rename(numbered, rename, deadline).await;
        }
        if !is_dir {
            return self.rename_file(&mount, numbered, rename, source, key, deadline).await;
        }
        self.rename_directory(&mount, numbered, rename, (source, target), key, deadline).await
    }

    /// The caller has the gates of both parents.
    async fn rename_directory(
        &self,
        mount: &MountInfo,
        numbered: Numbered,
        mut rename: Rename,
        (source, target): (Attr, Option<Attr>),
        key: String,
        deadline: Instant,
    ) -> Result<MutateReply> {
        // All gates before the trees: who looks may wait for somebody who waits for them.
        let _below = self.ufs_gates.change(source.inode, deadline).await?;
        let prefix = self.prefix_of(source.inode);
        if prefix.is_empty() {
            // A mount's own directory, which the log refuses.
            return self.rename(numbered, rename, deadline).await;
        }
        let trees = self.quiet_trees(mount, &prefix, &key, deadline).await?;
        self.check_source(&rename, &source, &key)?;
        let now = self.name_now(rename.new_parent, &rename.new_name)?;
        let is_as_seen = now.map(|now| now.inode) == target.map(|target| target.inode);
        if self.prefix_of(source.inode) != prefix || !is_as_seen {
            return Err(moved_away(source.inode));
        }
        if now.is_some_and(|now| now.size > 0) {
            // It may be what an earlier leader did not bring to its end.
            return Err(Error::new(ErrorKind::DirectoryNotEmpty, "there is something in the directory already")
                .with("key", key));
        }
        if let Some(target) = target {
            self.remove_directory(mount, target.inode, deadline).await?;
        }
        self.clear_key(mount, key.trim_end_matches('/'), deadline).await?;
        self.keep_directory(mount, rename.parent, deadline).await?;
        rename.stored = Some(UfsEntry { key: key.clone(), directory: true, ..Default::default() });
        let note = NoteTreeMove {
            mount: mount.id,
            from: prefix,
            to: key,
            rename: Some(rename.clone()),
            session: numbered.session,
            sequence: numbered.sequence,
            ..NoteTreeMove::default()
        };
        let moving = self.begin_tree_move(note, trees, deadline).await?;
        let moving = self.move_tree(moving).await.inspect_err(|_| self.ufs.forget_listing(source.inode))?;
        let reply = self.rename(numbered, rename, deadline).await;
        self.ufs.forget_listing(source.inode);
        self.end_tree_move(moving);
        reply
    }

    /// The turn of a tree and of its new place, with nothing in the one that waits to be uploaded and nothing in either that was
    /// removed and is still in the store: it would move along, or be in the way.
    async fn quiet_trees(&self, mount: &MountInfo, prefix: &str, key: &str, deadline: Instant) -> Result<TreeTurns> {
        for _ in 0..ATTEMPTS {
            self.store_below(mount, prefix).await?;
            for tree in [prefix, key] {
                self.clear_below(mount, tree, deadline).await?;
            }
            let trees = self.uploads.keys.trees(mount.id, &[prefix, key], deadline).await?;
            let is_clean = self.replica.state().read().0.dirty_below(mount.id, prefix, 1).is_empty();
            if is_clean && ![prefix, key].iter().any(|tree| self.has_trash_below(mount.id, tree)) {
                return Ok(trees);
            }
        }
        Err(Error::new(ErrorKind::Busy, "files below the directory are written or removed all the time")
            .with("key", prefix))
    }

    /// `Stale` if what is to be moved is not there any more, or the new name has another key by now.
    fn check_source(&self, rename: &Rename, source: &Attr, key: &str) -> Result<()> {
        self.check_still(rename.parent, &rename.name, source.inode)?;
        self.check_attached(rename.new_parent)?;
        let now = self.replica.state().read().0.key_of_new(rename.new_parent, &rename.new_name, source.kind())?;
        if now == key { Ok(()) } else { Err(moved_away(source.inode)) }
    }

    async fn rename_file(
        &self,
        mount: &MountInfo,
        numbered: Numbered,
        mut rename: Rename,
        source: Attr,
        key: String,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let before = self.stored(source.inode)?;
        if has_directories(mount) {
            self.clear_below(mount, &format!("{key}/"), deadline).await?;
        }
        let _turns = self.uploads.keys.turns(mount.id, &[&before.key, &key], deadline).await?;
        self.check_source(&rename, &source, &key)?;
        // An upload may have ended while we waited.
        let now = self.stored(source.inode)?;
        if now.key != before.key {
            return Err(moved_away(source.inode));
        }
        self.keep_directory(mount, rename.parent, deadline).await?;
        self.clear_key(mount, &key, deadline).await?;
        match now.object {
            None => self.delete_object(mount, &now, deadline).await?,
            ref object => {
                let moved =
                    self.change_store(mount, StoreChangeKind::Move, &now.key, &key, object.clone(), deadline).await?;
                let entry =
                    moved.entry.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a worker did not say what it moved"))?;
                let UfsObject { size, mtime, etag, .. } = entry;
                rename.stored = Some(UfsEntry { key, size, mtime, etag, ..Default::default() });
                rename.stored_generation = now.generation;
            }
        }
        let (dir, name) = (rename.new_parent, rename.new_name.clone());
        let reply = self.rename(numbered, rename, deadline).await?;
        self.ufs.made(dir, &name, source.inode, mount);
        self.upload_later(source.inode);
        Ok(reply)
    }

    /// Uploads the dirty files below a directory.
    async fn store_below(&self, mount: &MountInfo, prefix: &str) -> Result<()> {
        let dirty = self.replica.state().read().0.dirty_below(mount.id, prefix, DIRTY_MAX + 1);
        let busy = |what| Err(Error::new(ErrorKind::Busy, what).with("key", prefix));
        if dirty.len() > DIRTY_MAX {
            return busy("too many files below the directory wait to be uploaded");
        }
        for inode in dirty {
            if !self.store_file(inode).await? {
                return busy("a file below the directory is being written");
            }
        }
        Ok(())
    }

    fn is_within(&self, mut dir: InodeId, tree: InodeId) -> bool {
        let state = self.replica.state().read();
        loop {
            if dir == tree {
                return true;
            }
            match state.0.parent(dir) {
                Ok(parent) if parent != dir => dir = parent,
                _ => return false,
            }
        }
    }

    /// The gates of some directories, for a change.
    pub(crate) async fn gates(&self, mut dirs: Vec<InodeId>, deadline: Instant) -> Result<Vec<Passage<'_, InodeId>>> {
        dirs.sort_unstable();
        dirs.dedup();
        let mut passages = Vec::new();
        for dir in dirs {
            passages.push(self.ufs_gates.change(dir, deadline).await?);
        }
        Ok(passages)
    }
}
