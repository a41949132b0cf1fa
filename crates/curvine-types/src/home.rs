//! Which worker is the home of a block of an under file system's object: rendezvous hashing over the live workers.
//!
//! Part of the protocol: clients, masters and tools must agree, so neither function may change.

use crate::{InodeId, WorkerId};

/// The finaliser of SplitMix64: each bit of the input changes each bit of the result with probability one half.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The weight of a worker for a block; the highest is the home.
pub fn weight(worker: WorkerId, inode: InodeId, block: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = mix(inode.wrapping_add(GOLDEN)) ^ block;
    mix(mix(key.wrapping_add(GOLDEN)) ^ worker.wrapping_mul(GOLDEN))
}

/// The workers in the order in which they are asked for a block: the home first, then who would be it without the home.
pub fn ranked(workers: impl IntoIterator<Item = WorkerId>, inode: InodeId, block: u64) -> Vec<WorkerId> {
    let mut ranked: Vec<_> =
        workers.into_iter().map(|worker| (std::cmp::Reverse(weight(worker, inode, block)), worker)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, worker)| worker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_never_change() {
        assert_eq!(ranked(1..=5, 42, 0), ranked([5, 3, 1, 4, 2], 42, 0));
        assert_eq!(weight(1, 2, 3), 17_308_960_653_647_522_549);
    }

    #[test]
    fn blocks_spread_evenly_and_stay_when_another_worker_goes() {
        let blocks = 10_000u64;
        let home = |workers: &[u64], block| ranked(workers.iter().copied(), 7, block)[0];
        let mut counts = [0u32; 5];
        for block in 0..blocks {
            let before = home(&[0, 1, 2, 3, 4], block);
            counts[before as usize] += 1;
            if before != 2 {
                assert_eq!(home(&[0, 1, 3, 4], block), before);
            }
        }
        for count in counts {
            assert!((1800..2200).contains(&count), "{counts:?}");
        }
    }
}
