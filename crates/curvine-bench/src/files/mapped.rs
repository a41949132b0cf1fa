//! The big file through a mapping.

#![allow(unsafe_code)]

use std::fs::File;
use std::hint::black_box;
use std::time::Instant;

use curvine_types::Result;
use memmap2::{Advice, Mmap};

use super::{PAGE, PIECE, Place, failed, wrong};
use crate::Measure;

/// Touches every page in order and takes eight bytes of each, once.
pub(super) fn read(place: &Place) -> Result<Measure> {
    let path = place.big();
    let begun = Instant::now();
    let file = File::open(&path).map_err(failed(&path))?;
    // SAFETY: the file is the benchmark's own and nobody changes or cuts it while this runs; were somebody to cut it, the
    // process would end by SIGBUS, which is what a benchmark may do.
    let map = unsafe { Mmap::map(&file) }.map_err(failed(&path))?;
    map.advise(Advice::Sequential).map_err(failed(&path))?;
    let mut sum = 0u64;
    for (number, piece) in map.chunks(PIECE).enumerate() {
        let at = (number * PIECE) as u64;
        for (number, page) in piece.chunks_exact(PAGE).enumerate() {
            let Some(bytes) = page.first_chunk::<8>() else { continue };
            let found = u64::from_le_bytes(*bytes);
            if found != at + (number * PAGE) as u64 {
                return Err(wrong(&path, at + (number * PAGE) as u64));
            }
            sum = sum.wrapping_add(found);
        }
    }
    black_box(sum);
    Ok(Measure::since(begun, map.len() as u64))
}
