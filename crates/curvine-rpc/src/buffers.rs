//! Buffers for large received parts, used again and again: fresh memory costs a page fault for every 4 KiB, which at
//! 1 MiB a message takes as long as the copy itself.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use curvine_types::limits::PIECE_SIZE;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

/// Smaller parts come from the allocator, which keeps such memory at hand itself.
const POOLED_MIN: usize = 128 << 10;

/// A shared pool of free buffers.
#[derive(Clone, Debug)]
pub struct Buffers {
    free: Arc<Mutex<Free>>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Free {
    /// The least recently returned first.
    buffers: Vec<BytesMut>,
    bytes: usize,
}

impl Buffers {
    /// A pool that keeps up to `bytes` of free buffers.
    pub fn new(bytes: usize) -> Self {
        Self { free: Arc::default(), limit: bytes }
    }

    /// The most that is kept.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of free buffers.
    pub fn kept(&self) -> usize {
        self.free.lock().bytes
    }

    /// An empty buffer with room for `length`.
    pub(crate) fn take(&self, length: usize) -> BytesMut {
        if length < POOLED_MIN {
            return BytesMut::with_capacity(length);
        }
        let capacity = length.next_multiple_of(PIECE_SIZE as usize);
        let mut free = self.free.lock();
        // Not much larger than asked for, since the buffer is charged by the length of the part.
        let fits = |buffer: &BytesMut| (capacity..=capacity + capacity / 4).contains(&buffer.capacity());
        if let Some(position) = free.buffers.iter().rposition(fits) {
            let buffer = free.buffers.remove(position);
            free.bytes -= buffer.capacity();
            return buffer;
        }
        drop(free);
        BytesMut::with_capacity(capacity)
    }

    /// What was read into a buffer. When the last clone is dropped, the buffer comes back and `budget` is given back.
    pub(crate) fn freeze(&self, buffer: BytesMut, budget: Option<Arc<OwnedSemaphorePermit>>) -> Bytes {
        if buffer.is_empty() || (buffer.len() < POOLED_MIN && budget.is_none()) {
            return buffer.freeze();
        }
        Bytes::from_owner(Lent { buffer, _budget: budget, home: self.clone() })
    }

    fn put(&self, mut buffer: BytesMut) {
        let capacity = buffer.capacity();
        if capacity < POOLED_MIN || capacity > self.limit {
            return;
        }
        buffer.clear();
        let mut free = self.free.lock();
        let mut outdated = 0;
        while free.bytes + capacity > self.limit {
            match free.buffers.get(outdated) {
                Some(old) => free.bytes -= old.capacity(),
                None => break,
            }
            outdated += 1;
        }
        let outdated: Vec<_> = free.buffers.drain(..outdated).collect();
        free.bytes += capacity;
        free.buffers.push(buffer);
        drop(free);
        drop(outdated);
    }
}

struct Lent {
    buffer: BytesMut,
    _budget: Option<Arc<OwnedSemaphorePermit>>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &Buffers, length: usize) -> Bytes {
        let mut buffer = pool.take(length);
        assert!(buffer.is_empty() && buffer.capacity() >= length);
        buffer.resize(length, 7);
        pool.freeze(buffer, None)
    }

    #[test]
    fn a_buffer_comes_back_with_its_last_clone_and_is_used_again() {
        let pool = Buffers::new(4 << 20);
        let bytes = filled(&pool, 1 << 20);
        let slice = bytes.slice(5..10);
        let place = bytes.as_ptr();
        drop(bytes);
        assert_eq!((pool.kept(), &slice[..]), (0, &[7; 5][..]));
        drop(slice);
        assert_eq!(pool.kept(), 1 << 20);
        assert_eq!(filled(&pool, (1 << 20) - 5).as_ptr(), place);
        assert_eq!(pool.kept(), 1 << 20);
    }

    #[test]
    fn no_more_is_kept_than_the_limit_and_the_oldest_goes_first() {
        let pool = Buffers::new(1 << 20);
        let held: Vec<_> = (0..10).map(|_| filled(&pool, 256 << 10)).collect();
        drop(held);
        assert_eq!(pool.kept(), 1 << 20);
        drop(filled(&pool, 512 << 10));
        assert_eq!(pool.kept(), 1 << 20);
        assert_eq!(pool.free.lock().buffers.len(), 3);
        drop(filled(&pool, 2 << 20));
        assert_eq!(pool.kept(), 1 << 20);
    }

    #[test]
    fn small_parts_and_unsuitable_buffers_are_not_pooled() {
        let pool = Buffers::new(8 << 20);
        drop(filled(&pool, 1000));
        assert_eq!(pool.kept(), 0);
        drop(filled(&pool, 1 << 20));
        // A buffer four times as large as needed stays where it is.
        let small = filled(&pool, 256 << 10);
        assert_eq!(pool.kept(), 1 << 20);
        drop(small);
        assert_eq!(pool.kept(), (1 << 20) + (256 << 10));
    }
}
