//! Trees of mounts that are moved in their stores. The leader has the turn of their keys; here is what its successor takes over.

use std::sync::Arc;

use curvine_proto::{NoteTreeMove, Outcome};
use curvine_types::{ErrorKind, MountId, Result};

use crate::state::{State, fail};

/// Trees of a cluster that are moved at once.
const MOVES_MAX: usize = 1024;

impl State {
    /// To end what is not noted is no error: its rename, or the end of its mount, was faster.
    pub(super) fn note_tree_move(&mut self, command: &NoteTreeMove) -> Result<Outcome> {
        let key = (command.mount, command.from.as_str().into());
        if command.over {
            self.tree_moves.remove(&key);
            return Ok(Outcome::default());
        }
        if !self.mounts.contains(&command.mount) {
            return Err(fail(ErrorKind::Stale, "unmounted").with("mount", command.mount));
        }
        if !command.from.ends_with('/') || !command.to.ends_with('/') {
            return Err(fail(ErrorKind::InvalidArgument, "only trees of keys are moved").with("key", &command.from));
        }
        if self.tree_moves.len() >= MOVES_MAX && !self.tree_moves.contains(&key) {
            return Err(fail(ErrorKind::Overloaded, "too many directories are moved at once").with("limit", MOVES_MAX));
        }
        self.tree_moves.insert(key, Arc::new(command.clone()));
        Ok(Outcome::default())
    }

    /// Of the mounts that are gone.
    pub(crate) fn forget_tree_moves(&mut self, is_gone: impl Fn(MountId) -> bool) {
        let ended: Vec<_> =
            self.tree_moves.iter().map(|(key, _)| key).filter(|(mount, _)| is_gone(*mount)).cloned().collect();
        for key in ended {
            self.tree_moves.remove(&key);
        }
    }
}
