//! Dropping cached pages: the one notification that may wait for requests in flight, so it has a thread of its own. Bytes of a write
//! that ends are dropped beside it.
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
        let end = Instant::now() + self.timeout;
        let (sender, done) = std::sync::mpsc::channel();
        let mut expected = nodes.iter().filter(|node| self.enqueue(**node, None, Some(sender.clone()))).count();
        drop(sender);
        while expected > 0 && done.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok() {
            expected -= 1;
        }
        if expected > 0 {
            self.late.fetch_add(expected as u64, Ordering::Relaxed);
            warn!(nodes = expected, "the kernel is still using pages that should be dropped; they will be, later");
        }
    }

    /// As `invalidate`, for those who serve a request and must not block their thread.
    pub async fn invalidate_aside(self: &Arc<Self>, node: u64) {
        let pages = self.clone();
        aside(move || pages.invalidate(&[node])).await;
    }

    /// Drops the pages that have something of these bytes, for the request that wrote them, and waits for it, up to the timeout. Past
    /// the queue: what is at its head may wait for the answer to that request.
    pub async fn drop_ranges(&self, node: u64, ranges: Vec<Range<u64>>) {
        let device = self.device.clone();
        let dropping = aside(move || ranges.into_iter().for_each(|range| drop_one(&device, node, Some(range))));
        if tokio::time::timeout(self.timeout, dropping).await.is_err() {
            self.late.fetch_add(1, Ordering::Relaxed);
            warn!(node, "the kernel is still using pages that a write overtook; they will be dropped later");
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

/// Drops pages on a thread that may wait; it goes on if nobody waits for it any more.
async fn aside(dropping: impl FnOnce() + Send + 'static) {
    let dropped = tokio::task::spawn_blocking(dropping).await;
    debug_assert!(dropped.is_ok(), "dropping pages does not panic");
}

fn drop_pages(device: &Device, queue: &Receiver<Job>, waiting: &AtomicUsize) {
    for job in queue {
        drop_one(device, job.node, job.range);
        waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(done) = job.done {
            // The caller may have stopped waiting.
            let _ = done.send(());
        }
    }
}

fn drop_one(device: &Device, node: u64, range: Option<Range<u64>>) {
    let dropped = match range {
        None => device.invalidate_inode(node, true),
        Some(range) => device.invalidate_pages(node, range.start, range.end.saturating_sub(range.start)),
    };
    if let Err(error) = dropped {
        warn!(%error, node, "cannot drop cached pages");
    }
}
