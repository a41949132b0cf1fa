//! Pins: what is cached of a file, or of everything below a directory, stays.
//!
//! Always: `pins_change` has risen when a pin came or went, so that whoever saw it knows whether to ask again.

use curvine_proto::{Outcome, SetPin};
use curvine_types::{ErrorKind, InodeId, Result};

use crate::state::{State, fail};

/// Pins of a cluster.
const PINS_MAX: usize = 65_536;

impl State {
    pub(super) fn set_pin(&mut self, command: &SetPin) -> Result<Outcome> {
        let id = command.inode;
        self.inode(id)?;
        let changed = if command.remove {
            if self.pins.remove(&id).is_none() {
                return Err(fail(ErrorKind::NotFound, "this path is not pinned itself").with("inode", id));
            }
            true
        } else {
            if self.pins.len() >= PINS_MAX {
                return Err(
                    fail(ErrorKind::NoSpace, "there are too many pins; pin directories").with("limit", PINS_MAX)
                );
            }
            self.pins.insert(id, ()).is_none()
        };
        self.meta.pins_change += u64::from(changed);
        Ok(Outcome { attr: self.attr(id), created: changed, ..Outcome::default() })
    }

    /// Whether an inode, or a directory above it, is pinned.
    pub(crate) fn is_pinned(&self, id: InodeId) -> bool {
        self.pins.len() > 0 && self.upwards(id).any(|id| self.pins.contains(&id))
    }
}
