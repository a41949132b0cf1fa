//! Who may write, and who keeps unlinked inodes alive.
//!
//! Always: there is a grant record of every file with blocks and of every file with writers, and of no other.

use curvine_proto::{DropOrphan, Outcome};
use curvine_types::{GrantEpoch, InodeId, Result, SessionId};

use super::need_session;
use crate::record::*;
use crate::state::State;
use crate::store::Store;

impl State {
    pub(super) fn grant_write(&mut self, session: SessionId, id: InodeId) -> Result<Outcome> {
        need_session(session)?;
        let inode = self.file(id)?;
        self.check_writable(id, &inode)?;
        let epoch = self.add_writer(session, id);
        Ok(Outcome { attr: self.attr(id), layout: self.layout(id, false), epoch, ..Outcome::default() })
    }

    pub(super) fn release_write(&mut self, session: SessionId, id: InodeId) -> Result<Outcome> {
        need_session(session)?;
        self.inode(id)?;
        let epoch = self.grants.get(&id).map_or(0, |grant| grant.epoch);
        self.remove_writer(session, id);
        Ok(Outcome { attr: self.attr(id), epoch, ..Outcome::default() })
    }

    /// Makes the session one of the writers of a file that may be written.
    pub(super) fn add_writer(&mut self, session: SessionId, id: InodeId) -> GrantEpoch {
        self.held.insert((session, Held::Write, id), ());
        let Some(grant) = self.grants.get_mut(&id) else {
            self.grants.insert(id, GrantRecord { epoch: 1, writers: vec![session] });
            return 1;
        };
        if let Err(position) = grant.writers.binary_search(&session) {
            grant.writers.insert(position, session);
        }
        grant.epoch
    }

    /// The session writes the inode no more.
    pub(super) fn remove_writer(&mut self, session: SessionId, id: InodeId) {
        if self.held.remove(&(session, Held::Write, id)).is_none() {
            return;
        }
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.writers.retain(|writer| *writer != session);
        }
        self.drop_idle_grant(id);
        self.free_if_unused(id);
    }

    /// Forgets a grant that nobody has, unless workers know its epoch.
    pub(super) fn drop_idle_grant(&mut self, id: InodeId) {
        let is_idle = self.grants.get(&id).is_some_and(|grant| grant.writers.is_empty());
        if is_idle && !self.store.inode(id).is_some_and(|inode| inode.has(BLOCKS)) {
            self.grants.remove(&id);
        }
    }

    pub(super) fn drop_orphan(&mut self, session: SessionId, command: &DropOrphan) -> Result<Outcome> {
        let holder = if command.session == 0 { session } else { command.session };
        self.remove_hold(holder, command.inode);
        Ok(Outcome { attr: self.attr(command.inode), ..Outcome::default() })
    }

    /// The session has an unlinked inode open no more.
    pub(super) fn remove_hold(&mut self, session: SessionId, id: InodeId) {
        self.orphans.remove(&(id, session));
        if self.held.remove(&(session, Held::Orphan, id)).is_some() {
            self.free_if_unused(id);
        }
    }
}
