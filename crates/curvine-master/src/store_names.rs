//! Names of a mount are made, removed and moved in its store first, and then in the log.
//!
//! Always: what was answered has happened in both. If the master stops in between, nothing was answered, and the next look into the
//! store finds what it has. Nobody looks at names of a directory while they are changed here.

use std::time::Duration;

use bytes::Bytes;
use curvine_proto::layout::Kind;
use curvine_proto::{
    Attr, Create, FileKind, Method, MountInfo, MutateReply, Rename, StoreChangeKind, StoreChangeReply,
    StoreChangeRequest, UfsEntry, UfsObject, Unlink,
};
use curvine_types::{Error, ErrorKind, InodeId, Result};
use tokio::time::Instant;

use crate::change::Numbered;
use crate::keyed::Passage;
use crate::leader::Leader;
use crate::trash::{TRASH_DIR, has_directories};
use crate::uploads::key_number;

/// Directories with more objects are not renamed: EXDEV, so that `mv` copies and can be watched.
const RENAME_OBJECTS_MAX: u32 = 10_000;
/// Dirty files below a directory that a rename of it waits for.
const DIRTY_MAX: usize = 1000;
/// How long before the caller's deadline the store must have answered.
const MARGIN: Duration = Duration::from_millis(500);
const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

/// The store's directory of what was moved out of the way is no file's.
fn check_not_reserved(key: &str) -> Result<()> {
    if key.trim_end_matches('/') == TRASH_DIR {
        return Err(Error::new(ErrorKind::NotPermitted, "this name at the top of a mount is the trash's")
            .with("name", TRASH_DIR));
    }
    Ok(())
}

/// Where the content of a file of a mount is, as its store sees it.
struct Stored {
    key: String,
    /// The version that the store has; `None`: it waits to be uploaded.
    object: Option<UfsObject>,
    generation: u64,
    /// Of a file that waits: an upload of it that may not have ended.
    upload: String,
}

impl Leader {
    fn mount_of(&self, attr: &Attr) -> Result<MountInfo> {
        let mount = self.replica.state().read().0.mount(attr.mount);
        mount.ok_or_else(|| Error::new(ErrorKind::Stale, "unmounted").with("mount", attr.mount))
    }

    pub(crate) async fn change_store(
        &self,
        mount: &MountInfo,
        kind: StoreChangeKind,
        key: &str,
        to: &str,
        source: Option<UfsObject>,
        deadline: Instant,
    ) -> Result<StoreChangeReply> {
        let request = StoreChangeRequest {
            mount: mount.id,
            mount_change: mount.change,
            kind: kind as i32,
            key: key.to_string(),
            to: to.to_string(),
            source,
            incarnation: self.incarnation,
            limit: RENAME_OBJECTS_MAX,
            abort: String::new(),
        };
        let deadline = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        self.workers.call(self.any_worker()?, Method::StoreChange, &request, Bytes::new(), deadline).await
    }

    /// Takes the object of a file away, and an upload of it that may not have ended.
    async fn delete_object(&self, mount: &MountInfo, stored: &Stored, deadline: Instant) -> Result<()> {
        let request = StoreChangeRequest {
            mount: mount.id,
            mount_change: mount.change,
            kind: StoreChangeKind::Delete as i32,
            key: stored.key.clone(),
            incarnation: self.incarnation,
            abort: stored.upload.clone(),
            ..StoreChangeRequest::default()
        };
        let deadline = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        let worker = self.any_worker()?;
        self.workers
            .call::<_, StoreChangeReply>(worker, Method::StoreChange, &request, Bytes::new(), deadline)
            .await
            .map(|_| ())
    }

    fn stored(&self, inode: InodeId) -> Result<Stored> {
        let state = self.replica.state().read();
        let layout = state.0.layout(inode, false)?;
        match layout.kind {
            Some(Kind::Ufs(ufs)) => {
                let object = UfsObject {
                    key: ufs.key.clone(),
                    directory: false,
                    size: ufs.size,
                    mtime: ufs.mtime,
                    etag: ufs.etag,
                };
                Ok(Stored { key: ufs.key, object: Some(object), generation: layout.generation, upload: String::new() })
            }
            _ => {
                let job = state.0.upload_of(inode);
                let job =
                    job.ok_or_else(|| Error::new(ErrorKind::Conflict, "not a file of a mount").with("inode", inode))?;
                Ok(Stored { key: job.key, object: None, generation: layout.generation, upload: job.upload })
            }
        }
    }

    pub(crate) async fn create_stored(
        &self,
        parent: &Attr,
        numbered: Numbered,
        create: Create,
        deadline: Instant,
    ) -> Result<MutateReply> {
        if parent.mount == 0 || create.unnamed {
            return self.create(numbered, create, deadline).await;
        }
        let mount = self.mount_of(parent)?;
        self.fault_in_name(parent, &create.name, deadline).await?;
        let _change = self.ufs_gates.change(parent.inode, deadline).await?;
        let is_new = self.name_now(parent.inode, &create.name)?.is_none();
        let key = self.replica.state().read().0.key_of_new(parent.inode, &create.name, create.kind());
        check_not_reserved(key.as_deref().unwrap_or_default())?;
        if create.kind() == FileKind::Directory
            && is_new
            && let Ok(key) = key
        {
            let _turn = self.uploads.keys.lock(key_number(mount.id, &key), deadline).await?;
            self.clear_key(&mount, key.trim_end_matches('/'), deadline).await?;
            self.change_store(&mount, StoreChangeKind::MakeDirectory, &key, "", None, deadline).await?;
            return self.create(numbered, create, deadline).await;
        }
        let name = create.name.clone();
        let reply = self.create(numbered, create, deadline).await?;
        if let Some(made) = reply.outcome.as_ref().filter(|outcome| outcome.created).and_then(|outcome| outcome.attr) {
            self.ufs.made(parent.inode, &name, made.inode, &mount);
            // An empty file that is never opened for writing is stored, too.
            self.seal_later(made.inode);
        }
        Ok(reply)
    }

    /// A directory that an object store knows only by what is in it stays when the last of that goes.
    async fn keep_directory(&self, mount: &MountInfo, dir: InodeId, deadline: Instant) -> Result<()> {
        let prefix = {
            let state = self.replica.state().read();
            let prefix = state.0.ufs_dir(dir).map(|dir| dir.prefix).unwrap_or_default();
            if prefix.is_empty() || state.0.attr(dir)?.size > 1 {
                return Ok(());
            }
            prefix
        };
        self.change_store(mount, StoreChangeKind::MakeDirectory, &prefix, "", None, deadline).await.map(|_| ())
    }

    pub(crate) async fn unlink_stored(
        &self,
        parent: &Attr,
        numbered: Numbered,
        mut unlink: Unlink,
        deadline: Instant,
    ) -> Result<MutateReply> {
        // Whatever a client says of it.
        unlink.trash = false;
        if parent.mount == 0 {
            return self.unlink(numbered, unlink, deadline).await;
        }
        let mount = self.mount_of(parent)?;
        self.fault_in_name(parent, &unlink.name, deadline).await?;
        let child = self.name_now(parent.inode, &unlink.name)?;
        let writable = self.replica.state().read().0.check_writable(parent.inode).is_ok();
        let Some(child) = child.filter(|child| writable && (child.kind() == FileKind::Directory) == unlink.directory)
        else {
            // It fails, and the log says how.
            return self.unlink(numbered, unlink, deadline).await;
        };
        if unlink.directory {
            self.ufs.forget_listing(child.inode);
            self.fault_in_listing(&child, deadline).await?;
            let _change = self.ufs_gates.change(parent.inode, deadline).await?;
            let _below = self.ufs_gates.change(child.inode, deadline).await?;
            let prefix = self.replica.state().read().0.ufs_dir(child.inode).map(|dir| dir.prefix).unwrap_or_default();
            // What was removed from it is still there.
            unlink.trash = !prefix.is_empty() && self.has_trash_below(mount.id, &prefix);
            if !unlink.trash {
                self.remove_directory(&mount, child.inode, deadline).await?;
            }
            return self.unlink(numbered, unlink, deadline).await;
        }
        let _change = self.ufs_gates.change(parent.inode, deadline).await?;
        let key = self.stored(child.inode)?.key;
        let _turn = self.uploads.keys.lock(key_number(mount.id, &key), deadline).await?;
        // An upload may have begun, or ended, while we waited.
        let stored = self.stored(child.inode)?;
        self.keep_directory(&mount, parent.inode, deadline).await?;
        if stored.object.is_some() && self.has_trash(&mount) {
            unlink.trash = true;
            return self.unlink(numbered, unlink, deadline).await;
        }
        // Also of a dirty file: the store may have an earlier version, or one whose upload was not answered.
        self.delete_object(&mount, &stored, deadline).await?;
        self.unlink(numbered, unlink, deadline).await
    }

    /// Takes an empty directory out of the store. What the store has below it, and no name can show, keeps it.
    async fn remove_directory(&self, mount: &MountInfo, dir: InodeId, deadline: Instant) -> Result<()> {
        let prefix = {
            let state = self.replica.state().read();
            if state.0.attr(dir)?.size > 0 {
                // The log refuses.
                return Ok(());
            }
            state.0.ufs_dir(dir).map(|dir| dir.prefix).unwrap_or_default()
        };
        if prefix.is_empty() {
            return Ok(());
        }
        let _turn = self.uploads.keys.lock(key_number(mount.id, &prefix), deadline).await?;
        self.change_store(mount, StoreChangeKind::RemoveDirectory, &prefix, "", None, deadline).await.map(|_| ())
    }

    pub(crate) async fn rename_stored(
        &self,
        numbered: Numbered,
        mut rename: Rename,
        deadline: Instant,
    ) -> Result<MutateReply> {
        // Whatever a client says of it.
        (rename.stored, rename.stored_generation) = (None, 0);
        let (from, to) = (self.attr_now(rename.parent)?, self.attr_now(rename.new_parent)?);
        if from.mount == 0 || from.mount != to.mount || rename.flags & (EXCHANGE | WHITEOUT) != 0 {
            return self.rename(numbered, rename, deadline).await;
        }
        let mount = self.mount_of(&from)?;
        self.fault_in_name(&from, &rename.name, deadline).await?;
        self.fault_in_name(&to, &rename.new_name, deadline).await?;
        let source = self.name_now(from.inode, &rename.name)?;
        let target = self.name_now(to.inode, &rename.new_name)?;
        if let Some(target) = target.as_ref().filter(|target| target.kind() == FileKind::Directory) {
            self.ufs.forget_listing(target.inode);
            self.fault_in_listing(target, deadline).await?;
        }
        let _changes = self.two_gates(from.inode, to.inode, deadline).await?;
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
        let prefix = self.replica.state().read().0.ufs_dir(source.inode).map(|dir| dir.prefix).unwrap_or_default();
        self.store_below(&mount, &prefix).await?;
        // Nothing that was removed moves along, or is in the way.
        for prefix in [&prefix, &key] {
            self.clear_below(&mount, prefix, deadline).await?;
        }
        let _below = self.ufs_gates.change(source.inode, deadline).await?;
        if let Some(target) = target {
            self.remove_directory(&mount, target.inode, deadline).await?;
        }
        let _turns = self.two_turns(&mount, &prefix, &key, deadline).await?;
        self.clear_key(&mount, key.trim_end_matches('/'), deadline).await?;
        self.keep_directory(&mount, from.inode, deadline).await?;
        self.change_store(&mount, StoreChangeKind::MoveDirectory, &prefix, &key, None, deadline).await?;
        rename.stored = Some(UfsEntry { key, directory: true, ..Default::default() });
        let reply = self.rename(numbered, rename, deadline).await;
        self.ufs.forget_listing(source.inode);
        reply
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
        let _turns = self.two_turns(mount, &before.key, &key, deadline).await?;
        // An upload may have ended while we waited.
        let now = self.stored(source.inode)?;
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

    async fn two_gates(&self, one: InodeId, other: InodeId, deadline: Instant) -> Result<Vec<Passage<'_, InodeId>>> {
        let mut dirs = vec![one, other];
        dirs.sort_unstable();
        dirs.dedup();
        let mut passages = Vec::new();
        for dir in dirs {
            passages.push(self.ufs_gates.change(dir, deadline).await?);
        }
        Ok(passages)
    }

    async fn two_turns(
        &self,
        mount: &MountInfo,
        one: &str,
        other: &str,
        deadline: Instant,
    ) -> Result<Vec<crate::keyed::KeyedGuard<'_, u64>>> {
        let mut numbers = vec![key_number(mount.id, one), key_number(mount.id, other)];
        numbers.sort_unstable();
        numbers.dedup();
        let mut turns = Vec::new();
        for number in numbers {
            turns.push(self.uploads.keys.lock(number, deadline).await?);
        }
        Ok(turns)
    }
}
