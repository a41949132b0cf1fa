//! Eviction: of the next clean copy when room is needed, and in the background, when a tier is fuller than its high watermark, of what is
//! above its low one. What a slower tier has room for goes there instead.
//!
//! Always: only clean copies go, a bounded number in one round, and a tier without watermarks is left to those who need room.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use curvine_types::Result;

use crate::content::Content;
use crate::store::BlockStore;
use crate::tier::Tier;
use crate::types::{ContentKey, ContentKind, Exposure};

/// Most contents evicted from a tier in one round of upkeep.
const ROUND: usize = 1024;

/// What became of a victim.
pub(crate) enum Fate {
    /// So many bytes are free.
    Freed(u64),
    /// It is no candidate any more.
    Gone,
    /// It is in use.
    Spared,
}

impl BlockStore {
    pub(crate) fn keep_watermarks(&self, number: usize, budget: &mut u64) {
        let tier = &self.tiers[number];
        let Some((high, low)) = tier.config.watermarks else { return };
        if tier.used() <= tier.share(high) {
            return;
        }
        let mut spared = Vec::new();
        for _ in 0..ROUND {
            if tier.used() <= tier.share(low) {
                break;
            }
            let Some(victim) = tier.next_victim() else { break };
            if self.demote(number, &victim, budget) {
                continue;
            }
            match self.evict(tier, &victim, None) {
                Ok(Fate::Freed(_) | Fate::Gone) => {}
                Ok(Fate::Spared) => spared.push(victim),
                Err(error) => {
                    tracing::warn!(dir = %tier.config.dir.display(), %error, "cannot evict down to the low watermark");
                    break;
                }
            }
        }
        spared.into_iter().for_each(|content| tier.give_back(content));
    }

    /// Evicts the next clean copy; whether there was one.
    pub(crate) fn evict_one(&self, tier: &Tier, except: Option<ContentKey>) -> Result<bool> {
        let mut spared = Vec::new();
        let result = loop {
            let Some(victim) = tier.next_victim() else { break Ok(false) };
            match self.evict(tier, &victim, except) {
                Ok(Fate::Freed(bytes)) if bytes > 0 => break Ok(true),
                Ok(Fate::Freed(_) | Fate::Gone) => {}
                Ok(Fate::Spared) => spared.push(victim),
                Err(error) => break Err(error),
            }
        };
        spared.into_iter().for_each(|content| tier.give_back(content));
        result
    }

    /// Evicts a content that was taken out of the queues.
    fn evict(&self, tier: &Tier, victim: &Arc<Content>, except: Option<ContentKey>) -> Result<Fate> {
        // Never wait for another content's lock here: what is in use is spared.
        let evictable = Some(victim.key) != except;
        let Some(mut state) = victim.state.try_write().filter(|_| evictable) else { return Ok(Fate::Spared) };
        // What is pinned comes back into the queues when it is no more.
        if state.kind != ContentKind::Cached || state.deleted || victim.pinned.load(Ordering::Relaxed) {
            return Ok(Fate::Gone);
        }
        if state.exposure != Exposure::None && self.is_used(victim).unwrap_or(true) {
            // Evicting it would free nothing.
            return Ok(Fate::Spared);
        }
        let freed = state.charged;
        self.remove(victim, &mut state)?;
        self.evictions.fetch_add(1, Ordering::Relaxed);
        self.evicted_bytes.fetch_add(freed, Ordering::Relaxed);
        if let Some(tell) = self.on_evict.get() {
            tell(victim.key, freed);
        }
        tracing::debug!(content = %victim.key, freed, dir = %tier.config.dir.display(), "evicted a clean copy");
        Ok(Fate::Freed(freed))
    }
}
