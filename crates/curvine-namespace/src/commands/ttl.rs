//! Times to live. The leader looks for what has lived long enough; here is only what it goes by.

use curvine_proto::{Outcome, SetTtl, TtlAction};
use curvine_types::{ErrorKind, InodeId, Result};

use crate::record::Ttl;
use crate::state::{State, fail};
use crate::store::Store;

/// Times to live of a cluster.
const TTLS_MAX: usize = 4096;
/// The shortest one that is kept, in milliseconds.
const TTL_MIN: u64 = 1000;

impl State {
    pub(super) fn set_ttl(&mut self, command: &SetTtl) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.inode(id)?;
        if command.remove {
            self.ttls.remove(&id).ok_or_else(|| fail(ErrorKind::NotFound, "it has no time to live of its own"))?;
            return Ok(Outcome { attr: self.attr(id), ..Outcome::default() });
        }
        let delete = match command.action() {
            TtlAction::Free => false,
            TtlAction::Delete => true,
            TtlAction::Unknown => return Err(fail(ErrorKind::InvalidArgument, "an unknown action of a time to live")),
        };
        if !inode.is_dir() && !inode.is_file() {
            return Err(fail(ErrorKind::InvalidArgument, "only files and directories have a time to live"));
        }
        if command.ttl_ms < TTL_MIN {
            return Err(fail(ErrorKind::InvalidArgument, "a time to live is at least a second"));
        }
        if delete {
            self.check_writable(id, &inode)?;
        }
        if self.ttls.len() >= TTLS_MAX && !self.ttls.contains(&id) {
            let message = "there are too many times to live; set them on directories";
            return Err(fail(ErrorKind::NoSpace, message).with("limit", TTLS_MAX));
        }
        let created = self.ttls.insert(id, Ttl { millis: command.ttl_ms, delete }).is_none();
        Ok(Outcome { attr: self.attr(id), created, ..Outcome::default() })
    }

    /// An inode's own time to live, and those above it, the nearest first.
    pub fn ttls_above(&self, id: InodeId) -> Vec<(InodeId, Ttl)> {
        if self.ttls.len() == 0 {
            return Vec::new();
        }
        self.upwards(id).filter_map(|id| Some((id, *self.ttls.get(&id)?))).collect()
    }

    /// The directory and the name of an inode that has one.
    pub fn place_of(&self, id: InodeId) -> Option<(InodeId, Vec<u8>)> {
        let inode = self.store.inode(id)?;
        let parent = self.store.inode(inode.parent)?;
        let dentry = self.store.dentry(parent.content, inode.cookie)?;
        Some((inode.parent, dentry.name.as_bytes().to_vec()))
    }
}
