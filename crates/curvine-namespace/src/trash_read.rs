//! What readers are told of the trash.

use curvine_proto::{Time, TrashEntry};
use curvine_types::MountId;

use crate::namespace::Namespace;

impl Namespace {
    /// An entry of the trash.
    pub fn trash_entry(&self, id: u64) -> Option<TrashEntry> {
        self.state.trash.get(&id).map(|entry| TrashEntry::clone(entry))
    }

    /// Entries after one, in the order of removal, and whether these are the last.
    pub fn trash(&self, after: u64, limit: usize) -> (Vec<TrashEntry>, bool) {
        let rest = self.state.trash.range(&after.saturating_add(1));
        let page: Vec<TrashEntry> = rest.take(limit).map(|(_, entry)| TrashEntry::clone(entry)).collect();
        let end = page.len() < limit;
        (page, end)
    }

    /// What was removed from a key of a mount and is still under it.
    pub fn trash_at(&self, mount: MountId, key: &str) -> Option<TrashEntry> {
        self.state.trash_at(mount, key).map(|entry| TrashEntry::clone(entry))
    }

    /// Some of what was removed and still has a key that begins so.
    pub fn trash_below(&self, mount: MountId, prefix: &str, limit: usize) -> Vec<TrashEntry> {
        self.state.trash_below(mount, prefix).take(limit).map(|entry| TrashEntry::clone(entry)).collect()
    }

    /// Mounts of which something is in the trash; also of those that were taken off.
    pub fn mounts_with_trash(&self) -> Vec<MountId> {
        let (mut mounts, mut from) = (Vec::new(), 0);
        while let Some(((mount, ..), ())) = self.state.trash_order.first_from(&(from, false, 0)) {
            mounts.push(*mount);
            let Some(next) = mount.checked_add(1) else { break };
            from = next;
        }
        mounts
    }

    /// The oldest entries of a mount: of those that are held for a short time, or of those that stay for the retention.
    pub fn oldest_trash(&self, mount: MountId, held: bool, limit: usize) -> Vec<TrashEntry> {
        let all = self.state.trash_order.range(&(mount, held, 0));
        let mine = all.take_while(|((have, is_held, _), ())| (*have, *is_held) == (mount, held)).take(limit);
        mine.filter_map(|((.., id), ())| self.trash_entry(*id)).collect()
    }

    /// How many entries of a mount are held for a short time, counted up to a limit.
    pub fn held_trash(&self, mount: MountId, limit: usize) -> usize {
        let all = self.state.trash_order.range(&(mount, true, 0));
        all.take_while(|((have, ..), ())| *have == mount).take(limit).count()
    }

    /// When the last object of a mount was removed that was one of many.
    pub fn many_removed(&self, mount: MountId) -> Option<Time> {
        self.state.mounts.get(&mount).map(|mount| mount.many_removed.into())
    }
}
