//! Changes that go on after their caller was told EINTR.
//!
//! Always: a later change of the same inode or directory waits until they have ended. Otherwise a write or an unlink that
//! was slow could undo what its caller, or somebody after it, did since.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use curvine_fuse_abi::{Opcode, Operation};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The nodes that a change touches: its own, and that of a second directory or inode.
pub type Nodes = [u64; 2];

/// Those of a request.
pub fn nodes(node: u64, operation: &Operation<'_>) -> Nodes {
    match operation {
        Operation::Rename { new_parent, .. } => [node, *new_parent],
        Operation::Link { inode, .. } => [node, *inode],
        Operation::CopyFileRange { args, .. } => [node, args.nodeid_out],
        _ => [node, node],
    }
}

/// Whether the order of a request among others matters: it changes names, data or locks.
pub fn changes(opcode: Opcode) -> bool {
    use Opcode::*;
    matches!(
        opcode,
        Setattr
            | Symlink
            | Mknod
            | Mkdir
            | Unlink
            | Rmdir
            | Rename
            | Rename2
            | Link
            | Open
            | Create
            | Tmpfile
            | Write
            | Fallocate
            | CopyFileRange
            | CopyFileRange64
            | Setxattr
            | Removexattr
            | Setlk
            | Setlkw
    )
}

#[derive(Debug)]
struct Orphan {
    nodes: Nodes,
    /// Dropped when the change has ended.
    running: watch::Sender<()>,
}

/// The changes that go on, by the kernel's number of their request.
#[derive(Debug, Default)]
pub struct Orphans {
    count: AtomicUsize,
    table: Mutex<HashMap<u64, Orphan>>,
}

impl Orphans {
    /// A change goes on without its caller.
    pub fn add(&self, unique: u64, nodes: Nodes) {
        let (running, _) = watch::channel(());
        let mut table = self.table.lock();
        table.insert(unique, Orphan { nodes, running });
        self.count.store(table.len(), Ordering::Release);
    }

    /// It has ended.
    pub fn end(&self, unique: u64) {
        if self.len() > 0 {
            let mut table = self.table.lock();
            table.remove(&unique);
            self.count.store(table.len(), Ordering::Release);
        }
    }

    /// How many go on.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether none of them touches one of these nodes.
    pub fn is_clear(&self, nodes: Nodes) -> bool {
        self.len() == 0 || self.find(nodes).is_none()
    }

    /// Until none of them touches one of these nodes; each ends by its own deadline.
    pub async fn clear(&self, nodes: Nodes) {
        while let Some(mut running) = self.find(nodes) {
            // Nothing is ever sent: this is the end of the change.
            let _ = running.changed().await;
        }
    }

    fn find(&self, nodes: Nodes) -> Option<watch::Receiver<()>> {
        let table = self.table.lock();
        let touches = |orphan: &&Orphan| orphan.nodes.iter().any(|node| nodes.contains(node));
        table.values().find(touches).map(|orphan| orphan.running.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_for_those_of_its_own_nodes_only() {
        let orphans = Orphans::default();
        assert!(orphans.is_clear([5, 5]));
        orphans.add(2, [5, 6]);
        orphans.add(4, [6, 7]);
        assert!(!orphans.is_clear([6, 6]) && !orphans.is_clear([9, 5]) && orphans.is_clear([8, 8]));
        orphans.clear([8, 8]).await;
        let waited = tokio::time::timeout(Duration::from_secs(60), orphans.clear([6, 6]));
        assert!(waited.await.is_err());
        orphans.end(2);
        let mut waiting = std::pin::pin!(orphans.clear([6, 6]));
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut waiting).await.is_err());
        orphans.end(4);
        waiting.await;
        assert_eq!(orphans.len(), 0);
    }
}
