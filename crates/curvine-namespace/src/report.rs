//! Reading what belongs to clients and workers: grants, locks, sessions, workers, mounts, trees that move in them, garbage.

use bytes::Bytes;
use curvine_proto::{FileKind, Garbage, Job, LockHolder, MountInfo, NoteTreeMove, SetLock};
use curvine_types::{Cookie, ErrorKind, Generation, InodeId, MountId, Name, Result, SessionId, WorkerId};

use crate::api::*;
use crate::namespace::Namespace;
use crate::record::*;
use crate::state::{State, fail};
use crate::store::Store;

impl Namespace {
    /// Who may write an inode; `None` if nobody does and no worker knows an epoch of it.
    pub fn grant(&self, inode: InodeId) -> Option<Grant> {
        let grant = self.state.grants.get(&inode)?;
        Some(Grant { epoch: grant.epoch, writers: grant.writers.clone() })
    }

    /// Live inodes above `after`, ascending, with and without writers.
    pub fn live_inodes(&self, after: InodeId, limit: usize) -> Vec<InodeId> {
        let from = after.saturating_add(1);
        self.state.live.range(&from).take(limit).map(|(id, ())| *id).collect()
    }

    /// What is pinned, with a path of each.
    pub fn pins(&self) -> Vec<(InodeId, Vec<u8>)> {
        self.state.pins.iter().map(|(id, ())| (*id, self.state.path(*id).unwrap_or_default())).collect()
    }

    /// Whether an inode, or a directory above it, is pinned.
    pub fn is_pinned(&self, inode: InodeId) -> bool {
        self.state.is_pinned(inode)
    }

    /// Rises with each change of pins.
    pub fn pins_change(&self) -> u64 {
        self.state.meta.pins_change
    }

    /// All quotas, by their directories.
    pub fn quotas(&self) -> Vec<QuotaRecord> {
        self.state.quotas.iter().map(|(id, quota)| self.quota_record(*id, quota)).collect()
    }

    /// The quotas of a directory and of those above it, the nearest first.
    pub fn quotas_above(&self, dir: InodeId) -> Vec<QuotaRecord> {
        let above = self.state.quotas_above(dir).into_iter();
        above.filter_map(|id| Some(self.quota_record(id, self.state.quotas.get(&id)?))).collect()
    }

    /// Whether a file may grow on workers: `QuotaExceeded` if a quota above it is used up. `again`: it did before.
    pub fn quota_room(&self, inode: InodeId, again: bool) -> Result<()> {
        self.state.check_quota_room(&self.state.inode(inode)?, again)
    }

    /// Whether a file may have so many bytes.
    pub fn quota_growth(&self, inode: InodeId, size: u64) -> Result<()> {
        self.state.check_growth(&self.state.inode(inode)?, size)
    }

    /// Whether a quota counts an inode.
    pub fn is_below_quota(&self, inode: InodeId) -> bool {
        let noted = self.state.store.inode(inode).filter(|inode| inode.cookie != 0);
        noted.is_some_and(|inode| !self.state.quotas_above(inode.parent).is_empty())
    }

    /// Quotas whose directories are not counted to the end.
    pub fn uncounted_quotas(&self) -> usize {
        self.state.uncounted_quotas().len()
    }

    fn quota_record(&self, inode: InodeId, quota: &Quota) -> QuotaRecord {
        QuotaRecord {
            inode,
            path: self.state.path(inode).unwrap_or_default(),
            bytes: quota.bytes,
            files: quota.files,
            used_bytes: quota.used_bytes,
            used_files: quota.used_files,
            counting: quota.counted != InodeId::MAX,
        }
    }

    /// The lock that stands against one that `session` would take, if any.
    pub fn conflicting_lock(&self, session: SessionId, lock: &SetLock) -> Result<Option<LockHolder>> {
        self.state.conflicting_lock(session, lock)
    }

    /// A session that has not ended.
    pub fn session(&self, id: SessionId) -> Option<SessionRecord> {
        self.state.sessions.get(&id).filter(|session| !session.ending).map(|session| session_record(id, session))
    }

    /// Sessions that are over and still hold something.
    pub fn ending_sessions(&self) -> Vec<SessionId> {
        self.state.ending.iter().map(|(id, ())| *id).collect()
    }

    /// All sessions that have not ended, by their ids.
    pub fn sessions(&self) -> Vec<SessionRecord> {
        let alive = self.state.sessions.iter().filter(|(_, session)| !session.ending);
        alive.map(|(id, session)| session_record(*id, session)).collect()
    }

    /// The unlinked inodes that a session holds.
    pub fn orphans_of(&self, session: SessionId) -> Vec<InodeId> {
        let held = self.state.held.range(&(session, Held::Orphan, 0));
        held.take_while(|((have, held, _), ())| (*have, *held) == (session, Held::Orphan))
            .map(|((_, _, id), ())| *id)
            .collect()
    }

    /// All workers that ever registered, by their ids.
    pub fn workers(&self) -> Vec<WorkerRecord> {
        self.state.workers.iter().map(|(_, worker)| worker.clone()).collect()
    }

    /// A worker that once registered.
    pub fn worker(&self, id: WorkerId) -> Option<WorkerRecord> {
        self.state.workers.get(&id).cloned()
    }

    /// The mount table, with secrets.
    pub fn mounts(&self) -> Vec<MountInfo> {
        self.state.mounts.iter().map(|(id, mount)| self.state.mount_info(*id, mount)).collect()
    }

    /// An entry of the mount table, with secrets.
    pub fn mount(&self, id: MountId) -> Option<MountInfo> {
        self.state.mounts.get(&id).map(|mount| self.state.mount_info(id, mount))
    }

    /// Trees of mounts that are moved in their stores, as they were noted.
    pub fn tree_moves(&self) -> Vec<NoteTreeMove> {
        self.state.tree_moves.iter().map(|(_, noted)| NoteTreeMove::clone(noted)).collect()
    }

    /// Whether the move of a tree is noted.
    pub fn is_tree_moved(&self, mount: MountId, from: &str) -> bool {
        self.state.tree_moves.contains(&(mount, from.into()))
    }

    /// What a directory of a mount is bound to; `None` for all other inodes.
    pub fn ufs_dir(&self, inode: InodeId) -> Option<UfsDir> {
        let dir = self.state.ufs_dirs.get(&inode)?;
        Some(UfsDir { mount: dir.mount, prefix: dir.prefix.to_string(), complete_at: dir.complete_at.map(Into::into) })
    }

    /// Known names of a directory of a mount, by cookies above `after`, and whether these were the last.
    pub fn ufs_names(&self, dir: InodeId, after: Cookie, limit: usize) -> Result<(Vec<UfsName>, bool)> {
        let state = &self.state;
        let inode = state.dir(dir)?;
        if !state.ufs_dirs.contains(&dir) {
            return Err(fail(ErrorKind::InvalidArgument, "not a directory of an under file system").with("inode", dir));
        }
        let mut rest = state.store.dentries_after(inode.content, after);
        let names = rest.by_ref().take(limit).filter_map(|(cookie, dentry)| state.ufs_name(cookie, dentry));
        let names = names.collect();
        Ok((names, rest.next().is_none()))
    }

    /// Names that are made from now on have this cookie or a higher one.
    pub fn next_cookie(&self) -> Cookie {
        self.state.meta.next_cookie
    }

    /// Changes of stores that Curvine has made so far; a look that begins now is told this number.
    pub fn stores(&self) -> u64 {
        self.state.meta.stores
    }

    /// The key that a new name in a directory of a mount would have; the error of the command if it cannot be made.
    pub fn key_of_new(&self, dir: InodeId, name: &[u8], kind: FileKind) -> Result<String> {
        self.state.key_of_new(dir, &Name::new(name)?, kind)
    }

    /// `ReadOnly` if the inode is of a mount that is.
    pub fn check_writable(&self, inode: InodeId) -> Result<()> {
        self.state.check_writable(inode, &self.state.inode(inode)?)
    }

    /// The upload that a dirty file waits for.
    pub fn upload_of(&self, inode: InodeId) -> Option<Job> {
        self.state.upload_of(inode).map(|job| Job::clone(job))
    }

    /// A job that is not done.
    pub fn job(&self, id: u64) -> Option<Job> {
        self.state.jobs.get(&id).map(|job| Job::clone(job))
    }

    /// Jobs that are not done, by numbers above `after`, of one mount or (0) of all, and whether these were the last.
    pub fn jobs(&self, mount: MountId, after: u64, limit: usize) -> (Vec<Job>, bool) {
        let all = self.state.jobs.range(&after.saturating_add(1));
        let mut rest = all.filter(|(_, job)| mount == 0 || job.mount == mount);
        let jobs = rest.by_ref().take(limit).map(|(_, job)| Job::clone(job)).collect();
        (jobs, rest.next().is_none())
    }

    /// Loads, exports and frees, by numbers above `after`, and whether these were the last.
    pub fn tasks(&self, after: u64, limit: usize) -> (Vec<Job>, bool) {
        let mut rest = self.state.tasks_after(after);
        let tasks = rest.by_ref().take(limit).cloned().collect();
        (tasks, rest.next().is_none())
    }

    /// The inodes of the files below a directory of a mount that are dirty, at most `limit`.
    pub fn dirty_below(&self, mount: MountId, prefix: &str, limit: usize) -> Vec<InodeId> {
        let from = self.state.job_keys.range(&(mount, prefix.into(), 0));
        let below = from.take_while(|((have, key, _), ())| *have == mount && key.starts_with(prefix));
        below.filter_map(|((.., id), ())| self.state.jobs.get(id).map(|job| job.inode)).take(limit).collect()
    }

    /// Contents that workers should delete; those that [`curvine_proto::ForgetGarbage`] names are gone.
    pub fn garbage(&self, limit: usize) -> Vec<Garbage> {
        let items = self.state.garbage.iter().take(limit);
        items
            .map(|((worker, inode, generation), ())| Garbage {
                worker: *worker,
                inode: *inode,
                generation: *generation,
            })
            .collect()
    }

    /// Contents that workers have, of inodes above `after`, ascending, at most `limit`.
    pub fn placed_after(&self, after: InodeId, limit: usize) -> Vec<PlacedRecord> {
        let placed = self.state.store.placed_after(after);
        placed.filter_map(|(id, placed)| self.state.placed_record(id, placed)).take(limit).collect()
    }

    /// The content of one file that workers have, with a path of the file.
    pub fn placed(&self, inode: InodeId) -> Option<PlacedRecord> {
        let placed = self.state.store.placed(inode)?;
        let record = self.state.placed_record(inode, &placed)?;
        Some(PlacedRecord { path: self.state.path(inode), ..record })
    }

    /// Whether a content is known to be garbage.
    pub fn is_garbage(&self, inode: InodeId, generation: Generation, worker: WorkerId) -> bool {
        self.state.garbage.contains(&(worker, inode, generation))
    }

    /// What a content that a worker has is to the namespace.
    pub fn content_wanted(&self, inode: InodeId, generation: Generation, worker: WorkerId) -> Wanted {
        let Some(record) = self.state.store.inode(inode).filter(Inode::is_file) else { return Wanted::No };
        if record.content != generation {
            return Wanted::No;
        }
        match self.state.store.placed(inode).as_deref() {
            Some(Placed::Blocks(blocks)) => {
                let extent = blocks.extents.iter().find(|extent| extent.workers.contains(&worker));
                extent.map_or(Wanted::No, |extent| Wanted::Authoritative { version: extent.version })
            }
            Some(Placed::Ufs(_)) => Wanted::Cached,
            None => Wanted::No,
        }
    }
}

fn session_record(id: SessionId, session: &Session) -> SessionRecord {
    SessionRecord {
        id,
        kind: session.kind.try_into().unwrap_or_default(),
        client: session.client.to_string(),
        hostname: session.hostname.to_string(),
        opened: session.opened.into(),
    }
}

impl State {
    fn placed_record(&self, inode: InodeId, placed: &Placed) -> Option<PlacedRecord> {
        let Placed::Blocks(blocks) = placed else { return None };
        let record = self.store.inode(inode)?;
        let mut workers: Vec<WorkerId> = blocks.extents.iter().flat_map(|extent| extent.workers.clone()).collect();
        workers.sort_unstable();
        workers.dedup();
        Some(PlacedRecord {
            inode,
            generation: record.content,
            version: blocks.extents.first().map_or(0, |extent| extent.version),
            workers,
            size: record.size,
            live: record.has(LIVE),
            path: None,
        })
    }

    fn mount_info(&self, id: MountId, mount: &Mount) -> MountInfo {
        MountInfo {
            id,
            path: self.path(mount.root).unwrap_or_default().into(),
            url: mount.url.clone(),
            options: mount.options.clone().into_iter().collect(),
            secrets: mount.secrets.iter().map(|(key, value)| (key.clone(), Bytes::from(value.clone()))).collect(),
            settings: Some(mount.settings.clone()),
            change: mount.change,
            root_inode: mount.root,
        }
    }

    fn ufs_name(&self, cookie: Cookie, dentry: &Dentry) -> Option<UfsName> {
        let inode = self.store.inode(dentry.child)?;
        let (key, etag, mtime) = match self.store.placed(dentry.child).as_deref() {
            Some(Placed::Ufs(object)) => (object.key.to_string(), object.etag.to_string(), object.mtime),
            _ => {
                let prefix = self.ufs_dirs.get(&dentry.child).map(|dir| dir.prefix.to_string());
                (prefix.unwrap_or_default(), String::new(), inode.mtime)
            }
        };
        Some(UfsName {
            cookie,
            name: Bytes::copy_from_slice(dentry.name.as_bytes()),
            inode: dentry.child,
            state: if inode.has(DIRTY) { EntryState::Dirty } else { EntryState::Clean },
            directory: inode.is_dir(),
            key,
            etag,
            generation: inode.generation(),
            size: inode.size,
            mtime: mtime.into(),
        })
    }
}
