//! Rename: plain, replacing, exchanging, leaving a whiteout behind.

use curvine_proto::{FileKind, Outcome, Rename};
use curvine_types::{ErrorKind, InodeId, Name, ROOT_INODE, Result};

use super::names::check_removable;
use crate::record::*;
use crate::state::{Found, State, fail};
use crate::store::Store;

const NOREPLACE: u32 = 1;
pub(super) const EXCHANGE: u32 = 2;
/// The old name becomes a character device 0:0, which overlayfs takes for a removed name.
pub(super) const WHITEOUT: u32 = 4;

/// One side of a rename: the directory, and the entry in it with its inode.
struct Side {
    dir: InodeId,
    table: u64,
    found: Found,
    is_dir: bool,
}

impl State {
    pub(super) fn rename(&mut self, command: &Rename) -> Result<Outcome> {
        let (name, new_name) = (Name::new(&command.name)?, Name::new(&command.new_name)?);
        let exchange = command.flags & EXCHANGE != 0;
        let noreplace = command.flags & NOREPLACE != 0;
        let whiteout = command.flags & WHITEOUT != 0;
        if command.flags & !(NOREPLACE | EXCHANGE | WHITEOUT) != 0 || exchange && (noreplace || whiteout) {
            return Err(
                fail(ErrorKind::InvalidArgument, "rename does not know these flags").with("have", command.flags)
            );
        }
        let dir = self.dir(command.parent)?;
        self.check_writable(command.parent, &dir)?;
        let new_dir = self.dir_for_names(command.new_parent)?;
        let found = self.find_existing(&dir, &name)?;
        let target = self.find(&new_dir, new_name.as_bytes());
        check_as_looked_up(command, found, target)?;

        let inode = self.inode(found.id)?;
        // Of no account where the names alone are a reason to refuse: nobody moves anything in a store for that.
        let moved = self.check_stores(command, &inode, found, &new_name);
        let source = Side { dir: command.parent, table: dir.content, found, is_dir: inode.is_dir() };
        if inode.has(MOUNT_ROOT) {
            return Err(fail(ErrorKind::Busy, "an under file system is mounted here").with("inode", found.id));
        }
        if source.is_dir && command.parent != command.new_parent {
            self.check_not_within(command.new_parent, found.id)?;
        }
        if exchange {
            moved?;
            let Some(target) = target else {
                return Err(fail(ErrorKind::NotFound, "no such name").with("name", new_name));
            };
            return self.exchange(source, command.new_parent, new_dir.content, target);
        }

        let mut replaced = None;
        if let Some(target) = target {
            if noreplace {
                return Err(fail(ErrorKind::AlreadyExists, "the new name exists").with("name", new_name));
            }
            let target_inode = self.inode(target.id)?;
            if target.id == found.id {
                return Ok(self.renamed(found.id, command.parent, command.new_parent));
            }
            check_removable(target.id, &target_inode, source.is_dir)?;
            replaced = Some((target, target_inode));
        }
        let moved = moved?;
        let mut moves = vec![(found.id, found.cookie, command.parent, command.new_parent)];
        moves.extend(replaced.map(|(target, _)| (target.id, target.cookie, command.new_parent, 0)));
        self.check_quotas_of_moves(&moves)?;
        if whiteout {
            self.check_quotas(command.parent, 1, 0)?;
        }

        if let Some((target, target_inode)) = replaced {
            self.remove_name(command.new_parent, new_dir.content, target, target_inode.is_dir());
        }
        let target_attr = replaced.map(|(target, _)| self.drop_link(target.id, &command.holders));
        self.remove_name(source.dir, source.table, found, source.is_dir);
        let child_cookie =
            self.add_name(command.new_parent, new_dir.content, new_name.as_bytes(), found.id, source.is_dir);
        if whiteout {
            let device = Inode::new(FileKind::CharDevice, 0, command.uid, command.gid, self.meta.now);
            let device = self.add_inode(device);
            self.add_name(source.dir, source.table, name.as_bytes(), device, false);
        }
        let now = self.meta.now;
        self.edit(found.id, |inode| inode.changed(now));
        if let Some(moved) = moved {
            self.move_stored(found.id, moved);
        }
        let outcome = self.renamed(found.id, command.parent, command.new_parent);
        Ok(Outcome { target: target_attr, child_cookie, ..outcome })
    }

    fn renamed(&self, inode: InodeId, parent: InodeId, new_parent: InodeId) -> Outcome {
        Outcome {
            attr: self.attr(inode),
            parent: self.attr(parent),
            new_parent: self.attr(new_parent),
            ..Outcome::default()
        }
    }

    /// Both names stay, with their cookies, and name each other's inode.
    fn exchange(&mut self, source: Side, new_dir: InodeId, new_table: u64, found: Found) -> Result<Outcome> {
        let other = self.inode(found.id)?;
        if other.has(MOUNT_ROOT) {
            return Err(fail(ErrorKind::Busy, "an under file system is mounted here").with("inode", found.id));
        }
        let target = Side { dir: new_dir, table: new_table, found, is_dir: other.is_dir() };
        if target.is_dir && source.dir != target.dir {
            self.check_not_within(source.dir, found.id)?;
        }
        self.check_quotas_of_moves(&[
            (source.found.id, source.found.cookie, source.dir, target.dir),
            (target.found.id, target.found.cookie, target.dir, source.dir),
        ])?;
        if source.found.id != target.found.id {
            self.redirect(&source, &target);
            self.redirect(&target, &source);
            // Both old names go before a new one is noted: with hard links one inode may have several.
            for side in [&source, &target] {
                self.unregister_link(side.found.id, side.dir, side.found.cookie);
            }
            let now = self.meta.now;
            for (side, to) in [(&source, &target), (&target, &source)] {
                self.register_link(side.found.id, to.dir, to.found.cookie);
                self.edit(side.found.id, |inode| inode.changed(now));
            }
        }
        let outcome = self.renamed(source.found.id, source.dir, target.dir);
        let target_attr = self.attr(target.found.id);
        Ok(Outcome { target: target_attr, child_cookie: target.found.cookie, ..outcome })
    }

    /// Lets the entry of `side` name the inode of `other`.
    fn redirect(&mut self, side: &Side, other: &Side) {
        self.store.redirect_dentry(side.table, side.found.cookie, other.found.id);
        self.edit_names(side.dir, |dir| {
            dir.nlink = dir.nlink.saturating_sub(side.is_dir.into()) + u32::from(other.is_dir);
        });
    }

    /// A directory cannot move into its own subtree.
    fn check_not_within(&self, mut dir: InodeId, tree: InodeId) -> Result<()> {
        while dir != ROOT_INODE {
            if dir == tree {
                return Err(fail(ErrorKind::InvalidArgument, "a directory cannot move into itself").with("inode", tree));
            }
            dir = self.dir(dir)?.parent;
        }
        Ok(())
    }
}

/// The names must still mean the inodes that the master looked the holders up for. Without a source it did not look.
fn check_as_looked_up(command: &Rename, found: Found, target: Option<Found>) -> Result<()> {
    let target = target.map_or(0, |target| target.id);
    let source_differs = command.source != 0 && command.source != found.id;
    let target_differs = (command.source != 0 || command.target != 0) && command.target != target;
    if source_differs || target_differs {
        return Err(fail(ErrorKind::Conflict, "a name has become another inode's")
            .with("have", format!("{} {target}", found.id))
            .with("want", format!("{} {}", command.source, command.target)));
    }
    Ok(())
}
