//! One big file, read and written by one thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use curvine_types::Result;

use super::{PAGE, PIECE, Place, failed, wrong};
use crate::Measure;

/// Makes the file anew.
pub(super) fn write(place: &Place) -> Result<Measure> {
    let path = place.big();
    let mut piece = filler();
    let begun = Instant::now();
    let file = File::create(&path).map_err(failed(&path))?;
    for (offset, length) in pieces(place) {
        stamp(&mut piece[..length], offset);
        file.write_all_at(&piece[..length], offset).map_err(failed(&path))?;
    }
    file.sync_all().map_err(failed(&path))?;
    drop(file);
    Ok(Measure::since(begun, place.size))
}

/// From its beginning to its end, again until the limit.
pub(super) fn read(place: &Place) -> Result<Measure> {
    let path = place.big();
    let mut piece = vec![0; PIECE];
    let begun = Instant::now();
    let mut total = 0;
    loop {
        let file = File::open(&path).map_err(failed(&path))?;
        for (offset, length) in pieces(place) {
            file.read_exact_at(&mut piece[..length], offset).map_err(failed(&path))?;
            if !is_stamped(&piece[..length], offset) {
                return Err(wrong(&path, offset));
            }
        }
        total += place.size;
        if begun.elapsed() >= place.limit / 2 {
            return Ok(Measure::since(begun, total));
        }
    }
}

/// Brings all of it into the page cache.
pub(super) fn warm(place: &Place) -> Result<()> {
    let path = place.big();
    let file = File::open(&path).map_err(failed(&path))?;
    let mut piece = vec![0; PIECE];
    for (offset, length) in pieces(place) {
        file.read_exact_at(&mut piece[..length], offset).map_err(failed(&path))?;
    }
    Ok(())
}

/// Single pages until the limit.
pub(super) fn read_random(place: &Place) -> Result<Measure> {
    let path = place.big();
    let file = File::open(&path).map_err(failed(&path))?;
    let mut page = [0; PAGE];
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < place.limit {
        let offset = random_page(place);
        file.read_exact_at(&mut page, offset).map_err(failed(&path))?;
        if page[..8] != offset.to_le_bytes() {
            return Err(wrong(&path, offset));
        }
        count += 1;
    }
    Ok(Measure::since(begun, count))
}

/// Single pages, each made durable, until the limit.
pub(super) fn write_random(place: &Place) -> Result<Measure> {
    let path = place.big();
    let file = File::options().write(true).open(&path).map_err(failed(&path))?;
    let mut page = filler();
    page.truncate(PAGE);
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < place.limit {
        let offset = random_page(place);
        stamp(&mut page, offset);
        file.write_all_at(&page, offset).map_err(failed(&path))?;
        file.sync_data().map_err(failed(&path))?;
        count += 1;
    }
    Ok(Measure::since(begun, count))
}

/// Where the pieces of the file begin, and how long they are.
fn pieces(place: &Place) -> impl Iterator<Item = (u64, usize)> {
    let size = place.size;
    (0..size).step_by(PIECE).map(move |offset| (offset, (size - offset).min(PIECE as u64) as usize))
}

fn random_page(place: &Place) -> u64 {
    rand::random_range(0..(place.size / PAGE as u64).max(1)) * PAGE as u64
}

/// Bytes that no layer can squeeze.
fn filler() -> Vec<u8> {
    (0..PIECE / 8).flat_map(|_| rand::random::<u64>().to_le_bytes()).collect()
}

/// Writes into each page where it stands in the file.
fn stamp(piece: &mut [u8], offset: u64) {
    for (number, page) in piece.chunks_exact_mut(PAGE).enumerate() {
        page[..8].copy_from_slice(&(offset + (number * PAGE) as u64).to_le_bytes());
    }
}

/// The first page is looked at: more would measure the looking.
fn is_stamped(piece: &[u8], offset: u64) -> bool {
    piece.first_chunk::<8>().is_none_or(|bytes| u64::from_le_bytes(*bytes) == offset)
}
