//! Requests of the other side that are being handled.
//!
//! Always: a request in work holds a slot until its reply has left; its task ends by the deadline, by a Cancel, or with
//! the connection, and in each case its entry goes with it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;

use curvine_proto::frame::FrameKind;
use curvine_proto::{ErrorBody, Message};
use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use crate::batch::OutFrame;
use crate::connection::Conn;
use crate::eager::poll_once;
use crate::gauge::Gauge;
use crate::service::encode;
use crate::{Body, Call, Reply, Service};

/// A request in work, until its reply has left.
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
    total: Arc<Gauge>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.total.sub();
    }
}

pub(crate) struct Handlers {
    tasks: Mutex<Tasks>,
    slots: Arc<Semaphore>,
    /// Of the whole server.
    total: Arc<Gauge>,
}

#[derive(Default)]
struct Tasks {
    running: HashMap<u32, AbortHandle>,
    closed: bool,
}

impl Handlers {
    pub(crate) fn new(limit: usize, total: Arc<Gauge>) -> Self {
        let slots = Arc::new(Semaphore::new(limit.clamp(1, Semaphore::MAX_PERMITS)));
        Self { tasks: Mutex::default(), slots, total }
    }

    /// Waits until one more request may be handled. A peer that keeps to what it was told hardly ever makes us wait.
    pub(crate) async fn slot(&self) -> Slot {
        let permit = match self.slots.clone().acquire_owned().await {
            Ok(permit) => permit,
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        };
        self.total.add();
        Slot { _permit: permit, total: self.total.clone() }
    }

    /// Answers a call: here, if nothing has to be waited for, with a reply that leaves at the next `Outbox::flush`; else in a task of
    /// its own. `budget` is given back when the handler has ended and the data part is dropped. `Corrupt` if the stream is in use.
    pub(crate) fn run(
        &self,
        conn: &Arc<Conn>,
        service: Arc<dyn Service>,
        stream: u32,
        call: Call,
        slot: Slot,
        budget: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Result<()> {
        {
            let tasks = self.tasks.lock();
            if tasks.closed {
                return Ok(());
            }
            if tasks.running.contains_key(&stream) {
                return Err(Error::new(ErrorKind::Corrupt, "the peer used the stream of a request in work"));
            }
        }
        let mut work = Box::pin(answer(service, call));
        if let Poll::Ready(outcome) = poll_once(work.as_mut()) {
            conn.reply_soon(stream, outcome, slot);
            return Ok(());
        }
        let mut tasks = self.tasks.lock();
        if tasks.closed {
            return Ok(());
        }
        let entry = Entry { conn: conn.clone(), stream };
        let task = tokio::spawn(async move {
            let _budget = budget;
            let outcome = work.await;
            entry.conn.reply(entry.stream, outcome, Some(slot));
        });
        tasks.running.insert(stream, task.abort_handle());
        Ok(())
    }

    /// Drops the handler of a stream, if it is still in work.
    pub(crate) fn cancel(&self, stream: u32) {
        let task = self.tasks.lock().running.get(&stream).cloned();
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Drops all handlers; no new one starts.
    pub(crate) fn close(&self) {
        let running: Vec<_> = {
            let mut tasks = self.tasks.lock();
            tasks.closed = true;
            tasks.running.values().cloned().collect()
        };
        for task in running {
            task.abort();
        }
    }

    /// Requests in work.
    pub(crate) fn running(&self) -> usize {
        self.tasks.lock().running.len()
    }

    fn remove(&self, stream: u32) {
        self.tasks.lock().running.remove(&stream);
    }
}

/// The entry of a running task.
struct Entry {
    conn: Arc<Conn>,
    stream: u32,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.conn.handlers.remove(self.stream);
    }
}

/// The service's answer, or why there is none.
async fn answer(service: Arc<dyn Service>, call: Call) -> Result<Reply> {
    let (method, deadline) = (call.method.name(), call.deadline);
    let work = AssertUnwindSafe(async move { service.call(call).await }).catch_unwind();
    match timeout_at(deadline, work).await {
        Ok(Ok(outcome)) => outcome.and_then(|reply| reply.check().map(|()| reply)),
        Ok(Err(_panic)) => {
            tracing::error!(method, "a handler panicked; this is a bug");
            Err(Error::new(ErrorKind::Internal, "the handler of a request panicked").with("method", method))
        }
        Err(_elapsed) => {
            Err(Error::new(ErrorKind::TimedOut, "a request was not done by its deadline").with("method", method))
        }
    }
}

/// The frame that carries a handler's outcome.
pub(crate) fn reply_frame(stream: u32, outcome: Result<Reply>, slot: Option<Slot>) -> OutFrame {
    match outcome {
        Ok(reply) => {
            OutFrame::answer(FrameKind::Reply, stream, reply.meta, reply.body, slot).with_descriptor(reply.descriptor)
        }
        Err(error) => {
            let meta = encode(&ErrorBody::from(&error));
            OutFrame::answer(FrameKind::Error, stream, meta, Body::Empty, slot)
        }
    }
}

/// The error that an Error frame carries.
pub(crate) fn read_error(meta: bytes::Bytes) -> Error {
    match ErrorBody::decode(meta) {
        Ok(body) => body.into(),
        Err(error) => Error::new(ErrorKind::Corrupt, "malformed error message").caused_by(error),
    }
}
