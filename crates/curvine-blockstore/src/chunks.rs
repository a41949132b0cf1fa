//! What is known of each 1 MiB chunk of a content, and the CRC-32C of each of its 64 KiB pieces.
//!
//! A chunk that is not in the map is what its content's kind says: absent of a cached copy, a hole of a sealed content,
//! data without known checksums of a live one. So the map's size follows from the data, not from the file's length.

use std::collections::BTreeMap;

use curvine_types::limits::{CHUNK_SIZE, PIECE_SIZE};

/// Pieces in a whole chunk.
pub(crate) const PIECES: usize = (CHUNK_SIZE / PIECE_SIZE) as usize;

/// The checksums of one chunk, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PieceSums {
    crcs: [u32; PIECES],
    /// Bit i: `crcs[i]` is known.
    known: u16,
    /// Unsynced data may have been lost since they were computed: compare before the first use.
    pub suspect: bool,
}

impl PieceSums {
    fn none() -> Self {
        Self { crcs: [0; PIECES], known: 0, suspect: false }
    }

    /// All of `crcs`, of the first pieces of the chunk.
    pub fn all(crcs: &[u32]) -> Self {
        let mut sums = Self::none();
        for (piece, crc) in crcs.iter().take(PIECES).enumerate() {
            sums.set(piece, *crc);
        }
        sums
    }

    /// The checksum of piece `piece` of the chunk.
    pub fn get(&self, piece: usize) -> Option<u32> {
        let known = piece < PIECES && self.known & (1 << piece) != 0;
        known.then(|| self.crcs[piece])
    }

    pub fn set(&mut self, piece: usize, crc: u32) {
        if let Some(slot) = self.crcs.get_mut(piece) {
            *slot = crc;
            self.known |= 1 << piece;
        }
    }

    pub fn forget(&mut self, piece: usize) {
        if piece < PIECES {
            self.known &= !(1 << piece);
        }
    }

    /// The known checksums from the first piece on.
    pub fn kept(&self) -> &[u32] {
        &self.crcs[..self.known.trailing_ones() as usize]
    }
}

/// A chunk of which something is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Hole,
    Data(Box<PieceSums>),
}

/// The known chunks of a content, by number. Most contents have one chunk, which takes no node of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChunkMap {
    /// Chunk 0.
    first: Option<Chunk>,
    /// All others.
    rest: BTreeMap<u64, Chunk>,
}

impl ChunkMap {
    pub fn get(&self, number: u64) -> Option<&Chunk> {
        match number {
            0 => self.first.as_ref(),
            _ => self.rest.get(&number),
        }
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Chunk> {
        match number {
            0 => self.first.as_mut(),
            _ => self.rest.get_mut(&number),
        }
    }

    pub fn insert(&mut self, number: u64, chunk: Chunk) {
        match number {
            0 => self.first = Some(chunk),
            _ => drop(self.rest.insert(number, chunk)),
        }
    }

    pub fn remove(&mut self, number: u64) {
        match number {
            0 => self.first = None,
            _ => drop(self.rest.remove(&number)),
        }
    }

    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &Chunk)> {
        let rest = self.rest.iter().map(|(number, chunk)| (*number, chunk));
        self.first.iter().map(|chunk| (0, chunk)).chain(rest)
    }

    /// Chunks as a `Pieces` record has them; what it does not cover stays as it is.
    pub fn install(&mut self, first: u64, count: u64, hole: bool, crcs: &[u32]) {
        if hole {
            for number in first..first.saturating_add(count.min(1 << 24)) {
                self.insert(number, Chunk::Hole);
            }
        } else {
            for (number, crcs) in (first..first.saturating_add(count)).zip(crcs.chunks(PIECES)) {
                self.insert(number, Chunk::Data(Box::new(PieceSums::all(crcs))));
            }
        }
    }

    /// The checksum of the piece that begins at byte `offset`.
    pub fn crc(&self, offset: u64) -> Option<u32> {
        match self.get(offset / CHUNK_SIZE)? {
            Chunk::Data(sums) => sums.get(piece_of(offset)),
            Chunk::Hole => None,
        }
    }

    /// Remembers the checksum of the piece that begins at byte `offset`.
    pub fn set_crc(&mut self, offset: u64, crc: u32) {
        let slot = match offset / CHUNK_SIZE {
            0 => self.first.get_or_insert(Chunk::Hole),
            number => self.rest.entry(number).or_insert(Chunk::Hole),
        };
        if *slot == Chunk::Hole {
            *slot = Chunk::Data(Box::new(PieceSums::none()));
        }
        if let Chunk::Data(sums) = slot {
            sums.set(piece_of(offset), crc);
        }
    }

    /// The bytes `offset..end` of a live content changed: their checksums are void. Whole chunks are dropped.
    pub fn forget(&mut self, offset: u64, end: u64) {
        if offset >= end {
            return;
        }
        let (first, last) = (offset / CHUNK_SIZE, (end - 1) / CHUNK_SIZE);
        let inner = offset.div_ceil(CHUNK_SIZE)..end / CHUNK_SIZE;
        if !inner.is_empty() {
            self.first.take_if(|_| inner.start == 0);
            let numbers: Vec<u64> = self.rest.range(inner).map(|(number, _)| *number).collect();
            for number in numbers {
                self.rest.remove(&number);
            }
        }
        for number in [first, last] {
            let Some(Chunk::Data(sums)) = self.get_mut(number) else {
                self.remove(number);
                continue;
            };
            let start = number * CHUNK_SIZE;
            for piece in 0..PIECES {
                let piece_start = start + piece as u64 * PIECE_SIZE;
                if piece_start < end && piece_start + PIECE_SIZE > offset {
                    sums.forget(piece);
                }
            }
        }
    }

    /// Marks all checksums as to be compared before their first use.
    pub fn suspect_all(&mut self) {
        for chunk in self.first.iter_mut().chain(self.rest.values_mut()) {
            if let Chunk::Data(sums) = chunk {
                sums.suspect = true;
            }
        }
    }
}

/// Which piece of its chunk holds byte `offset`.
fn piece_of(offset: u64) -> usize {
    (offset % CHUNK_SIZE / PIECE_SIZE) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_voids_exactly_the_checksums_it_touches() {
        let mut map = ChunkMap::default();
        map.install(0, 3, false, &[7; 3 * PIECES]);
        map.forget(PIECE_SIZE + 1, 2 * CHUNK_SIZE + 1);
        assert_eq!(map.crc(0), Some(7));
        assert_eq!(map.crc(PIECE_SIZE), None);
        assert_eq!(map.crc(CHUNK_SIZE), None);
        assert_eq!(map.crc(2 * CHUNK_SIZE), None);
        assert_eq!(map.crc(2 * CHUNK_SIZE + PIECE_SIZE), Some(7));
        map.forget(0, u64::MAX / 2);
        assert_eq!(map.len(), 0);
    }
}
