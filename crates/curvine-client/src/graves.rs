//! Directories that this client removed: a process may still stand in one or have it open, and ask what it is.
//!
//! Always: what is answered here can no longer change, because inode numbers are never used again.

use std::collections::VecDeque;

use curvine_proto::{Attr, FileKind};
use curvine_types::{FastMap, InodeId};
use parking_lot::Mutex;

/// Directories that are remembered; of older ones the answer is ESTALE, as of those that other clients removed.
const LIMIT: usize = 1024;

#[derive(Default)]
struct Inner {
    known: FastMap<InodeId, Attr>,
    order: VecDeque<InodeId>,
}

/// The last attributes of removed directories, in bounded memory.
#[derive(Default)]
pub(crate) struct Graves(Mutex<Inner>);

impl Graves {
    /// An inode lost a name; only of directories that is the end.
    pub(crate) fn bury(&self, attr: &Attr) {
        if attr.kind() != FileKind::Directory || attr.nlink != 0 {
            return;
        }
        let mut inner = self.0.lock();
        if inner.known.insert(attr.inode, *attr).is_none() {
            inner.order.push_back(attr.inode);
        }
        while inner.order.len() > LIMIT {
            if let Some(oldest) = inner.order.pop_front() {
                inner.known.remove(&oldest);
            }
        }
    }

    /// The last attributes of a removed directory.
    pub(crate) fn find(&self, inode: InodeId) -> Option<Attr> {
        self.0.lock().known.get(&inode).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_removed_directories_are_remembered() {
        let graves = Graves::default();
        let dir = |inode| Attr { inode, kind: FileKind::Directory as i32, mode: 0o700, ..Attr::default() };
        for inode in 1..=LIMIT as u64 + 1 {
            graves.bury(&dir(inode));
            graves.bury(&dir(inode));
        }
        assert_eq!((graves.find(1), graves.find(2)), (None, Some(dir(2))));
        graves.bury(&Attr { nlink: 2, ..dir(5000) });
        graves.bury(&Attr { kind: FileKind::File as i32, ..dir(5001) });
        assert_eq!((graves.find(5000), graves.find(5001)), (None, None));
    }
}
