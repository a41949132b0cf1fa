//! Pins: clean copies that are not evicted.
//!
//! Always: what is pinned in a tier directory, taken as whole, is at most `SHARE` per cent of it, so that pins never leave writers and other
//! readers without room; it is not counted as something that could make way. Pins are in memory only: whoever sets them knows them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use curvine_types::Result;

use crate::content::{Content, State};
use crate::store::BlockStore;
use crate::tier::adjust;
use crate::types::{ContentKey, ContentKind};

/// Of a tier directory, what pins may take.
const SHARE: u8 = 80;

impl BlockStore {
    /// Pins a clean copy, or lets it go; what is not here, or no clean copy, is fine. False if too much is pinned already.
    pub fn pin(&self, key: ContentKey, on: bool) -> Result<bool> {
        let Some(content) = self.get(key) else { return Ok(true) };
        let tier = &self.tiers[content.tier];
        tier.check()?;
        let state = content.state.write();
        if state.kind != ContentKind::Cached || state.deleted {
            return Ok(true);
        }
        if !on {
            self.unpin(&content, &state);
            drop(state);
            self.candidate_again(&content);
            return Ok(true);
        }
        if content.pinned.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let size = state.attr.size;
        if tier.pinned.load(Ordering::Relaxed).saturating_add(size) > tier.share(SHARE) {
            return Ok(false);
        }
        content.pinned.store(true, Ordering::Relaxed);
        adjust(&tier.pinned, 0, size);
        tier.no_candidate(state.charged);
        Ok(true)
    }

    /// Whether a clean copy is pinned.
    pub fn is_pinned(&self, key: ContentKey) -> bool {
        self.get(key).is_some_and(|content| content.pinned.load(Ordering::Relaxed))
    }

    /// Sizes of what is pinned.
    pub fn pinned_bytes(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.pinned.load(Ordering::Relaxed)).sum()
    }

    /// Takes a pin away from a content whose state is held.
    pub(crate) fn unpin(&self, content: &Content, state: &State) {
        if content.pinned.swap(false, Ordering::Relaxed) {
            let tier = &self.tiers[content.tier];
            adjust(&tier.pinned, state.attr.size, 0);
            tier.candidate(state.charged);
        }
    }

    /// What was pinned may have left the queues.
    fn candidate_again(&self, content: &Arc<Content>) {
        let tier = &self.tiers[content.tier];
        if !content.secondary.load(Ordering::Relaxed) && content.slot.is_nowhere() {
            tier.candidates.lock().give_back(content.clone());
        } else if content.secondary.load(Ordering::Relaxed) {
            let mut secondary = tier.secondary.lock();
            if !secondary.iter().any(|there| there.id == content.id) {
                secondary.push_back(content.clone());
            }
        }
    }
}
