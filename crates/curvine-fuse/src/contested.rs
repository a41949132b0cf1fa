//! Inodes that others changed a moment ago. What is opened of them is read past the page cache: its pages would be dropped by the next
//! change anyway, and the last one could show zeroes (see `tail`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use curvine_types::InodeId;
use parking_lot::Mutex;

/// How long a moment is.
const MOMENT: Duration = Duration::from_secs(10);
/// Most inodes that are remembered.
const MOST: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Contested(Mutex<HashMap<InodeId, Instant>>);

impl Contested {
    /// Others change these now.
    pub fn changed(&self, inodes: &[InodeId]) {
        let now = Instant::now();
        let mut recent = self.0.lock();
        if recent.len() + inodes.len() > MOST {
            recent.retain(|_, at| now - *at < MOMENT);
        }
        let room = MOST.saturating_sub(recent.len());
        recent.extend(inodes.iter().take(room).map(|inode| (*inode, now)));
    }

    /// Whether others changed it a moment ago.
    pub fn contains(&self, inode: InodeId) -> bool {
        self.0.lock().get(&inode).is_some_and(|at| at.elapsed() < MOMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_long_ago_is_forgotten_and_there_is_a_limit() {
        let contested = Contested::default();
        contested.changed(&[1, 2]);
        assert!(contested.contains(1) && contested.contains(2) && !contested.contains(3));
        let many: Vec<InodeId> = (10..10 + 2 * MOST as u64).collect();
        contested.changed(&many);
        assert_eq!(contested.0.lock().len(), MOST);
        contested.0.lock().values_mut().for_each(|at| *at -= MOMENT);
        assert!(!contested.contains(1));
        contested.changed(&[3]);
        assert_eq!((contested.contains(3), contested.0.lock().len()), (true, 1));
    }
}
