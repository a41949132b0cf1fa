//! Read-ahead of one handle: notices sequential reading and fetches what will be wanted, whole MiB at a time.
//!
//! Always: what was fetched is served only under the stamp that it was asked for under, so a recall, a broken lease or an own
//! write voids it. At most the window and two pieces are held.

use std::collections::VecDeque;
use std::sync::Arc;

use curvine_types::limits::IO_MAX;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::AbortHandle;

use crate::file::Stamp;
use crate::piece::Data;

const PIECE: u64 = IO_MAX as u64;
/// Reads that far from where the last one ended still belong to the stream: the kernel's own come slightly out of order.
const SLACK: u64 = PIECE / 2;
/// Contiguous reads before anything is read ahead.
const STREAK: u32 = 2;
/// A stream is expected to go on for so many times what it has read, as far as a worker is told: up to `EXPECTED_MAX` bytes.
const EXPECTED: u64 = 4;
const EXPECTED_MAX: u64 = 64 << 20;

/// What has become of a piece.
#[derive(Clone)]
pub(crate) enum Fetch {
    Pending,
    Ready(Data),
    Failed,
}

/// A piece that was or is being fetched.
pub(crate) struct Piece {
    index: u64,
    fetched: watch::Receiver<Fetch>,
    task: AbortHandle,
    /// Its share of the memory.
    _memory: Arc<OwnedSemaphorePermit>,
}

impl Piece {
    pub(crate) fn new(
        index: u64,
        fetched: watch::Receiver<Fetch>,
        task: AbortHandle,
        memory: OwnedSemaphorePermit,
    ) -> Self {
        Self { index, fetched, task, _memory: Arc::new(memory) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct ReadAhead {
    stamp: Option<Stamp>,
    /// Where the stream is expected to go on.
    next: u64,
    /// Where it began.
    start: u64,
    streak: u32,
    /// Pieces to hold ahead of the stream.
    window: u64,
    window_max: u64,
    pieces: VecDeque<Piece>,
}

impl ReadAhead {
    pub(crate) fn new(window_max: usize) -> Self {
        Self {
            stamp: None,
            next: 0,
            start: 0,
            streak: 0,
            window: 0,
            window_max: window_max as u64,
            pieces: VecDeque::new(),
        }
    }

    /// Takes notice of a read under `stamp` of a file of `size` bytes; the indexes of the pieces that should be fetched now.
    pub(crate) fn plan(&mut self, stamp: Option<Stamp>, offset: u64, length: u64, size: u64) -> Vec<u64> {
        if stamp.is_none() || self.stamp != stamp {
            self.stamp = stamp;
            self.pieces.clear();
        }
        let end = offset.saturating_add(length);
        if offset == self.next {
            self.streak = self.streak.saturating_add(1);
        } else if offset.abs_diff(self.next) > SLACK {
            self.streak = 0;
            self.start = offset;
            self.window = 0;
            self.pieces.clear();
        }
        self.next = if offset.abs_diff(self.next) <= SLACK { self.next.max(end) } else { end };
        if stamp.is_none() || self.streak < STREAK || self.window_max == 0 {
            return Vec::new();
        }
        let passed = self.next.saturating_sub(SLACK);
        self.pieces.retain(|piece| (piece.index + 1) * PIECE > passed);

        let first = self.next.div_ceil(PIECE);
        let held = self.pieces.iter().filter(|piece| piece.index >= first).count() as u64;
        // It grows only when the stream has used up half of it, so that a slow reader does not fill the memory.
        if held <= self.window / 2 {
            self.window = (self.window * 2).clamp(1, self.window_max);
        }
        let last = (first + self.window).min(size.div_ceil(PIECE));
        (first..last).filter(|index| !self.pieces.iter().any(|piece| piece.index == *index)).collect()
    }

    /// Bytes that the stream will likely want beyond a piece: a hint for whoever fetches it from far away.
    pub(crate) fn expected(&self) -> u32 {
        let read = self.next.saturating_sub(self.start);
        read.saturating_mul(EXPECTED).clamp(PIECE, EXPECTED_MAX) as u32
    }

    /// Takes a piece whose fetch has begun.
    pub(crate) fn add(&mut self, stamp: Stamp, piece: Piece) {
        if self.stamp == Some(stamp) && self.pieces.len() as u64 <= self.window_max + 2 {
            self.pieces.push_back(piece);
        }
    }

    /// The piece that covers `offset`, if it is there or on its way.
    pub(crate) fn find(&self, stamp: Option<Stamp>, offset: u64) -> Option<(u64, watch::Receiver<Fetch>)> {
        if stamp.is_none() || self.stamp != stamp {
            return None;
        }
        let piece = self.pieces.iter().find(|piece| piece.index == offset / PIECE)?;
        Some((piece.index * PIECE, piece.fetched.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_a_stream_is_the_more_is_expected_of_it() {
        let stamp = Some(Stamp::default());
        let mut ahead = ReadAhead::new(16);
        let size = 1 << 40;
        assert!(ahead.plan(stamp, 0, PIECE, size).is_empty(), "one read is no stream");
        assert_eq!(ahead.plan(stamp, PIECE, PIECE, size), [2]);
        assert_eq!(u64::from(ahead.expected()), 8 * PIECE);
        (2..100).for_each(|piece| drop(ahead.plan(stamp, piece * PIECE, PIECE, size)));
        assert_eq!(u64::from(ahead.expected()), EXPECTED_MAX);
        ahead.plan(stamp, 500 * PIECE, 4096, size);
        assert_eq!(u64::from(ahead.expected()), PIECE, "what was read elsewhere does not count");
    }
}
