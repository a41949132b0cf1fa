//! Read buffers: each is large enough for the largest WRITE, whose data is handed on in it without a copy.
//!
//! Always: at most `limit` unused buffers are kept; those in use are bounded by the gate.
//! Always: every page of a buffer is there before the kernel is to write to it. If the process is killed while the kernel has to make
//! one, the request ends with EIO: it is neither queued any more nor sent again.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Requests up to this part of a buffer are copied out, so that a small one does not hold a large buffer.
const COPY_PART: usize = 8;
/// What new buffers are filled with: memory that is asked for as zeroes is made at the first use only.
const TOUCH: u8 = 0xa5;

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
        reused.unwrap_or_else(|| {
            let mut buffer = vec![TOUCH; self.size];
            buffer.clear();
            buffer
        })
    }

    /// The memory that a request of this size will hold.
    pub fn held(&self, length: usize) -> usize {
        if length <= self.size / COPY_PART { length } else { self.size }
    }

    /// The request that was read into `buffer`, which is empty again afterwards.
    pub fn detach(self: &Arc<Self>, buffer: &mut Vec<u8>) -> Bytes {
        if buffer.len() <= self.size / COPY_PART {
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
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn a_large_request_keeps_its_buffer_until_the_last_slice_goes() {
        let pool = Buffers::new(1 << 20, 1);
        let mut buffer = pool.take();
        buffer.resize(200_000, 7);
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

    /// Whether the page is in memory or swapped out.
    fn is_made(pagemap: &File, address: usize) -> bool {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, (address / PAGE * 8) as u64).unwrap();
        u64::from_le_bytes(entry) >> 62 != 0
    }

    #[test]
    fn the_kernel_finds_every_page_of_a_buffer_in_memory() {
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let untouched: Vec<u8> = Vec::with_capacity(8 << 20);
        let pages = |buffer: &Vec<u8>| {
            let start = buffer.as_ptr() as usize;
            (start..start + buffer.capacity()).step_by(PAGE).filter(|page| is_made(&pagemap, *page)).count()
        };
        assert!(pages(&untouched) < 100, "what nobody has touched is not there");
        let buffer = Buffers::new(1 << 20, 1).take();
        assert!(buffer.is_empty());
        assert_eq!(pages(&buffer), (1 << 20) / PAGE);
    }

    #[test]
    fn what_a_request_holds_is_its_size_or_a_whole_buffer() {
        let pool = Buffers::new(1 << 20, 1);
        assert_eq!([0, 100, 128 << 10].map(|length| pool.held(length)), [0, 100, 128 << 10]);
        assert_eq!([(128 << 10) + 1, 1 << 20].map(|length| pool.held(length)), [1 << 20; 2]);
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
            buffer.resize((1 << 20) / COPY_PART + 1, 0);
            pool.detach(&mut buffer)
        };
        drop([lend(&pool), lend(&pool)]);
        assert_eq!(pool.free(), 1);
    }
}
