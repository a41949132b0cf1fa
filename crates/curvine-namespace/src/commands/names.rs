//! Create, link and unlink.

use curvine_proto::{Create, FileKind, Link, Outcome, Unlink};
use curvine_types::limits::{LINK_MAX, SYMLINK_MAX};
use curvine_types::{ErrorKind, InodeId, Name, Result, SessionId};

use super::acls::Inherited;
use super::need_session;
use crate::record::*;
use crate::state::{Found, State, fail};

/// Longest key of an object store.
const KEY_MAX: usize = 1024;

impl State {
    pub(super) fn create(&mut self, session: SessionId, command: &Create) -> Result<Outcome> {
        let kind = command.kind();
        if command.unnamed {
            return self.create_unnamed(session, command);
        }
        let name = Name::new(&command.name)?;
        let dir = self.dir(command.parent)?;
        if let Some(found) = self.find(&dir, name.as_bytes()) {
            return self.create_over(command, found);
        }
        let dir = self.dir_for_names(command.parent)?;
        if command.grant_write && kind == FileKind::File {
            need_session(session)?;
        }
        match kind {
            FileKind::Unknown => return Err(fail(ErrorKind::InvalidArgument, "unknown kind of file")),
            FileKind::Symlink => check_symlink_target(&command.symlink_target)?,
            _ => {}
        }
        let place = self.ufs_dirs.get(&command.parent).cloned();
        let key = place.as_ref().map(|place| storable_key(place, kind, &name)).transpose()?;
        if place.is_none() {
            self.check_quotas(command.parent, 1, 0)?;
        }

        let (mut inode, inherited) = self.new_inode(&dir, command);
        inode.size = match kind {
            FileKind::Symlink => command.symlink_target.len() as u64,
            FileKind::CharDevice | FileKind::BlockDevice => command.rdev.into(),
            _ => 0,
        };
        inode.set(UFS, place.is_some());
        inode.set(DIRTY, place.is_some() && kind == FileKind::File);
        let id = self.add_inode(inode);
        self.put_inherited(id, inherited);
        if let (Some(place), Some(key)) = (place, key) {
            self.bind_made(id, kind, place.mount, key);
        }
        if kind == FileKind::Symlink {
            self.set_inline(id, &command.symlink_target);
        }
        let is_dir = kind == FileKind::Directory;
        let child_cookie = self.add_name(command.parent, dir.content, name.as_bytes(), id, is_dir);
        let epoch = if command.grant_write && kind == FileKind::File { self.add_writer(session, id) } else { 0 };
        Ok(Outcome {
            attr: self.attr(id),
            parent: self.attr(command.parent),
            layout: self.layout(id, false),
            epoch,
            created: true,
            child_cookie,
            ..Outcome::default()
        })
    }

    /// A file that no name leads to: the session that has it open keeps it alive, as one whose last name was removed.
    fn create_unnamed(&mut self, session: SessionId, command: &Create) -> Result<Outcome> {
        need_session(session)?;
        if command.kind() != FileKind::File {
            return Err(fail(ErrorKind::InvalidArgument, "only a file can be without a name"));
        }
        let dir = self.dir_for_names(command.parent)?;

        let (mut inode, inherited) = self.new_inode(&dir, command);
        inode.nlink = 0;
        inode.set(UNNAMED, !command.exclusive);
        let id = self.add_inode(inode);
        self.put_inherited(id, inherited);
        self.orphans.insert((id, session), ());
        self.held.insert((session, Held::Orphan, id), ());
        let epoch = if command.grant_write { self.add_writer(session, id) } else { 0 };
        Ok(Outcome {
            attr: self.attr(id),
            parent: self.attr(command.parent),
            layout: self.layout(id, false),
            epoch,
            created: true,
            ..Outcome::default()
        })
    }

    /// What is made in a directory, and what it inherits; one that is setgid gives its group.
    fn new_inode(&self, dir: &Inode, command: &Create) -> (Inode, Inherited) {
        let kind = command.kind();
        let (mut mode, mut gid) = (command.mode, command.gid);
        if kind == FileKind::Symlink {
            mode = 0o777;
        }
        if dir.mode() & S_ISGID != 0 {
            gid = dir.gid;
            mode |= if kind == FileKind::Directory { S_ISGID } else { 0 };
        }
        let mut inode = Inode::new(kind, mode, command.uid, gid, self.meta.now);
        let inherited = self.inherit(command.parent, dir, &inode, mode, command.umask);
        inode.set_mode(inherited.mode);
        (inode, inherited)
    }

    /// The name exists: an open without O_EXCL finds the file as it is. It is not granted here, because others may hold leases on it.
    fn create_over(&self, command: &Create, found: Found) -> Result<Outcome> {
        let existing = self.inode(found.id)?;
        if command.exclusive || command.kind() != FileKind::File {
            return Err(fail(ErrorKind::AlreadyExists, "the name exists").with("inode", found.id));
        }
        match existing.kind() {
            FileKind::File => {}
            FileKind::Directory => return Err(fail(ErrorKind::IsADirectory, "a directory").with("inode", found.id)),
            _ => return Err(fail(ErrorKind::AlreadyExists, "the name exists").with("inode", found.id)),
        }
        Ok(Outcome {
            attr: self.attr(found.id),
            parent: self.attr(command.parent),
            layout: self.layout(found.id, false),
            child_cookie: found.cookie,
            ..Outcome::default()
        })
    }

    pub(super) fn link(&mut self, command: &Link) -> Result<Outcome> {
        let name = Name::new(&command.name)?;
        let inode = self.inode(command.inode)?;
        if inode.is_dir() {
            return Err(fail(ErrorKind::NotPermitted, "directories have one name").with("inode", command.inode));
        }
        if inode.has(UFS) || self.ufs_dirs.contains(&command.parent) {
            return Err(fail(ErrorKind::NotPermitted, "objects of under file systems have one name")
                .with("inode", command.inode));
        }
        let dir = self.dir(command.parent)?;
        if self.find(&dir, name.as_bytes()).is_some() {
            return Err(fail(ErrorKind::AlreadyExists, "the name exists").with("name", name));
        }
        let dir = self.dir_for_names(command.parent)?;
        if inode.nlink == 0 && !inode.has(UNNAMED) {
            return Err(fail(ErrorKind::NotFound, "the file was removed").with("inode", command.inode));
        }
        if inode.nlink >= LINK_MAX {
            return Err(fail(ErrorKind::TooManyLinks, "the file has too many links").with("inode", command.inode));
        }
        if inode.nlink == 0 {
            // Its first name; further ones add nothing.
            self.check_quotas(command.parent, 1, inode.size)?;
        }

        let now = self.meta.now;
        self.edit(command.inode, |inode| {
            inode.nlink += 1;
            inode.set(UNNAMED, false);
            inode.changed(now);
        });
        // Its name keeps it from now on.
        while let Some(holder) = self.first_holder(command.inode) {
            self.orphans.remove(&(command.inode, holder));
            self.held.remove(&(holder, Held::Orphan, command.inode));
        }
        let child_cookie = self.add_name(command.parent, dir.content, name.as_bytes(), command.inode, false);
        let parent = self.attr(command.parent);
        Ok(Outcome {
            attr: self.attr(command.inode),
            parent,
            new_parent: parent,
            created: true,
            child_cookie,
            ..Outcome::default()
        })
    }

    pub(super) fn unlink(&mut self, command: &Unlink) -> Result<Outcome> {
        let name = Name::new(&command.name)?;
        let dir = self.dir(command.parent)?;
        self.check_writable(command.parent, &dir)?;
        let found = self.find_existing(&dir, &name)?;
        if command.inode != 0 && command.inode != found.id {
            return Err(fail(ErrorKind::Conflict, "the name has become another inode's")
                .with("have", found.id)
                .with("want", command.inode));
        }
        let inode = self.inode(found.id)?;
        check_removable(found.id, &inode, command.directory)?;

        if command.trash {
            self.note_trash(found.id, &inode)?;
        }
        self.remove_name(command.parent, dir.content, found, inode.is_dir());
        let target = self.drop_link(found.id, &command.holders);
        Ok(Outcome {
            attr: Some(target),
            parent: self.attr(command.parent),
            target: Some(target),
            ..Outcome::default()
        })
    }
}

/// Whether an inode may lose a name: to rmdir or to a directory that takes its place (`as_directory`), or else to unlink
/// or to what is no directory.
pub(super) fn check_removable(id: InodeId, inode: &Inode, as_directory: bool) -> Result<()> {
    let problem = match (inode.is_dir(), as_directory) {
        _ if inode.has(MOUNT_ROOT) => (ErrorKind::Busy, "an under file system is mounted here; unmount it first"),
        (true, false) => (ErrorKind::IsADirectory, "a directory"),
        (false, true) => (ErrorKind::NotADirectory, "not a directory"),
        (true, true) if inode.size > 0 => (ErrorKind::DirectoryNotEmpty, "the directory is not empty"),
        _ => return Ok(()),
    };
    Err(fail(problem.0, problem.1).with("inode", id))
}

/// The key of a new name in a directory of a mount, if a store can have it.
pub(super) fn storable_key(place: &UfsDirectory, kind: FileKind, name: &Name) -> Result<String> {
    if !matches!(kind, FileKind::File | FileKind::Directory) {
        return Err(fail(ErrorKind::NotPermitted, "under file systems have files and directories only"));
    }
    let text = std::str::from_utf8(name.as_bytes()).ok().filter(|text| text.trim() == *text && !text.contains('\\'));
    let text = text.ok_or_else(|| {
        fail(
            ErrorKind::InvalidArgument,
            "stores want names in UTF-8, without backslash and without spaces at their ends",
        )
        .with("name", name)
    })?;
    let slash = if kind == FileKind::Directory { "/" } else { "" };
    let key = format!("{}{text}{slash}", place.prefix);
    if key.len() > KEY_MAX {
        return Err(fail(ErrorKind::NameTooLong, "the path below the mount is too long for a key")
            .with("length", key.len())
            .with("limit", KEY_MAX));
    }
    Ok(key)
}

fn check_symlink_target(target: &[u8]) -> Result<()> {
    if target.len() > SYMLINK_MAX {
        return Err(fail(ErrorKind::NameTooLong, "the target of a symlink is too long").with("length", target.len()));
    }
    if target.is_empty() || target.contains(&0) {
        return Err(fail(ErrorKind::InvalidArgument, "not a valid target of a symlink"));
    }
    Ok(())
}
