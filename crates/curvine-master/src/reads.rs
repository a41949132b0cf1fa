//! What is read without a change: names, attributes, directories, links, extended attributes, totals.

use curvine_proto::{
    DirEntry, FileKind, GetAttrReply, GetAttrRequest, GetXattrReply, GetXattrRequest, ListXattrReply, ListXattrRequest,
    LookupReply, LookupRequest, ReadDirReply, ReadDirRequest, ReadLinkReply, ReadLinkRequest, StatFsReply,
    StatFsRequest,
};
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::permission::{self, Want};

/// Most entries in one reply to ReadDir.
const ENTRIES_MAX: usize = 4096;
/// Live files whose primary workers are asked at once.
const STATS_AT_ONCE: usize = 32;
/// Attempts to see a name and its lease in one state.
const ATTEMPTS: usize = 8;

impl Leader {
    pub(crate) async fn lookup(&self, request: LookupRequest, deadline: Instant) -> Result<LookupReply> {
        let LookupRequest { session, parent, name, caller } = request;
        self.sessions.check(session)?;
        let dir = self.attr_now(parent)?;
        permission::check(self, session, caller.as_ref(), &dir, Want::SEARCH)?;
        if dir.mount != 0 {
            self.fault_in_name(&dir, &name, deadline).await?;
        }
        let (dir, dir_lease) = self.leased_attr(session, parent)?;
        let mut leases: Vec<_> = dir_lease.into_iter().collect();
        for _ in 0..ATTEMPTS {
            let found = self.replica.state().read().0.lookup(parent, &name)?;
            let Some(found) = found else { return Ok(LookupReply { attr: None, parent: Some(dir), leases }) };
            let (attr, lease) = match self.leased_attr(session, found.inode) {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::Stale => continue,
                Err(error) => return Err(error),
            };
            let (attr, lease) = self.best_attr(session, attr, lease, deadline).await;
            leases.extend(lease);
            return Ok(LookupReply { attr: Some(attr), parent: Some(dir), leases });
        }
        Err(Error::new(ErrorKind::Overloaded, "the name changes too often").with("inode", parent))
    }

    pub(crate) async fn get_attr(&self, request: GetAttrRequest, deadline: Instant) -> Result<GetAttrReply> {
        self.sessions.check(request.session)?;
        let (attr, lease) = self.leased_attr(request.session, request.inode)?;
        let attr = self.fresh_attr(attr, deadline).await?;
        Ok(GetAttrReply { attr: Some(attr), leases: lease.into_iter().collect() })
    }

    pub(crate) async fn read_dir(&self, request: ReadDirRequest, deadline: Instant) -> Result<ReadDirReply> {
        let ReadDirRequest { session, inode, cookie, limit, caller } = request;
        self.sessions.check(session)?;
        let dir = self.attr_now(inode)?;
        permission::check(self, session, caller.as_ref(), &dir, Want::LIST)?;
        let limit = (limit as usize).clamp(1, ENTRIES_MAX);
        let (dir, dir_lease, entries, end) = loop {
            let complete = dir.mount == 0 || self.fault_in_entries(&dir, cookie, deadline).await?;
            let (dir, dir_lease) = self.leased_attr(session, inode)?;
            let (entries, end) = self.replica.state().read().0.readdir(inode, cookie, limit)?;
            // What had come is gone again: an empty page would be taken for the end.
            if complete || !entries.is_empty() {
                break (dir, dir_lease, entries, end && complete);
            }
        };
        let mut listed = self.leased_entries(session, entries);
        let live = listed.iter_mut().filter(|(_, attr, _)| attr.live);
        stream::iter(live)
            .for_each_concurrent(STATS_AT_ONCE, |(_, attr, lease)| async move {
                (*attr, *lease) = self.best_attr(session, *attr, lease.take(), deadline).await;
            })
            .await;
        let leases = dir_lease.into_iter().chain(listed.iter().filter_map(|(_, _, lease)| *lease)).collect();
        let entries = listed.into_iter().map(|(entry, attr, _)| DirEntry { attr: Some(attr), ..entry }).collect();
        Ok(ReadDirReply { entries, end, dir: Some(dir), leases })
    }

    pub(crate) fn read_link(&self, request: ReadLinkRequest) -> Result<ReadLinkReply> {
        self.sessions.check(request.session)?;
        Ok(ReadLinkReply { target: self.replica.state().read().0.readlink(request.inode)? })
    }

    pub(crate) fn get_xattr(&self, request: GetXattrRequest) -> Result<GetXattrReply> {
        self.sessions.check(request.session)?;
        Ok(GetXattrReply { value: self.replica.state().read().0.xattr(request.inode, &request.name)? })
    }

    pub(crate) fn list_xattr(&self, request: ListXattrRequest) -> Result<ListXattrReply> {
        self.sessions.check(request.session)?;
        Ok(ListXattrReply { names: self.replica.state().read().0.xattr_names(request.inode)? })
    }

    /// Totals over all workers, or what the quotas above a directory leave of them.
    pub(crate) fn stat_fs(&self, request: &StatFsRequest) -> StatFsReply {
        let (mut capacity, mut available) = self.workers.capacity();
        let (inodes, quotas) = {
            let state = self.replica.state().read();
            (state.0.counts().inodes, state.0.quotas_above(request.inode))
        };
        let mut free_files = None;
        for quota in &quotas {
            if quota.bytes > 0 {
                capacity = capacity.min(quota.bytes);
                available = available.min(quota.bytes.saturating_sub(quota.used_bytes));
            }
            if quota.files > 0 {
                let left = quota.files.saturating_sub(quota.used_files);
                free_files = Some(free_files.map_or(left, |least: u64| least.min(left)));
            }
        }
        let inodes = quotas.first().map_or(inodes, |nearest| nearest.used_files);
        StatFsReply { capacity, available, inodes, free_files }
    }
}

/// Whether the inode is a file.
pub(crate) fn is_file(attr: &curvine_proto::Attr) -> bool {
    attr.kind() == FileKind::File
}
