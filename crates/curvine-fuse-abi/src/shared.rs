//! Memory that outlives a process: a memfd of 64-bit words, mapped by whoever holds its descriptor.
//!
//! Always: every access is an atomic one, so that several processes may look at it at once; the file is sealed against
//! shrinking, so that the mapping stays whole for as long as it is there.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::{MemfdFlags, SealFlags};

/// Most words that are mapped: more is no table of ours.
const WORDS_MAX: usize = 1 << 32;

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
    use std::sync::atomic::Ordering;

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
    fn what_may_shrink_is_refused() {
        let fd = rustix::fs::memfd_create("loose", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert_eq!(SharedWords::map(fd).unwrap_err().kind(), ErrorKind::Corrupt);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(SharedWords::map(file.into()).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(SharedWords::create("none", 0).is_err());
    }
}
