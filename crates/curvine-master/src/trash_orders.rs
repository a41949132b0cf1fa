//! What an operator asks of the trash: a list, names given back, room.

use std::collections::HashMap;

use curvine_proto::{
    ChangeTrashReply, ChangeTrashRequest, EditTrash, ListTrashReply, ListTrashRequest, MountInfo, StoreChangeKind,
    TaskFailure, TrashEntry, TrashInfo,
};
use curvine_types::limits::TRASH_EDITS_MAX;
use curvine_types::{Error, ErrorKind, MountId, Result};
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::permission;
use crate::trash::{is_same, until_of};

/// Entries looked at for one request.
const LOOKED_AT: usize = 10_000;
/// Entries of one answer.
const PAGE_MAX: usize = 1000;
/// Objects changed at once.
const AT_ONCE: usize = 16;

fn path_of(mount: &MountInfo, entry: &TrashEntry) -> Vec<u8> {
    let mut path = mount.path.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(entry.key.trim_end_matches('/').as_bytes());
    path
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The keys of the directories above a key, from the top.
fn above(key: &str) -> Vec<String> {
    let key = key.strip_suffix('/').unwrap_or(key);
    key.match_indices('/').filter_map(|(end, _)| key.get(..=end)).map(str::to_string).collect()
}

impl Leader {
    pub(crate) fn list_trash(&self, request: ListTrashRequest) -> Result<ListTrashReply> {
        self.sessions.check(request.session)?;
        const STEP: usize = 500;
        let limit = (request.limit as usize).clamp(1, PAGE_MAX);
        let mut mounts: HashMap<MountId, Option<MountInfo>> = HashMap::new();
        let mut reply = ListTrashReply { after: request.after, ..ListTrashReply::default() };
        for _ in 0..LOOKED_AT / STEP {
            let state = self.replica.state().read();
            let (page, end) = state.0.trash(reply.after, STEP);
            for entry in page {
                if reply.entries.len() == limit {
                    return Ok(reply);
                }
                reply.after = entry.id;
                let mount = mounts.entry(entry.mount).or_insert_with(|| state.0.mount(entry.mount));
                let Some(mount) = mount else { continue };
                let path = path_of(mount, &entry);
                if !is_below(&path, &request.path) {
                    continue;
                }
                reply.entries.push(TrashInfo {
                    id: entry.id,
                    path: path.into(),
                    size: entry.object.as_ref().map_or(0, |object| object.size),
                    directory: entry.directory(),
                    removed: entry.removed,
                    until: Some(until_of(mount, &entry)),
                    held: entry.held,
                });
            }
            reply.end = end;
            if end {
                break;
            }
        }
        Ok(reply)
    }

    /// Gives entries their names back, or (`empty`) has their stores delete them.
    pub(crate) async fn change_trash(
        &self,
        request: ChangeTrashRequest,
        empty: bool,
        deadline: Instant,
    ) -> Result<ChangeTrashReply> {
        self.sessions.check(request.session)?;
        permission::check_root(self, request.session, request.caller.as_ref())?;
        if request.ids.len() > TRASH_EDITS_MAX {
            return Err(Error::new(ErrorKind::TooBig, "too many entries at once").with("limit", TRASH_EDITS_MAX));
        }
        let change = |id| async move {
            let path = self.trashed(id).map(|(entry, mount)| path_of(&mount, &entry)).unwrap_or_default();
            let changed = if empty { self.purge(id).await } else { self.restore(id, deadline).await };
            (path, changed)
        };
        let mut changes = stream::iter(request.ids).map(change).buffered(AT_ONCE);
        let mut reply = ChangeTrashReply::default();
        while let Some((path, changed)) = changes.next().await {
            match changed {
                Ok(()) => reply.done += 1,
                Err(error) => reply.failures.push(TaskFailure { path: path.into(), error: error.to_string() }),
            }
        }
        Ok(reply)
    }

    async fn restore(&self, id: u64, deadline: Instant) -> Result<()> {
        let gone = || Error::new(ErrorKind::NotFound, "the trash does not have it any more");
        let (entry, mount) = self.trashed(id).ok_or_else(gone)?;
        {
            let _turn = self.uploads.keys.turn(mount.id, &entry.key, deadline).await?;
            let (entry, mount) = self.trashed(id).ok_or_else(gone)?;
            self.check_free(&mount, &entry)?;
            self.put_back(&mount, &entry, deadline).await?;
            let mut forget = vec![id];
            {
                let state = self.replica.state().read();
                let dirs = above(&entry.key);
                forget.extend(dirs.iter().filter_map(|dir| state.0.trash_at(mount.id, dir)).map(|dir| dir.id));
            }
            for forget in forget.chunks(TRASH_EDITS_MAX) {
                self.edit_trash(EditTrash { forget: forget.to_vec(), ..Default::default() }).await?;
            }
        }
        self.show(&mount, &entry, deadline).await
    }

    /// Whether nothing else has the name now, or is in the place of a directory above it.
    fn check_free(&self, mount: &MountInfo, entry: &TrashEntry) -> Result<()> {
        let state = self.replica.state().read();
        let names: Vec<&str> = entry.key.trim_end_matches('/').split('/').collect();
        let mut dir = mount.root_inode;
        for (position, name) in names.iter().enumerate() {
            let Some(child) = state.0.lookup(dir, name.as_bytes())? else { return Ok(()) };
            let is_last = position + 1 == names.len();
            let is_dir = child.kind() == curvine_proto::FileKind::Directory;
            let may_stay = is_dir && (entry.directory() || !is_last);
            if !may_stay {
                let message = "there is something else of that name now; rename or remove it first";
                return Err(Error::new(ErrorKind::AlreadyExists, message).with("name", name));
            }
            dir = child.inode;
        }
        Ok(())
    }

    /// Puts what was removed where it was, in the store. The caller has the key's turn.
    async fn put_back(&self, mount: &MountInfo, entry: &TrashEntry, deadline: Instant) -> Result<()> {
        let found = self.stat_in_store(mount, entry.key.clone(), deadline).await?;
        if found.as_ref().is_some_and(|found| is_same(entry.object.as_ref(), found)) && !entry.moved {
            return Ok(());
        }
        if found.is_some() && !entry.directory() {
            let message = "the store has something else under that key now; rename or remove it first";
            return Err(Error::new(ErrorKind::AlreadyExists, message).with("key", &entry.key));
        }
        let source = match entry.moved_to.is_empty() {
            true => None,
            false => self.stat_in_store(mount, entry.moved_to.clone(), deadline).await?,
        };
        if source.is_none() && !entry.directory() {
            self.edit_trash(EditTrash { forget: vec![entry.id], ..Default::default() }).await?;
            return Err(Error::new(ErrorKind::NotFound, "the store does not have it any more").with("key", &entry.key));
        }
        let own = entry.directory().then(|| entry.key.clone());
        for dir in above(&entry.key).into_iter().chain(own) {
            self.change_store(mount, StoreChangeKind::MakeDirectory, &dir, "", None, deadline).await?;
        }
        if !entry.directory() {
            self.change_store(mount, StoreChangeKind::Move, &entry.moved_to, &entry.key, source, deadline).await?;
        }
        Ok(())
    }

    /// Has the names looked up in the store, so that all mounts see them at once.
    async fn show(&self, mount: &MountInfo, entry: &TrashEntry, deadline: Instant) -> Result<()> {
        let mut dir = self.attr_now(mount.root_inode)?;
        for name in entry.key.trim_end_matches('/').split('/') {
            let name = bytes::Bytes::copy_from_slice(name.as_bytes());
            self.look_at_name(&dir, &name, true, deadline).await?;
            match self.name_now(dir.inode, &name)? {
                Some(child) => dir = child,
                None => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_a_key_is_named_from_the_top() {
        assert_eq!(above("a/b/c"), ["a/", "a/b/"]);
        assert_eq!(above("a/b/"), ["a/"]);
        assert!(above("a").is_empty());
        assert!(is_below(b"/m/a/b", b"/m/a") && is_below(b"/m/a", b"/m/a/") && is_below(b"/m", b"/"));
        assert!(!is_below(b"/m/ab", b"/m/a"));
    }
}
