//! What a mount can be told. Every queue, pool and wait of the mount has its limit here.

use std::time::Duration;

/// Settings of one [`crate::Mount`].
#[derive(Clone, Debug)]
pub struct FuseOptions {
    /// The directory of Curvine that becomes the root of the mount.
    pub fs_path: String,
    /// Let other users than the mounting one in.
    pub allow_other: bool,
    pub read_only: bool,
    /// Ignore setuid bits.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Refuse to execute files.
    pub noexec: bool,
    /// Threads that read requests.
    pub threads: usize,
    /// Each thread has its own descriptor of the session.
    pub clone_fd: bool,
    /// Bytes of the largest READ and WRITE.
    pub max_write: u32,
    /// Bytes that the kernel reads ahead.
    pub read_ahead: u64,
    /// Background requests in the kernel before it makes callers wait.
    pub max_background: u16,
    pub congestion_threshold: u16,
    /// Requests being served at which the mount stops reading more, except on one thread.
    pub requests_in_flight: usize,
    /// Bytes of requests being served, mostly data to be written; the same holds. Four times that is never exceeded.
    pub request_bytes: usize,
    /// Open files and directories at once.
    pub open_files: usize,
    /// Longest time that the kernel may believe an attribute or a name without asking.
    pub max_ttl: Duration,
    /// How long a request goes on after a signal that does not kill its process.
    pub interrupt_grace: Duration,
    /// How long unmounting waits for what is in flight and for files that are still open.
    pub drain_timeout: Duration,
    /// How old the numbers of `statfs` may get.
    pub statfs_interval: Duration,
    /// How long an answer about the root waits for the cluster before the last known one is given.
    pub root_timeout: Duration,
    /// How long a recall waits for the kernel to drop pages that are being read or written just now.
    pub invalidate_timeout: Duration,
    /// Page invalidations that wait for the kernel at once.
    pub invalidations_in_flight: usize,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            fs_path: "/".into(),
            allow_other: true,
            read_only: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            threads: std::thread::available_parallelism().map_or(4, |cores| cores.get()).clamp(2, 8),
            clone_fd: true,
            max_write: 1 << 20,
            read_ahead: 4 << 20,
            max_background: 256,
            congestion_threshold: 192,
            requests_in_flight: 4096,
            request_bytes: 64 << 20,
            open_files: 1 << 20,
            max_ttl: Duration::from_secs(10),
            interrupt_grace: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(10),
            statfs_interval: Duration::from_secs(5),
            root_timeout: Duration::from_millis(500),
            invalidate_timeout: Duration::from_secs(2),
            invalidations_in_flight: 1024,
        }
    }
}
