//! The records of the state, as they lie in memory. Kept small: there are as many inodes as files.

use std::collections::BTreeMap;
use std::sync::Arc;

use curvine_proto::{FileKind, UfsMountSettings};
use curvine_types::{BlockVersion, Cookie, Generation, GrantEpoch, InodeId, MountId, SessionId, WorkerId};

use crate::label::Label;
use crate::stamp::Stamp;

/// The permission bits, setuid, setgid and sticky.
pub const MODE_MASK: u32 = 0o7777;
pub const S_ISUID: u32 = 0o4000;
pub const S_ISGID: u32 = 0o2000;
pub const S_IXGRP: u32 = 0o0010;

/// The primary worker is the authority for size and times.
pub const LIVE: u8 = 1;
/// Content is in a layout record as blocks; without this and `UFS` it is inline.
pub const BLOCKS: u8 = 2;
/// A file or directory of an under file system.
pub const UFS: u8 = 4;
/// The root of a mount.
pub const MOUNT_ROOT: u8 = 8;
/// Has extended attributes.
pub const XATTRS: u8 = 16;
/// Made without a name (O_TMPFILE), and may still get its first one.
pub const UNNAMED: u8 = 32;
/// A file of an under file system whose content is here (inline or in blocks) and not in the store yet.
pub const DIRTY: u8 = 64;

/// An inode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inode {
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Kind in the upper 4 bits, permissions in the lower 12.
    kind_mode: u16,
    /// `LIVE`, `BLOCKS`, ...
    pub flags: u8,
    /// Of a file or symlink: bytes. Of a directory: entries. Of a device: its number.
    pub size: u64,
    /// Of a file: the content's generation. Of a directory: the number of its table of names, first its own inode number.
    pub content: u64,
    pub change: u64,
    pub atime: Stamp,
    pub mtime: Stamp,
    pub ctime: Stamp,
    pub btime: Stamp,
    /// The directory of one of its names (a directory's only one), and the name's cookie; 0 if there is none.
    pub parent: InodeId,
    pub cookie: Cookie,
}

impl Inode {
    /// An inode without names, made now.
    pub fn new(kind: FileKind, mode: u32, uid: u32, gid: u32, now: Stamp) -> Self {
        Self {
            nlink: 1,
            uid,
            gid,
            kind_mode: (kind as u16) << 12 | (mode & MODE_MASK) as u16,
            flags: 0,
            size: 0,
            content: 1,
            change: 1,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: 0,
            cookie: 0,
        }
    }

    pub fn kind(&self) -> FileKind {
        FileKind::try_from(i32::from(self.kind_mode >> 12)).unwrap_or(FileKind::Unknown)
    }

    pub fn mode(&self) -> u32 {
        u32::from(self.kind_mode) & MODE_MASK
    }

    pub fn set_mode(&mut self, mode: u32) {
        self.kind_mode = self.kind_mode & !(MODE_MASK as u16) | (mode & MODE_MASK) as u16;
    }

    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    pub fn is_symlink(&self) -> bool {
        self.kind() == FileKind::Symlink
    }

    pub fn is_file(&self) -> bool {
        self.kind() == FileKind::File
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn set(&mut self, flag: u8, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    /// A regular file whose content is in the metadata.
    pub fn is_inline(&self) -> bool {
        self.is_file() && !self.has(BLOCKS) && !self.is_object()
    }

    /// A regular file whose content is what the under file system has.
    pub fn is_object(&self) -> bool {
        self.is_file() && self.has(UFS) && !self.has(DIRTY)
    }

    /// The generation of a file's content; 0 for what has none.
    pub fn generation(&self) -> Generation {
        if self.is_file() { self.content } else { 0 }
    }

    /// Records that something of the inode changed.
    pub fn changed(&mut self, now: Stamp) {
        self.ctime = now;
        self.change += 1;
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Dentry {
    pub name: Label,
    pub child: InodeId,
}

/// Where content is that is not inline.
#[derive(Clone, Debug, PartialEq)]
pub enum Placed {
    Blocks(Blocks),
    Ufs(UfsObject),
}

/// Content on workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    pub block_size: u64,
    /// Units of 512 bytes that are allocated, as last committed.
    pub allocated: u64,
    pub extents: Vec<Extent>,
}

/// A run of blocks with the same replicas; a count of 0 means all that follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Extent {
    pub first_block: u64,
    pub block_count: u64,
    pub version: BlockVersion,
    pub workers: Vec<WorkerId>,
}

/// Content that is an object of an under file system.
#[derive(Clone, Debug, PartialEq)]
pub struct UfsObject {
    pub mount: MountId,
    pub key: Box<str>,
    pub etag: Box<str>,
    pub size: u64,
    pub mtime: Stamp,
    /// Number of the change of the store that Curvine itself made it with; 0: it was only seen.
    pub stored: u64,
}

/// A directory of an under file system.
#[derive(Clone, Debug, PartialEq)]
pub struct UfsDirectory {
    pub mount: MountId,
    pub prefix: Arc<str>,
    pub complete_at: Option<Stamp>,
    /// As `UfsObject::stored`.
    pub stored: u64,
}

/// An entry of the mount table.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    pub url: String,
    pub options: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub settings: UfsMountSettings,
    pub change: u64,
    pub root: InodeId,
    /// When the last object was removed that was one of many.
    pub many_removed: Stamp,
}

/// How much may be below a directory, and how much is. A limit of 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    pub bytes: u64,
    pub files: u64,
    pub used_bytes: u64,
    pub used_files: u64,
    /// Inodes up to this number are counted; the greatest number: all are.
    pub counted: InodeId,
}

/// How long what is below an inode lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    pub millis: u64,
    /// Files are removed; else copies are dropped.
    pub delete: bool,
}

/// A session and the bounds of its window of results.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub kind: i32,
    pub client: Arc<str>,
    pub hostname: Arc<str>,
    pub opened: Stamp,
    /// Results below it will not be asked for again.
    pub lowest_unacked: u64,
    /// Outcomes that are kept.
    pub kept: u32,
    /// Executed commands whose outcome was pushed out of the window: ranges (first, last) above `lowest_unacked`.
    pub spent: Vec<(u64, u64)>,
    /// It is over, and not all that it held has been let go of yet.
    pub ending: bool,
}

/// The kept outcome of one command.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// When it was executed, as a rising number.
    pub order: u64,
    /// The encoded `Outcome`.
    pub outcome: Arc<[u8]>,
}

/// Who may write an inode.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantRecord {
    pub epoch: GrantEpoch,
    /// Ascending.
    pub writers: Vec<SessionId>,
}

/// A byte range that is locked, `end` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// `LockKind::Flock` rather than a POSIX record lock.
    pub flock: bool,
    pub write: bool,
    pub start: u64,
    pub end: u64,
    pub session: SessionId,
    pub owner: u64,
    pub pid: u32,
}

/// What a session has of an inode, so that its end finds all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    Lock,
    Orphan,
    Write,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_small_and_keeps_kind_and_mode_apart() {
        assert!(size_of::<Inode>() <= 88, "{}", size_of::<Inode>());
        let mut inode = Inode::new(FileKind::BlockDevice, 0o107777, 1, 2, Stamp::default());
        assert_eq!((inode.kind(), inode.mode()), (FileKind::BlockDevice, 0o7777));
        inode.set_mode(0o20644);
        assert_eq!((inode.kind(), inode.mode()), (FileKind::BlockDevice, 0o644));
    }
}
