//! What readers are told of times to live.

use curvine_types::InodeId;

use crate::api::TtlRecord;
use crate::namespace::Namespace;
use crate::record::Ttl;

impl Namespace {
    /// All times to live.
    pub fn ttls(&self) -> Vec<TtlRecord> {
        self.state.ttls.iter().map(|(id, ttl)| self.ttl_record(*id, *ttl)).collect()
    }

    /// An inode's own time to live, and those of the directories above it, the nearest first; the first one counts.
    pub fn ttls_above(&self, inode: InodeId) -> Vec<TtlRecord> {
        self.state.ttls_above(inode).into_iter().map(|(id, ttl)| self.ttl_record(id, ttl)).collect()
    }

    /// Whether an inode has a time to live of its own.
    pub fn has_ttl(&self, inode: InodeId) -> bool {
        self.state.ttls.contains(&inode)
    }

    /// The directory and the name of an inode that has one.
    pub fn place_of(&self, inode: InodeId) -> Option<(InodeId, Vec<u8>)> {
        self.state.place_of(inode)
    }

    fn ttl_record(&self, inode: InodeId, ttl: Ttl) -> TtlRecord {
        let path = self.state.path(inode).unwrap_or_default();
        TtlRecord { inode, path, millis: ttl.millis, delete: ttl.delete }
    }
}
