//! The mount table of under file systems.

use std::sync::Arc;

use curvine_proto::{FileKind, MountUfs, Outcome, UfsMountSettings, UmountUfs};
use curvine_types::limits::BLOCK_SIZE_DEFAULT;
use curvine_types::{ErrorKind, InodeId, Name, ROOT_INODE, Result};

use crate::record::*;
use crate::stamp::Stamp;
use crate::state::{State, fail};
use crate::store::Store;

const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;
const WRITE_TYPES: [&str; 2] = ["cache_mode", "fs_mode"];

impl State {
    /// Binds a directory to an under file system. The same path and URL again: new options.
    pub(super) fn mount_ufs(&mut self, command: &MountUfs) -> Result<Outcome> {
        let names = parse_path(&command.path)?;
        if command.url.is_empty() {
            return Err(fail(ErrorKind::InvalidArgument, "a mount needs the url of an under file system"));
        }
        let settings = complete_settings(command.settings.clone().unwrap_or_default())?;
        let (deepest, missing) = self.walk(&names)?;
        let dir = self.dir(deepest)?;
        if dir.has(MOUNT_ROOT) && missing.is_empty() {
            return self.change_mount(deepest, command, settings);
        }
        if dir.has(UFS) {
            return Err(fail(ErrorKind::Busy, "inside another mount").with("path", text(&command.path)));
        }
        if missing.is_empty() && dir.size > 0 {
            return Err(fail(ErrorKind::DirectoryNotEmpty, "a mount needs an empty directory, or a new one")
                .with("path", text(&command.path)));
        }
        if dir.nlink == 0 {
            return Err(fail(ErrorKind::NotFound, "the directory was removed").with("path", text(&command.path)));
        }

        let root = missing.iter().fold(deepest, |parent, name| self.make_dir(parent, name));
        let id = self.meta.next_mount;
        self.meta.next_mount += 1;
        let now = self.meta.now;
        self.edit(root, |inode| {
            inode.set(UFS | MOUNT_ROOT, true);
            inode.set_mode(settings.dir_mode);
            (inode.uid, inode.gid) = (settings.uid, settings.gid);
            inode.changed(now);
        });
        self.ufs_dirs.insert(root, UfsDirectory { mount: id, prefix: "".into(), complete_at: None, stored: 0 });
        self.mounts.insert(id, Arc::new(mount_record(command, settings, 1, root)));
        Ok(Outcome { id: id.into(), attr: self.attr(root), created: true, ..Outcome::default() })
    }

    fn change_mount(&mut self, root: InodeId, command: &MountUfs, settings: UfsMountSettings) -> Result<Outcome> {
        let (id, mount) = self.mount_at(root, &command.path)?;
        if mount.url != command.url {
            return Err(fail(ErrorKind::AlreadyExists, "another under file system is mounted here; unmount it first")
                .with("path", text(&command.path))
                .with("url", &mount.url));
        }
        let mut record = mount_record(command, settings, mount.change + 1, root);
        record.many_removed = mount.many_removed;
        self.mounts.insert(id, Arc::new(record));
        Ok(Outcome { id: id.into(), attr: self.attr(root), ..Outcome::default() })
    }

    /// Leaves an empty directory; the inodes below are freed step by step.
    pub(super) fn umount_ufs(&mut self, command: &UmountUfs) -> Result<Outcome> {
        let names = parse_path(&command.path)?;
        let (root, missing) = self.walk(&names)?;
        let not_mounted = || fail(ErrorKind::NotFound, "nothing is mounted here").with("path", text(&command.path));
        let dir = self.dir(root)?;
        if !missing.is_empty() || !dir.has(MOUNT_ROOT) {
            return Err(not_mounted());
        }
        let (id, _) = self.mount_at(root, &command.path)?;
        let waiting = self.jobs_of(id).count();
        if waiting > 0 && !command.force {
            return Err(fail(
                ErrorKind::Busy,
                "files wait to be uploaded; wait, or unmount with --force and lose them",
            )
            .with("have", waiting)
            .with("path", text(&command.path)));
        }
        if self.has_trash(id) && !command.force {
            let message =
                "the mount has a trash; empty it (cv trash empty), or unmount with --force and leave it in the store";
            return Err(fail(ErrorKind::Busy, message).with("path", text(&command.path)));
        }

        self.mounts.remove(&id);
        self.forget_tree_moves(|mount| mount == id);
        self.ufs_dirs.remove(&root);
        self.doom(&dir);
        let table = self.next_number();
        self.edit_names(root, |inode| {
            inode.set(UFS | MOUNT_ROOT, false);
            inode.content = table;
            inode.size = 0;
            inode.nlink = 2;
        });
        Ok(Outcome { id: id.into(), attr: self.attr(root), ..Outcome::default() })
    }

    /// Follows names from the root as far as they exist: the deepest directory, and the names that are missing.
    fn walk<'a>(&self, names: &'a [Name]) -> Result<(InodeId, &'a [Name])> {
        let mut current = ROOT_INODE;
        for (position, name) in names.iter().enumerate() {
            let dir = self.dir(current)?;
            match self.find(&dir, name.as_bytes()) {
                Some(found) => current = found.id,
                None => return Ok((current, names.get(position..).unwrap_or_default())),
            }
        }
        Ok((current, &[]))
    }

    fn make_dir(&mut self, parent: InodeId, name: &Name) -> InodeId {
        let Some(dir) = self.store.inode(parent) else { return parent };
        let child = Inode::new(FileKind::Directory, DIR_MODE, dir.uid, dir.gid, self.meta.now);
        let id = self.add_inode(child);
        self.add_name(parent, dir.content, name.as_bytes(), id, true);
        id
    }

    fn mount_at(&self, root: InodeId, path: &[u8]) -> Result<(u32, Arc<Mount>)> {
        let found = self.mounts.iter().find(|(_, mount)| mount.root == root);
        let (id, mount) =
            found.ok_or_else(|| fail(ErrorKind::NotFound, "nothing is mounted here").with("path", text(path)))?;
        Ok((*id, Arc::clone(mount)))
    }
}

/// The names of an absolute path.
fn parse_path(path: &[u8]) -> Result<Vec<Name>> {
    let Some(rest) = path.strip_prefix(b"/") else {
        return Err(fail(ErrorKind::InvalidArgument, "a path begins with '/'").with("path", text(path)));
    };
    rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(Name::new).collect()
}

fn complete_settings(mut settings: UfsMountSettings) -> Result<UfsMountSettings> {
    let or = |value: u32, default| if value == 0 { default } else { value };
    settings.file_mode = or(settings.file_mode, FILE_MODE) & MODE_MASK;
    settings.dir_mode = or(settings.dir_mode, DIR_MODE) & MODE_MASK;
    if settings.block_size == 0 {
        settings.block_size = BLOCK_SIZE_DEFAULT;
    }
    if settings.write_type.is_empty() {
        settings.write_type = "cache_mode".to_string();
    }
    if !WRITE_TYPES.contains(&settings.write_type.as_str()) {
        return Err(fail(ErrorKind::InvalidArgument, "the write type is cache_mode or fs_mode")
            .with("have", &settings.write_type));
    }
    if settings.write_type == "fs_mode" {
        if settings.read_only || settings.read_verify {
            let message = "in fs_mode Curvine is the authority: it is written, and not compared with its store";
            return Err(fail(ErrorKind::InvalidArgument, message));
        }
        settings.write_back = true;
    }
    Ok(settings)
}

fn mount_record(command: &MountUfs, settings: UfsMountSettings, change: u64, root: InodeId) -> Mount {
    Mount {
        url: command.url.clone(),
        options: command.options.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        secrets: command.secrets.iter().map(|(key, value)| (key.clone(), value.to_vec())).collect(),
        settings,
        change,
        root,
        many_removed: Stamp::default(),
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
