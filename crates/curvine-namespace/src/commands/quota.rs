//! Quotas on directories: how much may be below one, and how much is.
//!
//! Counted are names of every kind, each inode once (by the name that its record notes), and the sizes of files as the log has them;
//! what belongs to an under file system is not counted. Usage follows each change of a name or a size. A quota on a directory that
//! holds something already counts it step by step (`CountQuotas`), in the order of inode numbers, while changes go on.
//!
//! Always: `used_*` of a quota are the sums over the inodes numbered up to `counted` that are below its directory; a directory that is
//! not empty stays below the same quotas, so that no move has to count a tree.

use std::collections::BTreeMap;

use curvine_proto::{CountQuotas, Outcome, SetQuota};
use curvine_types::{Error, ErrorKind, InodeId, Result};

use crate::record::*;
use crate::state::{State, fail};
use crate::store::Store;

/// Quotas of a cluster.
const QUOTAS_MAX: usize = 65_536;
/// Inodes that one command counts at most, so that it holds up nobody.
const STEPS_MAX: u32 = 4096;

/// What an inode adds to the quotas above it; nothing, if an under file system has it.
fn weight(inode: &Inode) -> Option<u64> {
    let counts = !inode.has(UFS) || inode.has(MOUNT_ROOT);
    counts.then_some(if inode.is_file() { inode.size } else { 0 })
}

impl State {
    pub(super) fn set_quota(&mut self, command: &SetQuota) -> Result<Outcome> {
        let id = command.inode;
        let dir = self.dir(id)?;
        if command.remove {
            self.quotas.remove(&id).ok_or_else(|| fail(ErrorKind::NotFound, "this directory has no quota"))?;
            return Ok(Outcome { attr: self.attr(id), ..Outcome::default() });
        }
        if dir.has(UFS) {
            let message = "quotas count what Curvine itself stores, and this directory is of an under file system";
            return Err(fail(ErrorKind::NotSupported, message).with("inode", id));
        }
        if command.bytes == 0 && command.files == 0 {
            return Err(fail(ErrorKind::InvalidArgument, "a quota limits bytes, files or both").with("inode", id));
        }
        let known = self.quotas.get(&id).copied();
        if known.is_none() && self.quotas.len() >= QUOTAS_MAX {
            return Err(fail(ErrorKind::NoSpace, "there are too many quotas").with("limit", QUOTAS_MAX));
        }
        // Of an empty directory everything is counted.
        let counted = if dir.size == 0 { InodeId::MAX } else { 0 };
        let quota = known.unwrap_or(Quota { counted, ..Quota::default() });
        self.quotas.insert(id, Quota { bytes: command.bytes, files: command.files, ..quota });
        Ok(Outcome { attr: self.attr(id), created: known.is_none(), ..Outcome::default() })
    }

    /// Counts some more of what was there before its quota; the outcome's id is the number of quotas that are not done.
    pub(super) fn count_quotas(&mut self, command: &CountQuotas) -> Result<Outcome> {
        let mut steps = command.steps.min(STEPS_MAX) as usize;
        for id in self.uncounted_quotas() {
            if steps == 0 {
                break;
            }
            steps -= self.count_some(id, steps);
        }
        Ok(Outcome { id: self.uncounted_quotas().len() as u64, ..Outcome::default() })
    }

    /// Quotas whose directories are not counted to the end.
    pub(crate) fn uncounted_quotas(&self) -> Vec<InodeId> {
        self.quotas.iter().filter(|(_, quota)| quota.counted != InodeId::MAX).map(|(id, _)| *id).collect()
    }

    /// Looks at up to `steps` inodes for one quota; how many it were, at least 1.
    fn count_some(&mut self, id: InodeId, steps: usize) -> usize {
        let Some(mut quota) = self.quotas.get(&id).copied() else { return 1 };
        let next: Vec<(InodeId, Inode)> = self.store.inodes_after(quota.counted).take(steps).collect();
        for (below, inode) in &next {
            if inode.cookie != 0
                && let Some(bytes) = weight(inode)
                && self.quotas_above(inode.parent).contains(&id)
            {
                quota.used_files += 1;
                quota.used_bytes = quota.used_bytes.saturating_add(bytes);
            }
            quota.counted = *below;
        }
        if next.len() < steps {
            quota.counted = InodeId::MAX;
        }
        self.quotas.insert(id, quota);
        next.len().max(1)
    }

    /// The directories with quotas from this one up to the root.
    pub(crate) fn quotas_above(&self, dir: InodeId) -> Vec<InodeId> {
        if self.quotas.len() == 0 {
            return Vec::new();
        }
        self.upwards(dir).filter(|dir| self.quotas.contains(dir)).collect()
    }

    /// An inode gets its noted name in a directory, or loses it.
    pub(crate) fn charge_name(&mut self, id: InodeId, dir: InodeId, add: bool) {
        if self.quotas.len() == 0 {
            return;
        }
        let Some(bytes) = self.store.inode(id).as_ref().and_then(weight) else { return };
        for above in self.quotas_above(dir) {
            let Some(quota) = self.quotas.get_mut(&above).filter(|quota| id <= quota.counted) else { continue };
            if add {
                quota.used_files += 1;
                quota.used_bytes = quota.used_bytes.saturating_add(bytes);
            } else {
                quota.used_files = quota.used_files.saturating_sub(1);
                quota.used_bytes = quota.used_bytes.saturating_sub(bytes);
            }
        }
    }

    /// A file that has a name went from one size to another.
    pub(crate) fn charge_size(&mut self, id: InodeId, before: u64, after: u64) {
        if self.quotas.len() == 0 || before == after {
            return;
        }
        let Some(inode) = self.store.inode(id).filter(|inode| inode.cookie != 0 && weight(inode).is_some()) else {
            return;
        };
        for above in self.quotas_above(inode.parent) {
            if let Some(quota) = self.quotas.get_mut(&above).filter(|quota| id <= quota.counted) {
                quota.used_bytes = quota.used_bytes.saturating_sub(before).saturating_add(after);
            }
        }
    }

    /// `QuotaExceeded` if so much more in a directory is more than a quota above it allows.
    pub(super) fn check_quotas(&self, dir: InodeId, files: u64, bytes: u64) -> Result<()> {
        self.quotas_above(dir).into_iter().try_for_each(|above| self.check_quota(above, files, bytes))
    }

    fn check_quota(&self, dir: InodeId, files: u64, bytes: u64) -> Result<()> {
        let Some(quota) = self.quotas.get(&dir) else { return Ok(()) };
        let exceeds = |limit: u64, used: u64, more: u64| limit > 0 && more > 0 && used.saturating_add(more) > limit;
        if exceeds(quota.files, quota.used_files, files) {
            return Err(self.exceeded(dir, "the quota of files is used up", quota.files));
        }
        if exceeds(quota.bytes, quota.used_bytes, bytes) {
            return Err(self.exceeded(dir, "the quota of bytes is used up", quota.bytes));
        }
        Ok(())
    }

    fn exceeded(&self, dir: InodeId, message: &str, limit: u64) -> Error {
        let path = self.path(dir).map(|path| String::from_utf8_lossy(&path).into_owned()).unwrap_or_default();
        fail(ErrorKind::QuotaExceeded, message).with("path", path).with("limit", limit)
    }

    /// Whether a file may grow on workers, where nobody counts each write: only while the quotas above it are not used up.
    /// `again`: it grew before; then it may until they are exceeded.
    pub(crate) fn check_quota_room(&self, inode: &Inode, again: bool) -> Result<()> {
        if inode.cookie == 0 || weight(inode).is_none() {
            return Ok(());
        }
        for dir in self.quotas_above(inode.parent) {
            let Some(quota) = self.quotas.get(&dir).filter(|quota| quota.bytes > 0) else { continue };
            if quota.used_bytes > quota.bytes || quota.used_bytes == quota.bytes && !again {
                return Err(self.exceeded(dir, "the quota of bytes is used up", quota.bytes));
            }
        }
        Ok(())
    }

    /// A size that the log itself sets.
    pub(crate) fn check_growth(&self, inode: &Inode, size: u64) -> Result<()> {
        if inode.cookie == 0 || weight(inode).is_none() {
            return Ok(());
        }
        self.check_quotas(inode.parent, 0, size.saturating_sub(inode.size))
    }

    /// Whether entries may move: each is (inode, its cookie there, directory that it leaves, directory that it enters). Of what
    /// is replaced only the first two are set right, and it enters no directory (0).
    pub(super) fn check_quotas_of_moves(&self, moves: &[(InodeId, u64, InodeId, InodeId)]) -> Result<()> {
        if self.quotas.len() == 0 {
            return Ok(());
        }
        // More files and bytes for each quota, less than before as negative numbers.
        let mut growth: BTreeMap<InodeId, (i64, i128)> = BTreeMap::new();
        for (id, cookie, from, to) in moves {
            let inode = self.inode(*id)?;
            // One with further names goes on counting by one of those.
            let counts_here = (inode.parent, inode.cookie) == (*from, *cookie) && (inode.is_dir() || inode.nlink == 1);
            let Some(bytes) = weight(&inode).filter(|_| counts_here) else { continue };
            let (left, entered) =
                (self.quotas_above(*from), if *to == 0 { Vec::new() } else { self.quotas_above(*to) });
            if left == entered {
                continue;
            }
            if *to != 0 && inode.is_dir() && inode.size > 0 {
                let message = "a directory with something in it does not move across the border of a quota; copy it";
                return Err(fail(ErrorKind::CrossDevice, message).with("inode", *id));
            }
            for (dirs, sign) in [(left, -1), (entered, 1)] {
                for dir in dirs {
                    let (files, more) = growth.entry(dir).or_default();
                    *files += sign;
                    *more += i128::from(sign) * i128::from(bytes);
                }
            }
        }
        growth.into_iter().try_for_each(|(dir, (files, bytes))| {
            self.check_quota(dir, u64::try_from(files).unwrap_or(0), u64::try_from(bytes).unwrap_or(0))
        })
    }

    /// What each quota should say that is used, up to where it is counted.
    pub(crate) fn recount_quotas(&self) -> BTreeMap<InodeId, (u64, u64)> {
        let mut sums: BTreeMap<InodeId, (u64, u64)> = self.quotas.iter().map(|(id, _)| (*id, (0, 0))).collect();
        if sums.is_empty() {
            return sums;
        }
        for (id, inode) in self.store.inodes() {
            let Some(bytes) = weight(&inode).filter(|_| inode.cookie != 0) else { continue };
            for above in self.quotas_above(inode.parent) {
                let counts = self.quotas.get(&above).is_some_and(|quota| id <= quota.counted);
                if let Some((files, sum)) = sums.get_mut(&above).filter(|_| counts) {
                    *files += 1;
                    *sum = sum.saturating_add(bytes);
                }
            }
        }
        sums
    }
}
