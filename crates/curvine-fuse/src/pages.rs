//! Dropping cached pages: the one notification that may wait for requests in flight, so it has a thread of its own.
//!
//! Always: callers wait for it only up to a deadline. What is late is still done; until then the attributes, which are
//! invalidated first and without waiting, make the kernel ask before each `read(2)`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use curvine_fuse_abi::Device;
use curvine_types::{Error, Result};
use tracing::warn;

struct Job {
    node: u64,
    /// Only what these bytes are in.
    range: Option<Range<u64>>,
    done: Option<Sender<()>>,
}

/// Hands nodes to the thread that drops their pages; the thread ends with the last handle to this.
#[derive(Debug)]
pub struct Pages {
    device: Arc<Device>,
    jobs: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
    timeout: Duration,
    late: AtomicU64,
}

impl Pages {
    /// At most `limit` nodes wait; callers wait for theirs up to `timeout`.
    pub fn start(device: Arc<Device>, limit: usize, timeout: Duration) -> Result<Self> {
        let (jobs, queue) = sync_channel(limit);
        let waiting = Arc::new(AtomicUsize::new(0));
        let counter = waiting.clone();
        let dropper = device.clone();
        std::thread::Builder::new()
            .name("fuse-pages".into())
            .spawn(move || drop_pages(&dropper, &queue, &counter))
            .map_err(|error| Error::from_io(error, "cannot start the thread that drops cached pages"))?;
        Ok(Self { device, jobs, waiting, timeout, late: AtomicU64::new(0) })
    }

    /// Drops the pages of these nodes and waits for it, up to the timeout.
    pub fn invalidate(&self, nodes: &[u64]) {
        self.drop_now(nodes.iter().map(|node| (*node, None)));
    }

    /// Drops the pages that have something of these bytes, and waits for it like `invalidate`.
    pub fn invalidate_ranges(&self, node: u64, ranges: &[Range<u64>]) {
        self.drop_now(ranges.iter().map(|range| (node, Some(range.clone()))));
    }

    fn drop_now(&self, what: impl Iterator<Item = (u64, Option<Range<u64>>)>) {
        let end = Instant::now() + self.timeout;
        let (sender, done) = std::sync::mpsc::channel();
        let mut expected =
            what.filter(|(node, range)| self.enqueue(*node, range.clone(), Some(sender.clone()))).count();
        drop(sender);
        while expected > 0 && done.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok() {
            expected -= 1;
        }
        if expected > 0 {
            self.late.fetch_add(expected as u64, Ordering::Relaxed);
            warn!(nodes = expected, "the kernel is still using pages that should be dropped; they will be, later");
        }
    }

    /// Makes the kernel ask for the attributes of a node it knows; waits for nothing.
    pub fn void_attributes(&self, node: u64) {
        if let Err(error) = self.device.invalidate_inode(node, false) {
            warn!(%error, node, "cannot tell the kernel that attributes have changed");
        }
    }

    /// Drops pages of a node soon, all of them or those of some bytes; for those who serve a request and must not wait.
    pub fn invalidate_later(&self, node: u64, range: Option<Range<u64>>) {
        self.enqueue(node, range, None);
    }

    /// Nodes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Nodes that were not done in time.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    fn enqueue(&self, node: u64, range: Option<Range<u64>>, done: Option<Sender<()>>) -> bool {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        match self.jobs.try_send(Job { node, range, done }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.late.fetch_add(1, Ordering::Relaxed);
                warn!(node, "too many nodes wait for their cached pages to be dropped; leaving it to their mtime");
                false
            }
        }
    }
}

fn drop_pages(device: &Device, queue: &Receiver<Job>, waiting: &AtomicUsize) {
    for job in queue {
        let dropped = match &job.range {
            None => device.invalidate_inode(job.node, true),
            Some(range) => device.invalidate_pages(job.node, range.start, range.end.saturating_sub(range.start)),
        };
        if let Err(error) = dropped {
            warn!(%error, node = job.node, "cannot drop cached pages");
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(done) = job.done {
            // The caller may have stopped waiting.
            let _ = done.send(());
        }
    }
}
