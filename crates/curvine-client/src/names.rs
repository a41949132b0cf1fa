//! Names: finding, listing, making, moving and removing them.

use std::time::Duration;

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    Attr, Create, FileKind, Link, LookupReply, LookupRequest, Method, ReadDirReply, ReadDirRequest, ReadLinkReply,
    ReadLinkRequest, Rename, Unlink,
};
use curvine_types::{Cookie, Error, ErrorKind, InodeId, Name, ROOT_INODE, Result};

use crate::cache::Ticket;
use crate::clock::boot_time;
use crate::core::Core;
use crate::mutation::{Done, Touched};
use crate::{DirItem, DirPage, Entry, FileSystem, Lookup, NewNode};

const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;

/// An attribute that an outcome must have.
pub(crate) fn present(attr: Option<Attr>) -> Result<Attr> {
    attr.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the master answered without attributes"))
}

impl Core {
    /// Takes the attributes of a reply; what is newest, and how long it may be believed.
    pub(crate) fn settle(&self, ticket: &Ticket, attr: Attr) -> (Attr, Duration) {
        let (attr, ttl) = self.cache.settle_attr(ticket, attr, boot_time());
        self.saw(&attr);
        (attr, ttl)
    }

    /// An open file learns what was seen of it.
    pub(crate) fn saw(&self, attr: &Attr) {
        if attr.kind() == FileKind::File
            && let Some(file) = self.opens.get(attr.inode)
        {
            file.saw(attr);
        }
    }

    /// Takes what a made name left behind.
    pub(crate) fn settle_made(&self, ticket: &Ticket, parent: Option<&Attr>, name: &[u8], attr: Attr) -> Entry {
        let now = boot_time();
        let entry_ttl = match parent {
            Some(parent) => {
                self.cache.changed_attr(ticket, *parent, now);
                self.cache.changed_name(ticket, parent, name, attr.inode, now)
            }
            None => Duration::ZERO,
        };
        let (attr, attr_ttl) = self.cache.changed_attr(ticket, attr, now);
        Entry { attr, entry_ttl, attr_ttl }
    }

    /// Takes what a removed name left behind.
    fn settle_removed(&self, ticket: &Ticket, parent: Option<&Attr>, name: &[u8], target: Option<Attr>) {
        let now = boot_time();
        if let Some(parent) = parent {
            self.cache.changed_attr(ticket, *parent, now);
            self.cache.changed_name(ticket, parent, name, 0, now);
        }
        if let Some(target) = target {
            self.graves.bury(&target);
            self.cache.changed_attr(ticket, target, now);
        }
    }
}

impl FileSystem {
    /// From the cache, without waiting; `None`: ask `lookup`.
    pub fn try_lookup(&self, parent: InodeId, name: &Name) -> Option<Lookup> {
        let now = boot_time();
        let (inode, ttl) = self.core.cache.name(parent, name.as_bytes(), now)?;
        if inode == 0 {
            return Some(Lookup { entry: None, negative_ttl: ttl });
        }
        let (attr, attr_ttl) = self.core.cache.attr(inode, now)?;
        Some(Lookup { entry: Some(Entry { attr, entry_ttl: ttl, attr_ttl }), negative_ttl: Duration::ZERO })
    }

    /// What a name stands for.
    pub async fn lookup(&self, parent: InodeId, name: &Name) -> Result<Lookup> {
        if let Some(known) = self.try_lookup(parent, name) {
            return Ok(known);
        }
        let core = &self.core;
        let request = |session| LookupRequest {
            session,
            parent,
            name: Bytes::copy_from_slice(name.as_bytes()),
            caller: core.caller(),
        };
        let asked = core.ask::<_, LookupReply>(Method::Lookup, request, core.deadline()).await;
        let (reply, ticket) = match asked {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Lookup { entry: None, negative_ttl: Duration::ZERO });
            }
            other => other?,
        };
        let now = boot_time();
        core.cache.grant(&ticket, &reply.leases, now);
        let inode = reply.attr.as_ref().map_or(0, |attr| attr.inode);
        let name_ttl = match &reply.parent {
            Some(parent) => {
                core.cache.settle_attr(&ticket, *parent, now);
                core.cache.settle_name(&ticket, parent, name.as_bytes(), inode, now)
            }
            None => Duration::ZERO,
        };
        let Some(attr) = reply.attr else { return Ok(Lookup { entry: None, negative_ttl: name_ttl }) };
        let (attr, attr_ttl) = core.settle(&ticket, attr);
        Ok(Lookup { entry: Some(Entry { attr, entry_ttl: name_ttl, attr_ttl }), negative_ttl: Duration::ZERO })
    }

    /// Entries after `cookie` (0: from the start). `plus`: the caller wants the attributes, so names and attributes are cached.
    pub async fn readdir(&self, dir: InodeId, cookie: Cookie, limit: u32, plus: bool) -> Result<DirPage> {
        let core = &self.core;
        let request = |session| ReadDirRequest { session, inode: dir, cookie, limit, caller: core.caller() };
        let (reply, ticket) = match core.ask::<_, ReadDirReply>(Method::ReadDir, request, core.deadline()).await {
            // Whoever still stands in it sees it empty.
            Err(error) if error.kind() == ErrorKind::Stale && core.graves.find(dir).is_some() => {
                return Ok(DirPage { items: Vec::new(), end: true });
            }
            answered => answered?,
        };
        let now = boot_time();
        core.cache.grant(&ticket, &reply.leases, now);
        if let Some(parent) = &reply.dir {
            core.cache.settle_attr(&ticket, *parent, now);
        }
        let item = |entry: curvine_proto::DirEntry| {
            let attr = entry.attr?;
            let (inode, kind) = (attr.inode, attr.kind());
            let entry_ttl = match &reply.dir {
                Some(parent) if plus => core.cache.settle_name(&ticket, parent, &entry.name, inode, now),
                _ => Duration::ZERO,
            };
            let (attr, attr_ttl) = core.settle(&ticket, attr);
            let name = entry.name.to_vec();
            Some(DirItem { cookie: entry.cookie, name, inode, kind, entry: Entry { attr, entry_ttl, attr_ttl } })
        };
        Ok(DirPage { items: reply.entries.into_iter().filter_map(item).collect(), end: reply.end })
    }

    /// Makes a directory.
    pub async fn mkdir(&self, parent: InodeId, name: &Name, node: NewNode) -> Result<Entry> {
        self.make(parent, name, node, Create { kind: FileKind::Directory as i32, ..Default::default() }).await
    }

    /// Makes a file or special file without opening it.
    pub async fn mknod(&self, parent: InodeId, name: &Name, node: NewNode, kind: FileKind, rdev: u32) -> Result<Entry> {
        self.make(parent, name, node, Create { kind: kind as i32, rdev, ..Default::default() }).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, parent: InodeId, name: &Name, target: &[u8], node: NewNode) -> Result<Entry> {
        let symlink_target = Bytes::copy_from_slice(target);
        let create = Create { kind: FileKind::Symlink as i32, symlink_target, ..Default::default() };
        self.make(parent, name, node, create).await
    }

    async fn make(&self, parent: InodeId, name: &Name, node: NewNode, create: Create) -> Result<Entry> {
        let NewNode { mode, umask, uid, gid } = node;
        let name = Bytes::copy_from_slice(name.as_bytes());
        let create = Create { parent, name: name.clone(), mode, umask, uid, gid, exclusive: true, ..create };
        let settle = move |core: &std::sync::Arc<Core>, done: Done| {
            let attr = present(done.outcome.attr)?;
            Ok(core.settle_made(&done.ticket, done.outcome.parent.as_ref(), &name, attr))
        };
        let touched = Touched::dirs([parent]);
        self.core.mutate(CommandBody::Create(create), touched, self.core.deadline(), settle).await?
    }

    /// Makes a hard link.
    pub async fn link(&self, inode: InodeId, parent: InodeId, name: &Name) -> Result<Entry> {
        let name = Bytes::copy_from_slice(name.as_bytes());
        let link = Link { inode, parent, name: name.clone() };
        let settle = move |core: &std::sync::Arc<Core>, done: Done| {
            let attr = present(done.outcome.attr)?;
            Ok(core.settle_made(
                &done.ticket,
                done.outcome.new_parent.as_ref().or(done.outcome.parent.as_ref()),
                &name,
                attr,
            ))
        };
        let touched = Touched { dirs: vec![parent], inodes: vec![inode] };
        self.core.mutate(CommandBody::Link(link), touched, self.core.deadline(), settle).await?
    }

    /// Removes a name that is no directory's.
    pub async fn unlink(&self, parent: InodeId, name: &Name) -> Result<()> {
        self.remove(parent, name, false).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, parent: InodeId, name: &Name) -> Result<()> {
        self.remove(parent, name, true).await
    }

    async fn remove(&self, parent: InodeId, name: &Name, directory: bool) -> Result<()> {
        let known = self.core.cache.name(parent, name.as_bytes(), boot_time()).map(|(inode, _)| inode);
        let name = Bytes::copy_from_slice(name.as_bytes());
        let unlink = Unlink { parent, name: name.clone(), directory, ..Default::default() };
        let settle = move |core: &std::sync::Arc<Core>, done: Done| {
            core.settle_removed(&done.ticket, done.outcome.parent.as_ref(), &name, done.outcome.target);
        };
        let touched = Touched { dirs: vec![parent], inodes: known.into_iter().filter(|inode| *inode != 0).collect() };
        self.core.mutate(CommandBody::Unlink(unlink), touched, self.core.deadline(), settle).await
    }

    /// Moves a name. `flags` as in renameat2: NOREPLACE 1, EXCHANGE 2.
    pub async fn rename(
        &self,
        parent: InodeId,
        name: &Name,
        new_parent: InodeId,
        new_name: &Name,
        flags: u32,
    ) -> Result<()> {
        self.rename_as(parent, name, new_parent, new_name, flags, (0, 0)).await
    }

    /// As `rename`, also with WHITEOUT 4: `owner` (user and group) gets the device that takes the old name.
    pub async fn rename_as(
        &self,
        parent: InodeId,
        name: &Name,
        new_parent: InodeId,
        new_name: &Name,
        flags: u32,
        owner: (u32, u32),
    ) -> Result<()> {
        let (name, new_name) = (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(new_name.as_bytes()));
        let rename = Rename {
            parent,
            name: name.clone(),
            new_parent,
            new_name: new_name.clone(),
            flags,
            uid: owner.0,
            gid: owner.1,
            ..Default::default()
        };
        let settle = move |core: &std::sync::Arc<Core>, done: Done| {
            let Done { outcome, ticket, .. } = done;
            let new_parent = outcome.new_parent.as_ref().or(outcome.parent.as_ref());
            // Without a new cookie no name was made: both names were of one inode already.
            if flags & RENAME_EXCHANGE != 0 || outcome.child_cookie == 0 {
                for (dir, name) in [(outcome.parent.as_ref(), &name), (new_parent, &new_name)] {
                    let Some(dir) = dir else { continue };
                    core.cache.changed_attr(&ticket, *dir, boot_time());
                    core.cache.forget_name(dir, name);
                }
                for attr in outcome.attr.into_iter().chain(outcome.target) {
                    core.cache.changed_attr(&ticket, attr, boot_time());
                }
                return;
            }
            core.settle_removed(&ticket, outcome.parent.as_ref(), &name, outcome.target);
            if flags & RENAME_WHITEOUT != 0
                && let Some(dir) = &outcome.parent
            {
                core.cache.forget_name(dir, &name);
            }
            if let Some(attr) = outcome.attr {
                core.settle_made(&ticket, new_parent, &new_name, attr);
            }
        };
        let touched = Touched::dirs([parent, new_parent]);
        self.core.mutate(CommandBody::Rename(rename), touched, self.core.deadline(), settle).await
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, inode: InodeId) -> Result<Bytes> {
        let request = |session| ReadLinkRequest { session, inode };
        let (reply, _) = self.core.ask::<_, ReadLinkReply>(Method::ReadLink, request, self.core.deadline()).await?;
        Ok(reply.target)
    }

    /// Follows an absolute path, without following symlinks.
    pub async fn resolve(&self, path: &[u8]) -> Result<Entry> {
        let (attr, attr_ttl) = self.getattr(ROOT_INODE).await?;
        let mut entry = Entry { attr, entry_ttl: Duration::ZERO, attr_ttl };
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            entry = self.step(&entry, &Name::new(part)?).await.map_err(|error| at_path(error, path))?;
        }
        Ok(entry)
    }

    async fn step(&self, dir: &Entry, name: &Name) -> Result<Entry> {
        if dir.attr.kind() != FileKind::Directory {
            return Err(Error::new(ErrorKind::NotADirectory, "a part of the path is not a directory"));
        }
        let found = self.lookup(dir.attr.inode, name).await?.entry;
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file or directory"))
    }

    /// The directory and the last name of an absolute path; `InvalidArgument` for the root, which has none.
    pub async fn resolve_parent(&self, path: &[u8]) -> Result<(Entry, Name)> {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let trimmed = path.get(..end).unwrap_or_default();
        let start = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = trimmed.split_at(start);
        let name = Name::new(name).map_err(|error| at_path(error, path))?;
        let parent = self.resolve(parent).await?;
        if parent.attr.kind() != FileKind::Directory {
            let error = Error::new(ErrorKind::NotADirectory, "a part of the path is not a directory");
            return Err(at_path(error, path));
        }
        Ok((parent, name))
    }
}

fn at_path(error: Error, path: &[u8]) -> Error {
    error.with("path", String::from_utf8_lossy(path))
}
