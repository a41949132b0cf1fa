//! Reading the namespace: names, attributes, content.

use bytes::Bytes;
use curvine_proto::layout::Kind;
use curvine_proto::{Attr, BlocksLayout, DirEntry, FileKind, InlineLayout, Layout, UfsLayout};
use curvine_types::limits::BLOCK_SIZE_DEFAULT;
use curvine_types::{Cookie, ErrorKind, InodeId, Name, ROOT_INODE, Result};

use crate::acl::{ACCESS, Acl};
use crate::namespace::Namespace;
use crate::record::*;
use crate::state::{State, fail};
use crate::store::Store;

/// More directories than this above an inode, and nobody is told its path.
const PATH_DEPTH_MAX: usize = 1 << 16;

impl Namespace {
    /// The inode of a name; also of `.` and `..` (the root's is itself). `None`: there is no such name.
    pub fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Option<Attr>> {
        let state = &self.state;
        let dir = state.dir(parent)?;
        match name {
            b"." => return Ok(Some(state.attr_of(parent, &dir))),
            b".." => return self.attr(state.parent_of(parent, &dir)).map(Some),
            _ => {}
        }
        let name = Name::new(name)?;
        Ok(state.find(&dir, name.as_bytes()).and_then(|found| state.attr(found.id)))
    }

    /// The attributes of an inode; `Stale` if there is no such inode.
    pub fn attr(&self, inode: InodeId) -> Result<Attr> {
        Ok(self.state.attr_of(inode, &self.state.inode(inode)?))
    }

    /// The directory that a directory is in; the root's is itself.
    pub fn parent(&self, dir: InodeId) -> Result<InodeId> {
        let inode = self.state.dir(dir)?;
        Ok(self.state.parent_of(dir, &inode))
    }

    /// Whether names lead from the root to an inode.
    pub fn is_attached(&self, inode: InodeId) -> bool {
        let store = &self.state.store;
        let mut current = inode;
        while current != ROOT_INODE {
            let Some(inode) = store.inode(current) else { return false };
            let parent = store.inode(inode.parent);
            if parent.is_none_or(|parent| store.dentry(parent.content, inode.cookie).is_none()) {
                return false;
            }
            current = inode.parent;
        }
        true
    }

    /// An absolute path of an inode, for people; of a file with several names one of them. `None` without a name.
    pub fn path(&self, inode: InodeId) -> Option<Vec<u8>> {
        self.state.path(inode)
    }

    /// Entries with cookies above `after`, at most `limit`, and whether these were the last. No `.` and `..`.
    ///
    /// A cookie is never used again and an entry keeps its own, so that a reader which continues after the last cookie it saw
    /// meets each entry that was there all the time exactly once.
    pub fn readdir(&self, dir: InodeId, after: Cookie, limit: usize) -> Result<(Vec<DirEntry>, bool)> {
        let state = &self.state;
        let inode = state.dir(dir)?;
        let mut rest = state.store.dentries_after(inode.content, after);
        let entries = rest.by_ref().take(limit).filter_map(|(cookie, dentry)| {
            let name = Bytes::copy_from_slice(dentry.name.as_bytes());
            Some(DirEntry { cookie, name, attr: Some(state.attr(dentry.child)?) })
        });
        let entries = entries.collect();
        Ok((entries, rest.next().is_none()))
    }

    /// The target of a symlink.
    pub fn readlink(&self, inode: InodeId) -> Result<Bytes> {
        if self.state.inode(inode)?.kind() != FileKind::Symlink {
            return Err(fail(ErrorKind::InvalidArgument, "not a symlink").with("inode", inode));
        }
        Ok(self.state.inline_bytes(inode))
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        self.state.inode(inode)?;
        let value = self.state.store.xattr(inode, name);
        let value = value.ok_or_else(|| fail(ErrorKind::NoAttribute, "no such attribute").with("inode", inode))?;
        Ok(Bytes::from_owner(value))
    }

    /// The access control list of an inode that has one.
    pub fn access_acl(&self, inode: InodeId) -> Option<Acl> {
        let record = self.state.store.inode(inode)?;
        self.state.acl(inode, &record, ACCESS)
    }

    /// The names of all extended attributes.
    pub fn xattr_names(&self, inode: InodeId) -> Result<Vec<Bytes>> {
        self.state.inode(inode)?;
        let names = self.state.store.xattrs_of(inode);
        Ok(names.map(|(name, _)| Bytes::copy_from_slice(name.as_bytes())).collect())
    }

    /// Where the content of a regular file is; inline bytes only `with_data`.
    pub fn layout(&self, inode: InodeId, with_data: bool) -> Result<Layout> {
        let kind = self.state.inode(inode)?.kind();
        self.state.layout(inode, with_data).ok_or_else(|| {
            let kind = if kind == FileKind::Directory { ErrorKind::IsADirectory } else { ErrorKind::InvalidArgument };
            fail(kind, "only a regular file has a layout").with("inode", inode)
        })
    }
}

impl State {
    /// The layout of a regular file.
    pub fn layout(&self, id: InodeId, with_data: bool) -> Option<Layout> {
        let inode = self.store.inode(id).filter(Inode::is_file)?;
        let kind = match self.store.placed(id).as_deref() {
            None => {
                let data = if with_data { self.inline_bytes(id) } else { Bytes::new() };
                Kind::Inline(InlineLayout { data })
            }
            Some(Placed::Blocks(blocks)) => Kind::Blocks(blocks_layout(blocks, inode.has(LIVE))),
            Some(Placed::Ufs(object)) => {
                let mount = self.mounts.get(&object.mount);
                let block_size = mount.map_or(BLOCK_SIZE_DEFAULT, |mount| mount.settings.block_size);
                Kind::Ufs(ufs_layout(object, block_size))
            }
        };
        Some(Layout { generation: inode.content, kind: Some(kind) })
    }

    /// The bytes of inline content or of a symlink, shared.
    fn inline_bytes(&self, id: InodeId) -> Bytes {
        self.store.inline(id).map(Bytes::from_owner).unwrap_or_default()
    }

    /// See [`Namespace::path`].
    pub fn path(&self, id: InodeId) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut current = id;
        while current != ROOT_INODE {
            let inode = self.store.inode(current)?;
            let parent = self.store.inode(inode.parent)?;
            names.push(self.store.dentry(parent.content, inode.cookie)?.name);
            current = inode.parent;
            if names.len() > PATH_DEPTH_MAX {
                return None;
            }
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        Some(if path.is_empty() { b"/".to_vec() } else { path })
    }
}

fn blocks_layout(blocks: &Blocks, live: bool) -> BlocksLayout {
    let extents = blocks.extents.iter().map(|extent| curvine_proto::Extent {
        first_block: extent.first_block,
        block_count: extent.block_count,
        version: extent.version,
        workers: extent.workers.clone(),
    });
    BlocksLayout { block_size: blocks.block_size, extents: extents.collect(), live }
}

fn ufs_layout(object: &UfsObject, block_size: u64) -> UfsLayout {
    UfsLayout {
        mount: object.mount,
        key: object.key.to_string(),
        etag: object.etag.to_string(),
        size: object.size,
        mtime: Some(object.mtime.into()),
        block_size,
    }
}
