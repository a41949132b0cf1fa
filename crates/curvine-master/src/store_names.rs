//! Names of a mount are made and removed in its store first, and then in the log.
//!
//! Always: what was answered has happened in both. If the master stops in between, nothing was answered, and the next look into the
//! store finds what it has. Nobody looks at names of a directory while they are changed here.
//! Always: who has waited for the turn of a key looks again whether it is still the key of the name; directories above may have moved.

use std::time::Duration;

use bytes::Bytes;
use curvine_proto::layout::Kind;
use curvine_proto::{
    Attr, Create, FileKind, Method, MountInfo, MutateReply, StoreChangeKind, StoreChangeReply, StoreChangeRequest,
    UfsObject, Unlink,
};
use curvine_types::{Error, ErrorKind, InodeId, MountId, Result, WorkerId};
use tokio::time::Instant;

use crate::change::Numbered;
use crate::leader::Leader;
use crate::store_keys::KeyPass;
use crate::trash::TRASH_DIR;

/// How long before the caller's deadline the store must have answered.
const MARGIN: Duration = Duration::from_millis(500);
/// Attempts at a key that changes while its turn is waited for.
const ATTEMPTS: usize = 8;

/// The store's directory of what was moved out of the way is no file's.
pub(crate) fn check_not_reserved(key: &str) -> Result<()> {
    if key.trim_end_matches('/') == TRASH_DIR {
        return Err(Error::new(ErrorKind::NotPermitted, "this name at the top of a mount is the trash's")
            .with("name", TRASH_DIR));
    }
    Ok(())
}

/// Where the content of a file of a mount is, as its store sees it.
pub(crate) struct Stored {
    pub key: String,
    /// The version that the store has; `None`: it waits to be uploaded.
    pub object: Option<UfsObject>,
    pub generation: u64,
    /// Of a file that waits: an upload of it that may not have ended.
    upload: String,
}

fn moves_too_often(inode: InodeId) -> Error {
    Error::new(ErrorKind::Overloaded, "the directories above are moved too often").with("inode", inode)
}

pub(crate) fn moved_away(inode: InodeId) -> Error {
    Error::new(ErrorKind::Stale, "the name has become another one's, or a directory above it was moved")
        .with("inode", inode)
}

impl Leader {
    pub(crate) fn mount_of(&self, attr: &Attr) -> Result<MountInfo> {
        self.mount_now(attr.mount)
    }

    pub(crate) fn mount_now(&self, id: MountId) -> Result<MountInfo> {
        let mount = self.replica.state().read().0.mount(id);
        mount.ok_or_else(|| Error::new(ErrorKind::Stale, "unmounted").with("mount", id))
    }

    /// Has a worker change names in a store, as this leader's order.
    pub(crate) async fn order_change(
        &self,
        worker: WorkerId,
        change: StoreChangeRequest,
        deadline: Instant,
    ) -> Result<StoreChangeReply> {
        let request = StoreChangeRequest { incarnation: self.incarnation, ..change };
        let deadline = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        self.workers.call(worker, Method::StoreChange, &request, Bytes::new(), deadline).await
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
            ..StoreChangeRequest::default()
        };
        self.order_change(self.any_worker()?, request, deadline).await
    }

    /// Takes the object of a file away, and an upload of it that may not have ended.
    pub(crate) async fn delete_object(&self, mount: &MountInfo, stored: &Stored, deadline: Instant) -> Result<()> {
        let request = StoreChangeRequest {
            mount: mount.id,
            mount_change: mount.change,
            kind: StoreChangeKind::Delete as i32,
            key: stored.key.clone(),
            abort: stored.upload.clone(),
            ..StoreChangeRequest::default()
        };
        self.order_change(self.any_worker()?, request, deadline).await.map(|_| ())
    }

    pub(crate) fn stored(&self, inode: InodeId) -> Result<Stored> {
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

    /// In the log, and of a mount's directory in its store.
    pub(crate) async fn create_anywhere(
        &self,
        parent: &Attr,
        numbered: Numbered,
        create: Create,
        deadline: Instant,
    ) -> Result<MutateReply> {
        if parent.mount == 0 || create.unnamed {
            return self.create(numbered, create, deadline).await;
        }
        Box::pin(self.create_stored(parent, numbered, create, deadline)).await
    }

    async fn create_stored(
        &self,
        parent: &Attr,
        numbered: Numbered,
        create: Create,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let mount = self.mount_of(parent)?;
        self.fault_in_name(parent, &create.name, deadline).await?;
        let _change = self.ufs_gates.change(parent.inode, deadline).await?;
        if create.kind() == FileKind::Directory {
            return self.make_directory(&mount, numbered, create, deadline).await;
        }
        let _pass = self.pass_to_make(&create, deadline).await?;
        let name = create.name.clone();
        let reply = self.create(numbered, create, deadline).await?;
        if let Some(made) = reply.outcome.as_ref().filter(|outcome| outcome.created).and_then(|outcome| outcome.attr) {
            self.ufs.made(parent.inode, &name, made.inode, &mount);
            // An empty file that is never opened for writing is stored, too.
            self.seal_later(made.inode);
        }
        Ok(reply)
    }

    async fn make_directory(
        &self,
        mount: &MountInfo,
        numbered: Numbered,
        create: Create,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let exists = || self.name_now(create.parent, &create.name).map(|found| found.is_some());
        for _ in 0..ATTEMPTS {
            let key = self.replica.state().read().0.key_of_new(create.parent, &create.name, create.kind());
            // It fails, and the log says how.
            let Ok(key) = key else { return self.create(numbered, create, deadline).await };
            check_not_reserved(&key)?;
            if exists()? {
                return Err(Error::new(ErrorKind::AlreadyExists, "the name exists").with("inode", create.parent));
            }
            let _turn = self.uploads.keys.turn(mount.id, &key, deadline).await?;
            if exists()? || !self.is_key_of(&create, &key)? {
                continue;
            }
            self.clear_key(mount, key.trim_end_matches('/'), deadline).await?;
            self.change_store(mount, StoreChangeKind::MakeDirectory, &key, "", None, deadline).await?;
            return self.create(numbered, create, deadline).await;
        }
        Err(moves_too_often(create.parent))
    }

    /// Until this is dropped no directory above a new file is moved. `None`: it cannot be made.
    async fn pass_to_make(&self, create: &Create, deadline: Instant) -> Result<Option<KeyPass>> {
        for _ in 0..ATTEMPTS {
            let (key, mount) = {
                let state = self.replica.state().read();
                let key = state.0.key_of_new(create.parent, &create.name, create.kind());
                (key, state.0.attr(create.parent)?.mount)
            };
            let Ok(key) = key else { return Ok(None) };
            check_not_reserved(&key)?;
            let pass = self.uploads.keys.pass(mount, &key, deadline).await?;
            if self.is_key_of(create, &key)? {
                return Ok(Some(pass));
            }
        }
        Err(moves_too_often(create.parent))
    }

    /// Until this is dropped no directory above a file of a mount is moved, so that it can become dirty. `None`: it is of no mount,
    /// or has no name.
    pub(crate) async fn pass_to_write(&self, inode: InodeId, deadline: Instant) -> Result<Option<KeyPass>> {
        for _ in 0..ATTEMPTS {
            let attr = self.attr_now(inode)?;
            if attr.mount == 0 || attr.nlink == 0 || attr.kind() != FileKind::File {
                return Ok(None);
            }
            let key = match self.stored(inode) {
                // It was unlinked just now.
                Err(error) if error.kind() == ErrorKind::Conflict => continue,
                stored => stored?.key,
            };
            let pass = self.uploads.keys.pass(attr.mount, &key, deadline).await?;
            if self.attr_now(inode)?.nlink == 0 {
                return Ok(None);
            }
            self.check_attached(inode)?;
            if self.stored(inode).is_ok_and(|stored| stored.key == key) {
                return Ok(Some(pass));
            }
        }
        Err(moves_too_often(inode))
    }

    /// Whether what is to be made still gets this key; `Stale` if its directory is gone.
    fn is_key_of(&self, create: &Create, key: &str) -> Result<bool> {
        self.check_attached(create.parent)?;
        let now = self.replica.state().read().0.key_of_new(create.parent, &create.name, create.kind());
        Ok(now.is_ok_and(|now| now == key))
    }

    /// `Stale` if no way leads to an inode any more, or it was unlinked.
    pub(crate) fn check_attached(&self, inode: InodeId) -> Result<()> {
        if self.replica.state().read().0.is_attached(inode) { Ok(()) } else { Err(moved_away(inode)) }
    }

    /// `Stale` if a name, or the way to it, has changed.
    pub(crate) fn check_still(&self, dir: InodeId, name: &[u8], inode: InodeId) -> Result<()> {
        self.check_attached(dir)?;
        let now = self.name_now(dir, name)?;
        if now.is_some_and(|now| now.inode == inode) { Ok(()) } else { Err(moved_away(inode)) }
    }

    /// The prefix of the keys below a directory; empty for a mount's own.
    pub(crate) fn prefix_of(&self, dir: InodeId) -> String {
        self.replica.state().read().0.ufs_dir(dir).map(|dir| dir.prefix).unwrap_or_default()
    }

    /// A directory that an object store knows only by what is in it stays when the last of that goes.
    pub(crate) async fn keep_directory(&self, mount: &MountInfo, dir: InodeId, deadline: Instant) -> Result<()> {
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

    /// In the log, and of a mount's directory in its store.
    pub(crate) async fn unlink_anywhere(
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
        Box::pin(self.unlink_stored(parent, numbered, unlink, deadline)).await
    }

    async fn unlink_stored(
        &self,
        parent: &Attr,
        numbered: Numbered,
        mut unlink: Unlink,
        deadline: Instant,
    ) -> Result<MutateReply> {
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
            let prefix = self.prefix_of(child.inode);
            if prefix.is_empty() {
                return self.unlink(numbered, unlink, deadline).await;
            }
            let _turn = self.uploads.keys.turn(mount.id, &prefix, deadline).await?;
            self.check_still(parent.inode, &unlink.name, child.inode)?;
            if self.prefix_of(child.inode) != prefix {
                return Err(moved_away(child.inode));
            }
            // What was removed from it is still there.
            unlink.trash = self.has_trash_below(mount.id, &prefix);
            if !unlink.trash {
                self.remove_directory(&mount, child.inode, deadline).await?;
            }
            return self.unlink(numbered, unlink, deadline).await;
        }
        let _change = self.ufs_gates.change(parent.inode, deadline).await?;
        let key = self.stored(child.inode)?.key;
        let _turn = self.uploads.keys.turn(mount.id, &key, deadline).await?;
        self.check_still(parent.inode, &unlink.name, child.inode)?;
        // An upload may have begun, or ended, while we waited.
        let stored = self.stored(child.inode)?;
        if stored.key != key {
            return Err(moved_away(child.inode));
        }
        self.keep_directory(&mount, parent.inode, deadline).await?;
        if stored.object.is_some() && self.has_trash(&mount) {
            unlink.trash = true;
            return self.unlink(numbered, unlink, deadline).await;
        }
        // Also of a dirty file: the store may have an earlier version, or one whose upload was not answered.
        self.delete_object(&mount, &stored, deadline).await?;
        self.unlink(numbered, unlink, deadline).await
    }

    /// Takes an empty directory out of the store. What the store has below it, and no name can show, keeps it. The caller has the turn
    /// of its key.
    pub(crate) async fn remove_directory(&self, mount: &MountInfo, dir: InodeId, deadline: Instant) -> Result<()> {
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
        self.change_store(mount, StoreChangeKind::RemoveDirectory, &prefix, "", None, deadline).await.map(|_| ())
    }
}
