//! The queue of frames that leave a connection, and its one writer at a time.
//!
//! Whoever pushes a frame while nobody writes becomes the writer for one batch and usually has it in the socket without
//! another task being woken. What does not fit, what has queued up meanwhile, and file ranges go to the writer task.
//!
//! Always: `Queue::writing` is true while somebody owns the socket's sending side, and that owner looks at the queue
//! again under the lock before it gives up ownership; so no frame is left behind.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::Body;
use crate::batch::{Batch, Flush, OutFrame};
use crate::socket::WriteHalf;

/// Frames that wait for the next flush at most.
const LATER_MAX: usize = 32;

pub(crate) struct Outbox {
    pub(crate) half: Arc<WriteHalf>,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Bytes handed to the socket.
    sent: AtomicU64,
    /// The writer waits for room in the socket.
    blocked: AtomicBool,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<OutFrame>,
    writing: bool,
    closed: bool,
    /// Ownership on its way to the writer task.
    handed: Option<Batch>,
}

impl Outbox {
    pub(crate) fn new(half: WriteHalf) -> Self {
        Self {
            half: Arc::new(half),
            queue: Mutex::default(),
            wake: Notify::new(),
            sent: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
        }
    }

    /// Queues a frame, and writes it if nobody else is writing. False: the connection has ended and no byte has left.
    pub(crate) fn push(&self, frame: OutFrame) -> bool {
        let mut queue = self.queue.lock();
        if queue.closed {
            return false;
        }
        queue.frames.push_back(frame);
        self.write(queue);
        true
    }

    /// Queues a frame that leaves with the next `push` or `flush`, one of which must come before anything is waited for.
    pub(crate) fn push_later(&self, frame: OutFrame) {
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        queue.frames.push_back(frame);
        if queue.frames.len() >= LATER_MAX {
            self.write(queue);
        }
    }

    /// Writes what `push_later` has left, if nobody else is writing.
    pub(crate) fn flush(&self) {
        let queue = self.queue.lock();
        if !queue.closed && !queue.frames.is_empty() {
            self.write(queue);
        }
    }

    /// Becomes the writer for one batch, if there is none.
    fn write(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.writing {
            return;
        }
        queue.writing = true;
        let mut batch = Batch::default();
        batch.fill(&mut queue.frames);
        drop(queue);
        let flush = batch.flush(&self.half, &self.sent);
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        if matches!(flush, Flush::Done) && queue.frames.is_empty() {
            queue.writing = false;
        } else {
            // An error comes again to the writer task, which ends the connection.
            queue.handed = Some(batch);
            self.wake.notify_one();
        }
    }

    /// Takes back a request that has not begun to leave; false: it has.
    pub(crate) fn withdraw(&self, stream: u32) -> bool {
        let mut queue = self.queue.lock();
        let position = queue.frames.iter().position(|frame| frame.is_request(stream));
        position.and_then(|position| queue.frames.remove(position)).is_some()
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.lock().frames.len()
    }

    /// Bytes handed to the socket so far, and whether the writer waits for room.
    pub(crate) fn progress(&self) -> (u64, bool) {
        (self.sent.load(Ordering::Relaxed), self.blocked.load(Ordering::Relaxed))
    }

    /// Ends the outbox; gives the frames of which certainly no byte has left.
    pub(crate) fn close(&self) -> Vec<OutFrame> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let handed = queue.handed.take().map(Batch::into_unsent).unwrap_or_default();
        let unsent = handed.into_iter().chain(std::mem::take(&mut queue.frames)).collect();
        drop(queue);
        self.wake.notify_one();
        self.half.close();
        unsent
    }

    /// The writer task: writes what others could not. Ends with the frames of which no byte has left and the reason,
    /// or with `None` after `close`.
    pub(crate) async fn run_writer(&self) -> Option<(Vec<OutFrame>, io::Error)> {
        loop {
            self.wake.notified().await;
            let mut batch = {
                let mut queue = self.queue.lock();
                if queue.closed {
                    return None;
                }
                match queue.handed.take() {
                    Some(batch) => batch,
                    None => continue,
                }
            };
            if let Err(error) = self.drain(&mut batch).await {
                return Some((batch.into_unsent(), error));
            }
        }
    }

    /// Writes until the queue is empty, then gives up ownership.
    async fn drain(&self, batch: &mut Batch) -> io::Result<()> {
        loop {
            tokio::task::coop::consume_budget().await;
            match batch.flush(&self.half, &self.sent) {
                Flush::Done => {
                    let mut queue = self.queue.lock();
                    batch.fill(&mut queue.frames);
                    if batch.is_empty() {
                        queue.writing = false;
                        return Ok(());
                    }
                }
                Flush::Blocked => self.wait_writable().await?,
                Flush::File { body, done } => self.send_file(batch, body, done).await?,
                Flush::Failed(error) => return Err(error),
            }
        }
    }

    async fn wait_writable(&self) -> io::Result<()> {
        self.blocked.store(true, Ordering::Relaxed);
        let outcome = self.half.writable().await;
        self.blocked.store(false, Ordering::Relaxed);
        outcome
    }

    /// Sends one step of a file range, on a thread that may wait for the disk unless the range is in memory.
    async fn send_file(&self, batch: &mut Batch, body: Body, done: u64) -> io::Result<()> {
        let Body::File { file, offset, len } = body else {
            return Ok(());
        };
        let (offset, count) = (offset + done, usize::try_from(len - done).unwrap_or(usize::MAX));
        let sent = if in_memory(&file, offset, count as u64) {
            self.half.try_send_file(&file, offset, count)
        } else {
            let half = self.half.clone();
            tokio::task::spawn_blocking(move || half.try_send_file(&file, offset, count)).await?
        };
        match sent {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file is shorter than its reply has promised")),
            Ok(sent) => {
                batch.advance(sent);
                self.sent.fetch_add(sent as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_writable().await,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether the kernel most likely has the range in its page cache: start, middle and end are.
fn in_memory(file: &std::fs::File, offset: u64, len: u64) -> bool {
    use rustix::io::{ReadWriteFlags, preadv2};
    [offset, offset + len / 2, offset + len.saturating_sub(1)].into_iter().all(|at| {
        let mut byte = [0; 1];
        preadv2(file, &mut [io::IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT).is_ok()
    })
}
