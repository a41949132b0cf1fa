//! Turns good inputs into bad ones.

use crate::rng::Rng;

/// Numbers that parsers stumble over.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX];
const LONGEST: usize = 1 << 20;

/// One of the seeds, with some changes.
pub fn mutate(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.pick(seeds).clone();
    for _ in 0..1 + rng.below(6) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        match rng.below(8) {
            0 => flip(&mut bytes, at, rng),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.next() as u8;
                }
            }
            2 | 3 => {
                let number = rng.pick(&NUMBERS).to_le_bytes();
                let width = *rng.pick(&[1, 2, 4, 8]);
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            4 => {
                let end = at + rng.below((bytes.len() - at) as u64 + 1).min(64) as usize;
                bytes.drain(at..end);
            }
            5 => {
                let length = 1 + rng.below(32) as usize;
                let inserted = rng.bytes(length);
                bytes.splice(at..at, inserted);
            }
            6 => bytes.truncate(at),
            _ => {
                // A piece of another seed, or of the same one.
                let other = rng.pick(seeds);
                let from = rng.below(other.len() as u64 + 1) as usize;
                let to = (from + rng.below(256) as usize).min(other.len());
                bytes.splice(at..at, other[from..to].to_vec());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

fn flip(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}
