//! Eviction in the background: a tier that is fuller than its high watermark gives up clean copies down to its low one.
//!
//! Always: only clean copies go, a bounded number in one round, and a tier without watermarks is left to those who need room.

use crate::store::BlockStore;
use crate::tier::Tier;

/// Most contents evicted from a tier in one round of upkeep.
const ROUND: usize = 1024;

impl BlockStore {
    pub(crate) fn keep_watermarks(&self, tier: &Tier) {
        let Some((high, low)) = tier.config.watermarks else { return };
        let (capacity, _) = tier.room();
        let share = |percent: u8| (u128::from(capacity) * u128::from(percent) / 100) as u64;
        if tier.used() <= share(high) {
            return;
        }
        for _ in 0..ROUND {
            if tier.used() <= share(low) {
                return;
            }
            match self.evict_one(tier, None) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(dir = %tier.config.dir.display(), %error, "cannot evict down to the low watermark");
                    return;
                }
            }
        }
    }
}
