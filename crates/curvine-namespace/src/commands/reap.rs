//! Frees the inodes of removed directory trees, a bounded number a command. What is doomed can no longer be reached by name.

use curvine_proto::{Outcome, Reap};
use curvine_types::{Cookie, InodeId};

use crate::record::Inode;
use crate::state::State;
use crate::store::Store;

/// Most steps of one command.
const STEPS_MAX: usize = 1024;

impl State {
    /// Hands the names of a directory that is going away to the reaper.
    pub(super) fn doom(&mut self, dir: &Inode) {
        if dir.is_dir() && dir.size > 0 {
            self.doomed.insert(dir.content, ());
        }
    }

    /// Takes steps of the work that is waiting. Only under file systems make any: their inodes have one name.
    pub(super) fn reap(&mut self, command: &Reap) -> Outcome {
        let mut steps = (command.steps as usize).clamp(1, STEPS_MAX);
        while steps > 0 {
            let Some((table, ())) = self.doomed.first_from(&0) else { break };
            let table = *table;
            let entries: Vec<(Cookie, InodeId)> = self
                .store
                .dentries_after(table, 0)
                .take(steps)
                .map(|(cookie, dentry)| (cookie, dentry.child))
                .collect();
            if entries.is_empty() {
                self.doomed.remove(&table);
            }
            steps = steps.saturating_sub(entries.len().max(1));
            for (cookie, child) in entries {
                self.store.remove_dentry(table, cookie);
                if let Some(inode) = self.store.inode(child) {
                    self.doom(&inode);
                    self.free(child);
                }
            }
        }
        Outcome { more: self.doomed.len() > 0, ..Outcome::default() }
    }
}
