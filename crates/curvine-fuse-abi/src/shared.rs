//! Memory that outlives a process: a memfd of 64-bit words, mapped by whoever holds its descriptor.
//!
//! Always: every access is an atomic one, so that several processes may look at it at once; the file is sealed against
//! shrinking, so that the mapping stays whole for as long as it is there.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

/// Most words that are mapped: more is no table of ours.
const WORDS_MAX: usize = 1 << 32;
/// In the smallest page there is.
const PAGE_WORDS: usize = 512;

/// The words, shared with everybody who has the descriptor.
#[derive(Debug)]
pub struct SharedWords {
    fd: OwnedFd,
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is plain memory that belongs to no thread, and it is reached only as `&AtomicU64`, which is Sync.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Zeroed memory of so many words. Memory is used only for pages that were touched.
    pub fn create(name: &str, words: usize) -> Result<Self> {
        let failed = |errno: rustix::io::Errno| Error::from_io(errno.into(), "cannot make shared memory");
        if words == 0 || words > WORDS_MAX {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a size of shared memory").with("words", words));
        }
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(failed)?;
        rustix::fs::ftruncate(&fd, (words * 8) as u64).map_err(failed)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(failed)?;
        Self::map(fd)
    }

    /// The memory of somebody else's descriptor; refused unless it is sealed as ours is.
    pub fn map(fd: OwnedFd) -> Result<Self> {
        let refused = |message: &str| Error::new(ErrorKind::Corrupt, message);
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| refused("the descriptor is no shared memory"))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(refused("the shared memory may shrink"));
        }
        let size = rustix::fs::fstat(&fd)
            .map_err(|errno| Error::from_io(errno.into(), "cannot look at shared memory"))?
            .st_size;
        let words = usize::try_from(size).unwrap_or_default() / 8;
        if words == 0 || words > WORDS_MAX {
            return Err(refused("the shared memory has no sensible size"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory. The file has at least
        // `words * 8` bytes and is sealed against shrinking (checked above), so every page of it can be reached.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Error::from_io(std::io::Error::last_os_error(), "cannot map shared memory"));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| refused("mapped at no address"))?;
        Ok(Self { fd, start, words })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.words
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// Makes the memory of a range be there before it is needed. What cannot be made is made at its first use.
    pub fn populate(&self, start: usize, words: usize) {
        let range = &self.words()[start..start + words];
        // SAFETY: the range lies in our mapping (the slice above); the advice changes none of its content.
        let made = unsafe { libc::madvise(range.as_ptr().cast_mut().cast(), words * 8, libc::MADV_POPULATE_WRITE) };
        if made != 0 {
            // Linux before 5.14 does not know it: a write to each page does the same.
            range.iter().step_by(PAGE_WORDS).for_each(|word| {
                word.fetch_or(0, Ordering::Relaxed);
            });
        }
    }

    /// Gives the memory of a range of whole pages back; it is zero afterwards.
    pub fn discard(&self, start: usize, words: usize) {
        let range = &self.words()[start..start + words];
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&self.fd, flags, (start * 8) as u64, (words * 8) as u64);
        if punched.is_err() {
            range.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// Appends the first `length` bytes from word `start` on to `buffer`.
    pub fn copy_out(&self, start: usize, length: usize, buffer: &mut Vec<u8>) {
        buffer.reserve(length.next_multiple_of(8));
        let end = buffer.len() + length;
        for word in &self.words()[start..start + length.div_ceil(8)] {
            buffer.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        buffer.truncate(end);
    }

    /// Writes `bytes` from word `start` on; the rest of the last word becomes zero.
    pub fn copy_in(&self, start: usize, bytes: &[u8]) {
        for (word, part) in self.words()[start..].iter().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..part.len()].copy_from_slice(part);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
    }

    /// Reads from a descriptor into the words from `start` on: how many bytes came.
    pub(crate) fn read_from(&self, fd: BorrowedFd<'_>, start: usize, words: usize) -> rustix::io::Result<usize> {
        let range = &self.words()[start..start + words];
        // SAFETY: the kernel writes at most `words * 8` bytes into our mapping, which is reached only as atomics, and those are
        // valid for every content.
        let read = unsafe { libc::read(fd.as_raw_fd(), range.as_ptr().cast_mut().cast(), words * 8) };
        let failed = || rustix::io::Errno::from_io_error(&std::io::Error::last_os_error());
        usize::try_from(read).map_err(|_| failed().unwrap_or(rustix::io::Errno::IO))
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `words` words, is page-aligned, lives as long as `self`, and an AtomicU64 is valid for
        // every content. Nobody makes a plain reference into it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl AsFd for SharedWords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let first = SharedWords::create("test", 1 << 20).unwrap();
        let second = SharedWords::map(first.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((second.len(), second.words()[77].load(Ordering::Relaxed)), (1 << 20, 0));
        first.words()[77].store(5, Ordering::Release);
        assert_eq!(second.words()[77].load(Ordering::Acquire), 5);
        drop(first);
        assert_eq!(second.words()[77].load(Ordering::Acquire), 5);
        assert!(!second.is_empty());
    }

    #[test]
    fn bytes_go_in_and_come_out_and_discarded_ones_are_zero() {
        let memory = SharedWords::create("test", 4096).unwrap();
        memory.populate(512, 1024);
        let bytes: Vec<u8> = (0..3001u32).map(|byte| byte as u8).collect();
        memory.copy_in(600, &bytes);
        let mut out = vec![9];
        memory.copy_out(600, bytes.len(), &mut out);
        assert_eq!((out[0], &out[1..]), (9, &bytes[..]));
        memory.discard(512, 1024);
        out.clear();
        memory.copy_out(600, bytes.len(), &mut out);
        assert_eq!(out, vec![0; bytes.len()]);
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, &bytes).unwrap();
        assert_eq!(memory.read_from(reader.as_fd(), 700, 2048).unwrap(), bytes.len());
        out.clear();
        memory.copy_out(700, bytes.len(), &mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn what_may_shrink_is_refused() {
        let fd = rustix::fs::memfd_create("loose", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert_eq!(SharedWords::map(fd).unwrap_err().kind(), ErrorKind::Corrupt);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(SharedWords::map(file.into()).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(SharedWords::create("none", 0).is_err());
    }
}
