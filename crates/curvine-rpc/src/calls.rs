//! Calls that we have made on a connection and that wait for their reply.
//!
//! Always: each registered call is taken out exactly once: by its reply, by its caller who gives up, or by the end of the
//! connection.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, FastMap, Result};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

/// Why a call failed, and who says so.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The service at the other end said it.
    pub(crate) remote: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, remote: false }
    }
}

/// The parts of a reply.
pub(crate) struct Answer {
    pub(crate) meta: Bytes,
    pub(crate) data: Bytes,
    pub(crate) descriptor: Option<OwnedFd>,
}

pub(crate) type Outcome = Result<Answer, Failure>;

pub(crate) struct Calls {
    table: Mutex<Table>,
    /// The next stream; odd if we dialled, even if not.
    next: AtomicU32,
    /// Requests that the other side takes at once.
    credit: Semaphore,
}

#[derive(Default)]
struct Table {
    waiting: FastMap<u32, oneshot::Sender<Outcome>>,
    closed: bool,
}

impl Calls {
    pub(crate) fn new(dialer: bool, credit: usize) -> Self {
        Self {
            table: Mutex::default(),
            next: AtomicU32::new(if dialer { 1 } else { 2 }),
            credit: Semaphore::new(credit),
        }
    }

    /// Waits until the other side takes one more request.
    pub(crate) async fn credit(&self, deadline: Instant) -> Result<SemaphorePermit<'_>> {
        if let Ok(permit) = self.credit.try_acquire() {
            return Ok(permit);
        }
        match timeout_at(deadline, self.credit.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(ended()),
            Err(_elapsed) => Err(Error::new(ErrorKind::Overloaded, "the peer takes no more requests for now")),
        }
    }

    /// A stream number that no call waits on, 0 excepted; the numbers come round after 2^31 calls.
    pub(crate) fn next_stream(&self) -> u32 {
        loop {
            let stream = self.next.fetch_add(2, Ordering::Relaxed);
            if stream != 0 && !self.table.lock().waiting.contains_key(&stream) {
                return stream;
            }
        }
    }

    /// Registers a call.
    pub(crate) fn register(&self) -> Result<(u32, oneshot::Receiver<Outcome>)> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.table.lock();
        if table.closed {
            return Err(ended());
        }
        loop {
            let stream = self.next.fetch_add(2, Ordering::Relaxed);
            if stream != 0 && !table.waiting.contains_key(&stream) {
                table.waiting.insert(stream, sender);
                return Ok((stream, receiver));
            }
        }
    }

    /// Whether somebody still waits for this reply.
    pub(crate) fn is_waiting(&self, stream: u32) -> bool {
        self.table.lock().waiting.contains_key(&stream)
    }

    /// Takes a call out; false: somebody else did.
    pub(crate) fn forget(&self, stream: u32) -> bool {
        self.table.lock().waiting.remove(&stream).is_some()
    }

    /// Hands a reply to who waits for it.
    pub(crate) fn complete(&self, stream: u32, outcome: Outcome) {
        let sender = self.table.lock().waiting.remove(&stream);
        if let Some(sender) = sender {
            // The caller may have given up at this very moment.
            let _ = sender.send(outcome);
        }
    }

    /// Fails all calls: those of `unsent` have certainly not left.
    pub(crate) fn close(&self, unsent: impl Iterator<Item = u32>, why: &str, peer: &str) {
        self.credit.close();
        let mut waiting = {
            let mut table = self.table.lock();
            table.closed = true;
            std::mem::take(&mut table.waiting)
        };
        for stream in unsent {
            if let Some(sender) = waiting.remove(&stream) {
                let _ = sender.send(Err(ended().with("peer", peer).caused_by(why).into()));
            }
        }
        for (_, sender) in waiting {
            let error = Error::new(ErrorKind::ConnectionLost, "the connection ended before the reply came");
            let _ = sender.send(Err(error.with("peer", peer).caused_by(why).into()));
        }
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.table.lock().waiting.len()
    }
}

/// The error of a request that has not left because there is no connection any more.
pub(crate) fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection has ended")
}
