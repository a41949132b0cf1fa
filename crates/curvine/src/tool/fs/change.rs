//! `mkdir`, `touch`, `rm`, `mv`, `chmod`, `chown`.

use std::process::ExitCode;

use curvine_client::{Entry, FileSystem, NewFile, NewNode};
use curvine_proto::{FileKind, SetAttr};
use curvine_types::{Error, ErrorKind, InodeId, Name, Result};

use crate::tool::path::{clean, find, is_directory, join, last, mode as parse_mode};
use crate::tool::walk::{Walk, list};
use crate::tool::{Context, Failures};

/// RENAME_NOREPLACE.
const NO_REPLACE: u32 = 1;

/// A node of this user, under the umask of the config.
pub fn node(context: &Context, mode: u32) -> NewNode {
    NewNode {
        mode,
        umask: context.conf.client.umask,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

/// Makes directories.
pub async fn mkdir(context: &Context, parents: bool, mode: Option<&str>, paths: &[String]) -> Result<ExitCode> {
    // A mode that was typed is meant as it is.
    let node = match mode {
        Some(mode) => NewNode { mode: parse_mode(mode)?, umask: 0, ..node(context, 0) },
        None => node(context, 0o777),
    };
    let mut failures = Failures::default();
    for typed in paths {
        let outcome = async {
            let path = clean(typed)?;
            if parents {
                return make_all(context, &path, node).await.map(|_| ());
            }
            let (parent, name) = context.fs.resolve_parent(path.as_bytes()).await?;
            context.fs.mkdir(parent.attr.inode, &name, node).await.map(|_| ())
        };
        failures.check(typed, outcome.await);
    }
    Ok(failures.code())
}

/// Makes a directory with its parents; one that is there is fine.
pub async fn make_all(context: &Context, path: &str, last_node: NewNode) -> Result<Entry> {
    make_all_in(&context.fs, path, node(context, 0o777), last_node).await
}

/// The same, with what its parents shall be.
pub async fn make_all_in(fs: &FileSystem, path: &str, parent_node: NewNode, last_node: NewNode) -> Result<Entry> {
    let mut at = fs.resolve(b"/").await?;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for (position, part) in parts.iter().enumerate() {
        let name = Name::new(part.as_bytes())?;
        let node = if position + 1 == parts.len() { last_node } else { parent_node };
        at = match fs.lookup(at.attr.inode, &name).await?.entry {
            Some(there) => there,
            None => match fs.mkdir(at.attr.inode, &name, node).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let there = fs.lookup(at.attr.inode, &name).await?.entry;
                    there.ok_or(error)?
                }
                made => made?,
            },
        };
        if !is_directory(&at) {
            let error = Error::new(ErrorKind::NotADirectory, "a part of the path is not a directory");
            return Err(error.with("path", path).with("name", part));
        }
    }
    Ok(at)
}

/// Makes empty files, or sets their times.
pub async fn touch(context: &Context, paths: &[String]) -> Result<ExitCode> {
    let mut failures = Failures::default();
    for typed in paths {
        let outcome = async {
            let path = clean(typed)?;
            if let Some(there) = find(&context.fs, &path).await? {
                let now = SetAttr { atime_now: true, mtime_now: true, ..SetAttr::default() };
                return context.fs.setattr(there.attr.inode, now).await.map(|_| ());
            }
            let (parent, name) = context.fs.resolve_parent(path.as_bytes()).await?;
            let NewNode { mode, umask, uid, gid } = node(context, 0o666);
            let new = NewFile { mode, umask, uid, gid, exclusive: false, open: None };
            context.fs.create(parent.attr.inode, &name, new).await.map(|_| ())
        };
        failures.check(typed, outcome.await);
    }
    Ok(failures.code())
}

/// Removes files and trees.
pub async fn rm(context: &Context, recursive: bool, force: bool, paths: &[String]) -> Result<ExitCode> {
    let mut failures = Failures::default();
    for typed in paths {
        let found = async {
            let path = clean(typed)?;
            let (parent, name) = context.fs.resolve_parent(path.as_bytes()).await?;
            let entry = context.fs.lookup(parent.attr.inode, &name).await?.entry;
            let entry = entry.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file or directory"))?;
            if is_directory(&entry) && !recursive {
                return Err(Error::new(ErrorKind::IsADirectory, "a directory, use --recursive"));
            }
            Ok((path, parent, name, entry))
        };
        match found.await {
            Ok((path, parent, name, entry)) => {
                remove(&context.fs, &path, parent.attr.inode, &name, &entry, &mut failures).await;
            }
            Err(error) if force && error.kind() == ErrorKind::NotFound => {}
            Err(error) => failures.note(typed, &error),
        }
    }
    Ok(failures.code())
}

/// A directory on the way down.
struct Level {
    path: String,
    parent: InodeId,
    name: Name,
    inode: InodeId,
    /// What is in it has been dealt with.
    emptied: bool,
}

/// Removes an entry and all below it, the deepest first. Failures are noted; what is above a failed one stays.
async fn remove(fs: &FileSystem, path: &str, parent: InodeId, name: &Name, entry: &Entry, failures: &mut Failures) {
    if !is_directory(entry) {
        failures.check(path, fs.unlink(parent, name).await);
        return;
    }
    let mut waiting =
        vec![Level { path: path.to_string(), parent, name: name.clone(), inode: entry.attr.inode, emptied: false }];
    while let Some(mut level) = waiting.pop() {
        if level.emptied {
            failures.check(&level.path, fs.rmdir(level.parent, &level.name).await);
            continue;
        }
        level.emptied = true;
        let (dir, dir_path) = (level.inode, level.path.clone());
        waiting.push(level);
        let Some(items) = failures.check(&dir_path, list(fs, dir).await) else { continue };
        for item in items {
            let path = join(&dir_path, &item.name);
            let Some(name) = failures.check(&path, Name::new(&item.name)) else { continue };
            if item.kind == FileKind::Directory {
                waiting.push(Level { path, parent: dir, name, inode: item.inode, emptied: false });
            } else {
                failures.check(&path, fs.unlink(dir, &name).await);
            }
        }
    }
}

/// Renames, or moves into a directory.
pub async fn mv(context: &Context, no_clobber: bool, from: &str, to: &str) -> Result<ExitCode> {
    let (from, mut to) = (clean(from)?, clean(to)?);
    if find(&context.fs, &to).await?.is_some_and(|there| is_directory(&there)) {
        to = join(&to, last(&from).as_bytes());
    }
    let (old_parent, old_name) = context.fs.resolve_parent(from.as_bytes()).await?;
    let (new_parent, new_name) = context.fs.resolve_parent(to.as_bytes()).await?;
    let flags = if no_clobber { NO_REPLACE } else { 0 };
    let renamed = context.fs.rename(old_parent.attr.inode, &old_name, new_parent.attr.inode, &new_name, flags).await;
    renamed.map_err(|error| error.with("path", &from).with("name", &to))?;
    Ok(ExitCode::SUCCESS)
}

/// Changes permission bits.
pub async fn chmod(context: &Context, recursive: bool, mode: &str, paths: &[String]) -> Result<ExitCode> {
    let change = SetAttr { mode: Some(parse_mode(mode)?), ..SetAttr::default() };
    set_attrs(context, recursive, &change, paths).await
}

/// Changes owner and group.
pub async fn chown(context: &Context, recursive: bool, owner: &str, paths: &[String]) -> Result<ExitCode> {
    let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
    let number = |name: &str, file: &str| if name.is_empty() { Ok(None) } else { id_of(name, file).map(Some) };
    let (uid, gid) = (number(user, "/etc/passwd")?, number(group, "/etc/group")?);
    if uid.is_none() && gid.is_none() {
        return Err(Error::new(ErrorKind::InvalidArgument, "write user, user:group or :group").with("owner", owner));
    }
    set_attrs(context, recursive, &SetAttr { uid, gid, kill_privileges: true, ..SetAttr::default() }, paths).await
}

/// A number, or a name in a file of the form `name:password:number:...`.
fn id_of(name: &str, file: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let table = std::fs::read_to_string(file).unwrap_or_default();
    let line =
        table.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name));
    let number = line.and_then(|fields| fields.get(2).and_then(|number| number.parse().ok()));
    number.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "no such user or group on this machine").with("name", name)
    })
}

async fn set_attrs(context: &Context, recursive: bool, change: &SetAttr, paths: &[String]) -> Result<ExitCode> {
    let mut failures = Failures::default();
    for typed in paths {
        let top = async {
            let path = clean(typed)?;
            Ok((context.fs.resolve(path.as_bytes()).await?, path))
        };
        let Some((entry, path)) = failures.check(typed, top.await) else { continue };
        if !recursive {
            failures.check(&path, context.fs.setattr(entry.attr.inode, *change).await);
            continue;
        }
        let mut walk = Walk::new(&context.fs, &path, entry);
        while let Some(found) = walk.next(&mut failures).await {
            // A symlink has no permissions of its own to change.
            if found.attr.kind() == FileKind::Symlink && change.mode.is_some() {
                continue;
            }
            failures.check(&found.path, context.fs.setattr(found.attr.inode, *change).await);
        }
    }
    Ok(failures.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_by_name_and_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passwd");
        std::fs::write(&file, "root:x:0:0::/root:/bin/sh\nalice:x:1001:100::/home/alice:/bin/sh\n").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!((id_of("alice", file).unwrap(), id_of("77", file).unwrap()), (1001, 77));
        assert!(id_of("bob", file).is_err());
    }
}
