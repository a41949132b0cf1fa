//! SipHash-1-3 (Aumasson, Bernstein 2012), the hash of names in a directory: keyed, so that nobody can cheaply choose
//! names that collide, and our own, so that it is the same in every build.

/// The hash of `data` under a 16-byte key.
pub fn siphash(key: &[u8; 16], data: &[u8]) -> u64 {
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut compress = |m: u64, rounds: usize| {
        v[3] ^= m;
        for _ in 0..rounds {
            round(&mut v);
        }
        v[0] ^= m;
        v
    };
    let mut chunks = data.chunks_exact(8);
    for chunk in &mut chunks {
        compress(word(chunk), 1);
    }
    let last = word(chunks.remainder()) | (data.len() as u64) << 56;
    let mut v = compress(last, 1);
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// Up to eight bytes, little endian.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hasher};

    #[test]
    fn it_is_the_hash_that_the_standard_library_uses_with_key_zero() {
        for len in 0..40 {
            let data: Vec<u8> = (0..len).collect();
            let mut expected = DefaultHasher::new();
            expected.write(&data);
            assert_eq!(siphash(&[0; 16], &data), expected.finish(), "length {len}");
        }
        assert_ne!(siphash(&[1; 16], b"name"), siphash(&[0; 16], b"name"));
    }
}
