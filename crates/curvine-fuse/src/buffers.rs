//! Read buffers: each is large enough for the largest WRITE, whose data is handed on in it without a copy.
//!
//! Always: at most `limit` unused buffers are kept; those in use are bounded by the gate.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Requests up to this size are copied out, so that a small one does not hold a large buffer.
const COPY_MAX: usize = 16 << 10;

/// A pool of buffers of one size.
#[derive(Debug)]
pub struct Buffers {
    size: usize,
    limit: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Keeps up to `limit` unused buffers of `size` bytes.
    pub fn new(size: usize, limit: usize) -> Arc<Self> {
        Arc::new(Self { size, limit, free: Mutex::default() })
    }

    /// An empty buffer with the capacity.
    pub fn take(&self) -> Vec<u8> {
        let reused = self.free.lock().pop();
        reused.unwrap_or_else(|| Vec::with_capacity(self.size))
    }

    /// The request that was read into `buffer`, which is empty again afterwards.
    pub fn detach(self: &Arc<Self>, buffer: &mut Vec<u8>) -> Bytes {
        if buffer.len() <= COPY_MAX {
            let request = Bytes::copy_from_slice(buffer);
            buffer.clear();
            return request;
        }
        let filled = std::mem::replace(buffer, self.take());
        Bytes::from_owner(Lent { buffer: filled, pool: self.clone() })
    }

    /// Unused buffers.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.free.lock().len()
    }
}

/// A buffer that goes back to its pool.
struct Lent {
    buffer: Vec<u8>,
    pool: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut free = self.pool.free.lock();
        if free.len() < self.pool.limit {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_request_keeps_its_buffer_until_the_last_slice_goes() {
        let pool = Buffers::new(1 << 20, 1);
        let mut buffer = pool.take();
        buffer.resize(100_000, 7);
        let place = buffer.as_ptr();
        let request = pool.detach(&mut buffer);
        assert_eq!(request.as_ptr(), place, "copied");
        assert!(buffer.is_empty() && buffer.capacity() >= 1 << 20);
        let slice = request.slice(50..60);
        drop(request);
        assert_eq!((pool.free(), &slice[..]), (0, &[7; 10][..]));
        drop(slice);
        assert_eq!(pool.free(), 1);
        let again = pool.take();
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn a_small_request_is_copied_and_unused_buffers_are_limited() {
        let pool = Buffers::new(1 << 20, 1);
        let mut buffer = pool.take();
        buffer.extend_from_slice(b"request");
        let place = buffer.as_ptr();
        assert_eq!(&pool.detach(&mut buffer)[..], b"request");
        assert_eq!((buffer.as_ptr(), buffer.len()), (place, 0));
        let lend = |pool: &Arc<Buffers>| {
            let mut buffer = pool.take();
            buffer.resize(COPY_MAX + 1, 0);
            pool.detach(&mut buffer)
        };
        drop([lend(&pool), lend(&pool)]);
        assert_eq!(pool.free(), 1);
    }
}
