//! INIT: what of the kernel's offer is taken, and why.
//!
//! Always: a flag is answered only if the kernel offered it; WRITEBACK_CACHE never is (it excludes passthrough for the whole
//! connection, and a write is acknowledged only when a worker has it); so is nothing that makes OPEN optional.

use curvine_types::{Error, ErrorKind, Result};

use crate::kernel::init_flags::*;
use crate::kernel::{InitOut, MAJOR, MINOR, MINOR_FLOOR};
use crate::request::InitRequest;

/// What the mount wants to be told or allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// Bytes of the largest READ and WRITE; the kernel may lower it (`max_pages_limit`).
    pub max_write: u32,
    /// Bytes the kernel reads ahead.
    pub max_readahead: u32,
    /// Background requests in the kernel before it makes callers wait.
    pub max_background: u16,
    /// Background requests at which the device counts as congested.
    pub congestion_threshold: u16,
    /// Take record locks and flock over the network rather than in this kernel alone.
    pub locks: bool,
    /// Let the kernel read and write local files by itself.
    pub passthrough: bool,
    /// Highest minor version of the protocol that is spoken; what came later is done without.
    pub minor_max: u32,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            max_write: 1 << 20,
            max_readahead: 1 << 20,
            max_background: 256,
            congestion_threshold: 192,
            locks: true,
            passthrough: false,
            minor_max: MINOR,
        }
    }
}

/// What was agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub minor: u32,
    /// What the kernel offered and we took.
    pub flags: u64,
    /// What the kernel offered.
    pub offered: u64,
    pub max_write: u32,
    pub max_readahead: u32,
}

impl Negotiated {
    /// Whether the kernel can read and write local files by itself (6.9).
    pub fn has_passthrough(&self) -> bool {
        self.flags & PASSTHROUGH != 0
    }

    /// Whether the kernel checks access control lists.
    pub fn has_acls(&self) -> bool {
        self.flags & POSIX_ACL != 0
    }

    /// Whether one notification makes all cached names be looked up again (7.44).
    pub fn has_inc_epoch(&self) -> bool {
        self.minor >= 44
    }

    /// Whether the kernel sends requests again that a dead process had read (7.40).
    pub fn has_resend(&self) -> bool {
        self.minor >= 40 && self.flags & HAS_RESEND != 0
    }
}

/// What is taken whenever it is offered.
///
/// Not ATOMIC_O_TRUNC: with it the kernel has a file emptied, and drops its pages, before it asks whether the file is being
/// executed (ETXTBSY).
const WANTED: u64 = ASYNC_READ
    | BIG_WRITES
    // An mtime or size that changed drops the cached pages: the last line of coherence.
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | MAX_PAGES
    // suid and sgid are dropped by the master and the workers, in the same step as the write; and the kernel
    // need not ask for security.capability before each one.
    | HANDLE_KILLPRIV_V2
    | INIT_EXT
    | HAS_RESEND
    // mmap(MAP_SHARED) must work on files that are open without page cache.
    | DIRECT_IO_ALLOW_MMAP
    // Access control lists are checked by the kernel, and the master applies the umask where no default list takes its place.
    | POSIX_ACL
    | DONT_MASK
    | SETXATTR_EXT
    // The target of a symlink never changes and its inode is never reused.
    | CACHE_SYMLINKS;

/// Flags that came with a later version than this one.
fn too_new(minor: u32) -> u64 {
    let since = |version: u32, flag: u64| if minor < version { flag } else { 0 };
    since(28, MAX_PAGES | CACHE_SYMLINKS)
        | since(33, HANDLE_KILLPRIV_V2 | SETXATTR_EXT)
        | since(36, INIT_EXT)
        | since(39, DIRECT_IO_ALLOW_MMAP)
        | since(40, PASSTHROUGH | HAS_RESEND)
}

/// Chooses the answer to INIT; `NotSupported` for a kernel below the floor.
pub fn negotiate(request: &InitRequest, options: &InitOptions) -> Result<(InitOut, Negotiated)> {
    if request.major != MAJOR || request.minor < MINOR_FLOOR {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "this kernel's FUSE is too old; Linux 4.18 or newer is needed",
        )
        .with("have", format!("{}.{}", request.major, request.minor))
        .with("want", format!("{MAJOR}.{MINOR_FLOOR}")));
    }
    let locks = if options.locks { POSIX_LOCKS | FLOCK_LOCKS } else { 0 };
    let minor = request.minor.min(MINOR).min(options.minor_max.max(MINOR_FLOOR));
    let passthrough = if options.passthrough { PASSTHROUGH } else { 0 };
    let flags = request.flags & (WANTED | locks | passthrough) & !too_new(minor);
    // Without MAX_PAGES the kernel sends at most 32 pages.
    let max_write = if flags & MAX_PAGES != 0 { options.max_write } else { options.max_write.min(128 << 10) };
    let max_write = max_write.max(4096);
    let negotiated = Negotiated {
        minor,
        flags,
        offered: request.flags,
        max_write,
        max_readahead: options.max_readahead.min(request.max_readahead.max(max_write)),
    };
    let out = InitOut {
        major: MAJOR,
        minor: negotiated.minor,
        max_readahead: negotiated.max_readahead,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        max_background: options.max_background,
        congestion_threshold: options.congestion_threshold.min(options.max_background),
        max_write,
        time_gran: 1,
        // The local files lie on a plain file system; a higher number would keep overlayfs from stacking over this mount.
        max_stack_depth: u32::from(flags & PASSTHROUGH != 0),
        max_pages: if flags & MAX_PAGES != 0 { max_write.div_ceil(4096).min(u32::from(u16::MAX)) as u16 } else { 0 },
        ..InitOut::default()
    };
    Ok((out, negotiated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(minor: u32, flags: u64) -> InitRequest {
        InitRequest { major: 7, minor, max_readahead: 131_072, flags }
    }

    #[test]
    fn only_what_was_offered_is_taken_and_never_the_write_back_cache() {
        let (out, agreed) = negotiate(&offer(45, u64::MAX), &InitOptions::default()).unwrap();
        assert_eq!(agreed.flags & (WRITEBACK_CACHE | NO_OPEN_SUPPORT | PASSTHROUGH), 0);
        assert_ne!(agreed.flags & (HANDLE_KILLPRIV_V2 | POSIX_LOCKS | FLOCK_LOCKS), 0);
        assert_eq!((u64::from(out.flags2) << 32) | u64::from(out.flags), agreed.flags);
        assert_eq!((out.max_pages, out.minor), (256, 45));
        assert!(agreed.has_inc_epoch());

        let wanted = InitOptions { passthrough: true, ..InitOptions::default() };
        let (out, agreed) = negotiate(&offer(45, u64::MAX), &wanted).unwrap();
        assert!(agreed.has_passthrough() && out.max_stack_depth == 1);
        let (out, agreed) = negotiate(&offer(39, !PASSTHROUGH), &wanted).unwrap();
        assert!(!agreed.has_passthrough() && out.max_stack_depth == 0);

        let (out, agreed) = negotiate(&offer(27, ASYNC_READ | BIG_WRITES), &InitOptions::default()).unwrap();
        assert_eq!(agreed.flags, ASYNC_READ | BIG_WRITES);
        assert_eq!((out.max_write, out.max_pages), (128 << 10, 0));
        assert!(!agreed.has_inc_epoch());
    }

    #[test]
    fn a_capped_version_does_without_what_came_later() {
        let options = InitOptions { minor_max: 38, ..InitOptions::default() };
        let (out, agreed) = negotiate(&offer(45, u64::MAX), &options).unwrap();
        assert_eq!((out.minor, agreed.flags & (HAS_RESEND | DIRECT_IO_ALLOW_MMAP)), (38, 0));
        assert!(!agreed.has_resend() && !agreed.has_inc_epoch());
        let options = InitOptions { minor_max: 1, ..InitOptions::default() };
        assert_eq!(negotiate(&offer(45, u64::MAX), &options).unwrap().0.minor, MINOR_FLOOR);
        assert!(negotiate(&offer(45, u64::MAX), &InitOptions::default()).unwrap().1.has_resend());
    }

    #[test]
    fn a_newer_kernel_is_spoken_to_in_our_version_and_an_older_one_refused() {
        assert_eq!(negotiate(&offer(99, 0), &InitOptions::default()).unwrap().0.minor, MINOR);
        assert_eq!(negotiate(&offer(26, 0), &InitOptions::default()).unwrap_err().kind(), ErrorKind::NotSupported);
    }
}
