//! Verifies what must always hold, by walking the whole state.

use std::collections::HashMap;

use curvine_types::{Error, ErrorKind, InodeId, ROOT_INODE, Result};

use crate::record::*;
use crate::state::{State, Tally};
use crate::store::Store;

/// What the names say about inodes.
#[derive(Default)]
struct Names {
    links: HashMap<InodeId, u32>,
    /// Names besides the one in the inode's record.
    further: HashMap<InodeId, u32>,
    entries: HashMap<u64, u64>,
    subdirectories: HashMap<u64, u32>,
}

impl State {
    /// The first broken invariant, as an `Internal` error.
    pub fn check(&self) -> Result<()> {
        if self.meta.cluster.is_none() {
            return Ok(());
        }
        let names = self.check_names()?;
        let mut tally = Tally::default();
        for (id, inode) in self.store.inodes() {
            tally.count(&inode, true);
            self.check_inode(id, &inode, &names)?;
        }
        for (id, data) in self.store.all_inline() {
            tally.inline_bytes += data.len() as u64;
            self.need_inode(id, "inline content")?;
        }
        ensure(tally == self.meta.tally, "the sums over all inodes differ", 0)?;
        for (id, ()) in self.pins.iter() {
            self.need_inode(*id, "a pin")?;
        }
        for (id, _) in self.ttls.iter() {
            self.need_inode(*id, "a time to live")?;
        }
        for ((mount, _), _) in self.tree_moves.iter() {
            ensure(self.mounts.contains(mount), "a moved tree of no mount", u64::from(*mount))?;
        }
        for (id, used) in self.recount_quotas() {
            self.need_inode(id, "a quota")?;
            let known = self.quotas.get(&id).map(|quota| (quota.used_files, quota.used_bytes));
            ensure(known == Some(used), "what a quota counts differs", id)?;
        }
        self.check_owners()
    }

    fn check_names(&self) -> Result<Names> {
        let mut names = Names::default();
        for (table, cookie, dentry) in self.store.dentries() {
            let child = self.store.inode(dentry.child);
            let is_dir = child.is_some_and(|child| child.is_dir());
            ensure(child.is_some(), "a name without inode", dentry.child)?;
            ensure(cookie < self.meta.next_cookie, "a cookie from the future", dentry.child)?;
            let found = self.store.find_dentry(table, dentry.name.as_bytes());
            ensure(found == Some((cookie, dentry.child)), "a name that is not found, or is there twice", dentry.child)?;
            *names.links.entry(dentry.child).or_default() += 1;
            *names.entries.entry(table).or_default() += 1;
            *names.subdirectories.entry(table).or_default() += u32::from(is_dir);
        }
        for (id, dir, cookie) in self.store.links() {
            let table = self.store.inode(dir).map_or(dir, |dir| dir.content);
            let named = self.store.dentry(table, cookie).is_some_and(|dentry| dentry.child == id);
            ensure(named, "a further name that is not there", id)?;
            *names.further.entry(id).or_default() += 1;
        }
        Ok(names)
    }

    fn check_inode(&self, id: InodeId, inode: &Inode, names: &Names) -> Result<()> {
        ensure(id < self.meta.next_inode, "an inode from the future", id)?;
        let links = names.links.get(&id).copied().unwrap_or_default();
        if inode.is_dir() {
            let entries = names.entries.get(&inode.content).copied().unwrap_or_default();
            let subdirectories = names.subdirectories.get(&inode.content).copied().unwrap_or_default();
            ensure(inode.size == entries, "the number of entries differs", id)?;
            let nlink = if links == 0 && id != ROOT_INODE { 0 } else { 2 + subdirectories };
            ensure(inode.nlink == nlink, "the link count of a directory differs", id)?;
            ensure(links <= 1, "a directory with several names", id)?;
        } else {
            ensure(inode.nlink == links, "the link count differs", id)?;
        }
        if links > 0 {
            let directory = self.store.inode(inode.parent);
            let table = directory.map_or(inode.parent, |directory| directory.content);
            let named = self.store.dentry(table, inode.cookie).is_some_and(|dentry| dentry.child == id);
            let doomed = self.doomed.len() > 0;
            ensure(named || doomed, "the noted name is another inode's", id)?;
            let further = names.further.get(&id).copied().unwrap_or_default();
            ensure(further + 1 == links, "the noted further names differ", id)?;
        } else if id != ROOT_INODE {
            let has_writers = self.grants.get(&id).is_some_and(|grant| !grant.writers.is_empty());
            ensure(has_writers || self.first_holder(id).is_some(), "an inode that nobody can reach", id)?;
        }
        self.check_content(id, inode)
    }

    fn check_content(&self, id: InodeId, inode: &Inode) -> Result<()> {
        let placed = self.store.placed(id);
        let is_blocks = matches!(placed.as_deref(), Some(Placed::Blocks(_)));
        let is_object = matches!(placed.as_deref(), Some(Placed::Ufs(_)));
        ensure(inode.has(BLOCKS) == is_blocks, "blocks without flag, or the reverse", id)?;
        ensure(inode.is_object() == is_object, "an object without flag, or the reverse", id)?;
        ensure(inode.has(DIRTY) == self.uploads.contains(&id), "a dirty file without an upload, or the reverse", id)?;
        ensure(!inode.has(DIRTY) || inode.has(UFS) && inode.is_file(), "dirty and of no mount", id)?;
        ensure((inode.has(UFS) && inode.is_dir()) == self.ufs_dirs.contains(&id), "a directory of no mount", id)?;
        ensure(inode.has(LIVE) == self.live.contains(&id) && (is_blocks || !inode.has(LIVE)), "live or not", id)?;
        let inline = self.store.inline(id).map_or(0, |data| data.len() as u64);
        let expected =
            if inode.is_inline() || inode.kind() == curvine_proto::FileKind::Symlink { inode.size } else { 0 };
        ensure(inline == expected, "inline content is not as long as the file", id)?;
        let has_xattrs = self.store.xattrs_of(id).next().is_some();
        ensure(inode.has(XATTRS) == has_xattrs, "attributes without flag, or the reverse", id)?;
        let has_grant = self.grants.contains(&id);
        ensure(!is_blocks || has_grant, "blocks without an epoch", id)
    }

    /// Locks, grants and holds belong to inodes and sessions that exist, and each is found from its session.
    fn check_owners(&self) -> Result<()> {
        let mut holdings = 0;
        let mut found = |session, held, id| {
            holdings += 1;
            ensure(self.sessions.contains(&session), "held by a session that has ended", id)?;
            ensure(self.held.contains(&(session, held, id)), "not found from its session", id)
        };
        for (id, grant) in self.grants.iter() {
            self.need_inode(*id, "a grant")?;
            for writer in &grant.writers {
                found(*writer, Held::Write, *id)?;
            }
        }
        for ((id, session), ()) in self.orphans.iter() {
            self.need_inode(*id, "a hold")?;
            found(*session, Held::Orphan, *id)?;
        }
        for (id, locks) in self.locks.iter() {
            self.need_inode(*id, "a lock")?;
            let mut sessions: Vec<_> = locks.iter().map(|lock| lock.session).collect();
            sessions.sort_unstable();
            sessions.dedup();
            for session in sessions {
                found(session, Held::Lock, *id)?;
            }
        }
        for (id, job) in self.jobs.iter() {
            ensure(*id == job.id && *id < self.meta.next_job, "a job of another number", job.inode)?;
            let key = (job.mount, job.key.as_str().into(), *id);
            ensure(self.job_keys.contains(&key), "a job that is not found by its key", job.inode)?;
        }
        ensure(self.job_keys.len() == self.jobs.len(), "keys of jobs that are not there", 0)?;
        self.check_trash()?;
        for (id, job) in self.uploads.iter() {
            self.need_inode(*id, "an upload")?;
            ensure(self.jobs.get(job).is_some_and(|job| job.inode == *id), "an upload of another inode", *id)?;
        }
        ensure(holdings == self.held.len(), "sessions hold what is not there", 0)?;
        for (id, _) in self.store.all_placed() {
            self.need_inode(id, "a layout")?;
        }
        for (id, name, _) in self.store.xattrs() {
            self.need_inode(id, &String::from_utf8_lossy(name.as_bytes()))?;
        }
        for (id, session) in self.sessions.iter() {
            let kept = self.results.range(&(*id, 0)).take_while(|((have, _), _)| have == id).count();
            ensure(kept == session.kept as usize, "the number of kept results differs", *id)?;
            ensure(self.ending.contains(id) == session.ending, "a session whose end is not noted", *id)?;
            ensure(self.clients.contains(&(session.client.clone(), *id)), "not found from its client", *id)?;
        }
        Ok(())
    }

    fn check_trash(&self) -> Result<()> {
        for (id, entry) in self.trash.iter() {
            ensure(*id == entry.id && *id < self.meta.next_trash, "an entry of the trash of another number", 0)?;
            let order = (entry.mount, entry.held, *id);
            ensure(self.trash_order.contains(&order), "an entry of the trash without its order", 0)?;
        }
        ensure(self.trash_order.len() == self.trash.len(), "an order of trash that is not there", 0)?;
        for ((mount, key), id) in self.trash_keys.iter() {
            let entry = self.trash.get(id);
            let is_there =
                entry.is_some_and(|entry| (entry.mount, entry.key.as_str()) == (*mount, key) && !entry.moved);
            ensure(is_there, "a key of trash that is not there", 0)?;
        }
        Ok(())
    }

    fn need_inode(&self, id: InodeId, what: &str) -> Result<()> {
        ensure(self.store.inode(id).is_some(), &format!("{what} of no inode"), id)
    }
}

fn ensure(holds: bool, message: &str, inode: InodeId) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(ErrorKind::Internal, message).with("inode", inode)) }
}
