//! Blocking disk work on a bounded number of threads.
//!
//! Work that was begun is finished even if nobody waits any more; work whose deadline has passed is not begun.

use std::sync::Arc;

use curvine_types::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Reads and writes have lanes of their own, so that they never wait for syncs.
pub(crate) struct DiskPool {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    limit: usize,
}

impl DiskPool {
    /// At most `threads` quick operations at once, and a quarter as many slow ones.
    pub fn new(threads: usize) -> Self {
        let limit = threads.max(1);
        Self { quick: Arc::new(Semaphore::new(limit)), slow: Arc::new(Semaphore::new((limit / 4).max(2))), limit }
    }

    /// Runs work that takes about as long as one access to the disk.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run_in(&self.quick, deadline, work).await
    }

    /// Runs a sync, a seal, a deletion: work that may take long.
    pub async fn run_slow<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run_in(&self.slow, deadline, work).await
    }

    /// Quick operations running now.
    pub fn busy(&self) -> usize {
        self.limit - self.quick.available_permits()
    }

    /// The same, and the limit.
    pub fn load(&self) -> (u64, u64) {
        (self.busy() as u64, self.limit as u64)
    }
}

async fn run_in<T: Send + 'static>(
    lane: &Arc<Semaphore>,
    deadline: Instant,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let permit = match timeout_at(deadline, lane.clone().acquire_owned()).await {
        Ok(Ok(permit)) => permit,
        Ok(Err(_)) | Err(_) => return Err(Error::new(ErrorKind::Overloaded, "the disks of the worker are too busy")),
    };
    let task = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        if Instant::now() >= deadline {
            // The caller has given up and may be doing something else by now.
            return Err(Error::new(ErrorKind::TimedOut, "the deadline passed before the work began"));
        }
        work()
    });
    task.await.map_err(|error| Error::new(ErrorKind::Internal, "disk work panicked").caused_by(error))?
}
