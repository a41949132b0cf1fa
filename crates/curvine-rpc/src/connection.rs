//! One connection after its handshake: the reader that dispatches frames, the writer, and the watchdog.
//!
//! Always: `Conn::close` runs once whatever ends the connection, and after it every waiting call has its answer.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use curvine_proto::frame::{FrameKind, Header};
use curvine_proto::{Empty, Hello, Method};
use curvine_types::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Duration, Instant, timeout_at};

use crate::batch::OutFrame;
use crate::calls::{Answer, Calls, Failure};
use crate::gauge::Gauge;
use crate::handlers::{Handlers, Slot, read_error, reply_frame};
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::peer::Handle;
use crate::socket::{ReadHalf, WriteHalf};
use crate::{Call, Limits, Peer, Reply, Service};

/// A request's message up to this size is not charged to the budget; the slots bound how many there are.
const FREE_META: usize = 4096;
/// Frames that may queue up beyond those that credit and slots allow; answers to pings and refusals, mostly.
const SPARE_FRAMES: usize = 256;

/// What a server tells its connections.
#[derive(Default)]
pub(crate) struct Shared {
    /// Requests in work on all connections.
    pub(crate) inflight: Arc<Gauge>,
    /// No new requests are taken.
    pub(crate) draining: AtomicBool,
}

pub(crate) struct Conn {
    pub(crate) id: u64,
    pub(crate) hello: Hello,
    /// The other side, for messages.
    pub(crate) name: String,
    dialer: bool,
    limits: Limits,
    pub(crate) outbox: Outbox,
    pub(crate) calls: Calls,
    pub(crate) handlers: Handlers,
    service: Option<Arc<dyn Service>>,
    shared: Arc<Shared>,
    closing: AtomicBool,
    closed: watch::Sender<bool>,
    /// Bytes read from the socket.
    received: AtomicU64,
    /// The reader waits for our own budget or slots, not for the other side.
    stalled: AtomicBool,
}

/// What makes a connection.
pub(crate) struct Parts {
    pub(crate) read: ReadHalf,
    pub(crate) write: WriteHalf,
    pub(crate) hello: Hello,
    pub(crate) name: String,
    pub(crate) dialer: bool,
    pub(crate) limits: Limits,
    pub(crate) service: Option<Arc<dyn Service>>,
    pub(crate) shared: Arc<Shared>,
}

/// Makes a connection and starts its writer and its watchdog. The caller runs `read_loop`.
pub(crate) fn start(parts: Parts) -> (Peer, Inbox) {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let limits = parts.limits;
    // A peer that names no number does not limit us.
    let theirs = if parts.hello.max_requests == 0 { u32::MAX } else { parts.hello.max_requests };
    let credit = limits.max_calls_per_connection.min(theirs as usize).clamp(1, Semaphore::MAX_PERMITS);
    let conn = Arc::new(Conn {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        hello: parts.hello,
        name: parts.name,
        dialer: parts.dialer,
        outbox: Outbox::new(parts.write),
        calls: Calls::new(parts.dialer, credit),
        handlers: Handlers::new(limits.max_inflight_per_connection, parts.shared.inflight.clone()),
        limits,
        service: parts.service,
        shared: parts.shared,
        closing: AtomicBool::new(false),
        closed: watch::Sender::new(false),
        received: AtomicU64::new(0),
        stalled: AtomicBool::new(false),
    });
    tokio::spawn(run_writer(conn.clone()));
    tokio::spawn(watch_over(conn.clone()));
    (Peer::new(conn), Inbox::new(parts.read))
}

async fn run_writer(conn: Arc<Conn>) {
    if let Some((unsent, error)) = conn.outbox.run_writer().await {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            tracing::warn!(peer = conn.name, %error, "closing a connection");
        }
        conn.close_with(unsent, &format!("cannot send: {error}"));
    }
}

/// Reads and dispatches frames until the connection ends, then closes it on our side.
pub(crate) async fn read_loop(conn: Arc<Conn>, handle: Weak<Handle>, mut inbox: Inbox) {
    let outcome = conn.read_frames(&handle, &mut inbox).await;
    match outcome {
        Ok(()) => conn.close("the other side closed the connection"),
        Err(error) => {
            if error.kind() == ErrorKind::Corrupt {
                tracing::warn!(peer = conn.name, %error, "closing a connection");
            }
            conn.close(&error.to_string());
        }
    }
}

impl Conn {
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Whether the other side is on this machine and can take descriptors.
    pub(crate) fn is_unix(&self) -> bool {
        self.outbox.half.is_unix()
    }

    pub(crate) async fn closed(&self) {
        // Fails only when the sender is gone, which we hold.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    pub(crate) fn close(&self, why: &str) {
        self.close_with(Vec::new(), why);
    }

    /// Ends the connection; of `unsent` certainly no byte has left.
    fn close_with(&self, unsent: Vec<OutFrame>, why: &str) {
        if self.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        let queued = self.outbox.close();
        let unsent = unsent.iter().chain(&queued).filter_map(OutFrame::request_stream);
        self.calls.close(unsent, why, &self.name);
        self.handlers.close();
        self.closed.send_replace(true);
        tracing::debug!(peer = self.name, why, "connection ended");
    }

    /// Queues the answer to a request.
    pub(crate) fn reply(&self, stream: u32, outcome: Result<Reply>, slot: Option<Slot>) {
        self.outbox.push(reply_frame(stream, outcome.and_then(|reply| reply.fit(self.is_unix())), slot));
    }

    /// As `reply`; leaves with the next frame, or when the reader has nothing more to read.
    pub(crate) fn reply_soon(&self, stream: u32, outcome: Result<Reply>, slot: Slot) {
        self.outbox.push_later(reply_frame(stream, outcome.and_then(|reply| reply.fit(self.is_unix())), Some(slot)));
    }

    /// One call over this connection; dropping the future cancels it.
    pub(crate) async fn call(
        &self,
        method: Method,
        bytes: BytesMut,
        body: crate::Body,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let _credit = self.calls.credit(deadline).await?;
        let (stream, answer) = self.calls.register()?;
        let mut waiting = Waiting { conn: self, stream, answered: false };
        if !self.outbox.push(OutFrame::request(method as u16, stream, deadline, bytes, body)) {
            return Err(crate::calls::ended().with("peer", &self.name).into());
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => {
                waiting.answered = true;
                outcome
            }
            // Cannot be: a call is never taken out of the table without an answer while its caller waits.
            Ok(Err(_gone)) => Err(Error::new(ErrorKind::ConnectionLost, "the reply was lost").into()),
            Err(_elapsed) => Err(Error::new(ErrorKind::TimedOut, "no reply before the deadline")
                .with("peer", &self.name)
                .with("method", method.name())
                .into()),
        }
    }

    async fn read_frames(self: &Arc<Self>, handle: &Weak<Handle>, inbox: &mut Inbox) -> Result<()> {
        loop {
            if !inbox.has_header() {
                self.outbox.flush();
            }
            let Some(header) = inbox.header(&self.received).await? else { return Ok(()) };
            if inbox.buffered() < parts_len(&header) {
                self.outbox.flush();
            }
            let descriptor = inbox.descriptor(&header)?;
            match header.kind {
                FrameKind::Request => self.take_request(&header, handle, inbox).await?,
                FrameKind::Reply | FrameKind::Error => self.take_reply(&header, inbox, descriptor).await?,
                FrameKind::Cancel => {
                    inbox.skip(parts_len(&header), &self.received).await?;
                    self.handlers.cancel(header.stream);
                }
                FrameKind::Handshake => return Err(Error::new(ErrorKind::Corrupt, "a second handshake")),
            }
            if self.outbox.len() > self.frames_max() {
                return Err(Error::new(ErrorKind::Overloaded, "the peer reads none of its replies"));
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    fn frames_max(&self) -> usize {
        self.limits.max_inflight_per_connection + 2 * self.limits.max_calls_per_connection + SPARE_FRAMES
    }

    async fn take_reply(&self, header: &Header, inbox: &mut Inbox, descriptor: Option<OwnedFd>) -> Result<()> {
        let ours = header.stream % 2 == u32::from(self.dialer);
        if !ours {
            return Err(Error::new(ErrorKind::Corrupt, "a reply to a stream that is not ours"));
        }
        if !self.calls.is_waiting(header.stream) {
            return inbox.skip(parts_len(header), &self.received).await;
        }
        let meta = inbox.meta(header, &self.received).await?;
        let data = self.data(header, inbox, None).await?;
        let outcome = match header.kind {
            FrameKind::Reply => Ok(Answer { meta, data, descriptor }),
            _ => Err(Failure { error: read_error(meta), remote: true }),
        };
        self.calls.complete(header.stream, outcome);
        Ok(())
    }

    async fn take_request(self: &Arc<Self>, header: &Header, handle: &Weak<Handle>, inbox: &mut Inbox) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(header.deadline_ms.into());
        let stream = header.stream;
        let theirs = stream != 0 && stream % 2 != u32::from(self.dialer);
        if !theirs {
            return Err(Error::new(ErrorKind::Corrupt, "a request on a stream that is not the peer's"));
        }
        let Some(budget) = self.charge(header, deadline).await else {
            inbox.skip(parts_len(header), &self.received).await?;
            self.reply(stream, Err(Error::new(ErrorKind::Overloaded, "no memory for the request for now")), None);
            return Ok(());
        };
        let meta = inbox.meta(header, &self.received).await?;
        let data = self.data(header, inbox, budget.clone()).await?;
        let Some(method) = Method::from_number(header.method) else {
            let error = Error::new(ErrorKind::NotSupported, "unknown method; is the peer of a newer version?");
            self.reply(stream, Err(error.with("method", header.method)), None);
            return Ok(());
        };
        if method == Method::Ping {
            self.reply(stream, Ok(Reply::new(&Empty {})), None);
            return Ok(());
        }
        let refusal = match &self.service {
            None => Error::new(ErrorKind::NotSupported, "this end serves no requests"),
            Some(_) if self.shared.draining.load(Ordering::Acquire) => {
                Error::new(ErrorKind::Unavailable, "the server is shutting down")
            }
            Some(service) => {
                let slot = self.stall(self.handlers.slot()).await.ok_or_else(crate::calls::ended)?;
                let peer = Peer::from_handle(handle).ok_or_else(crate::calls::ended)?;
                let call = Call { method, meta, data, deadline, peer };
                return self.handlers.run(self, service.clone(), stream, call, slot, budget);
            }
        };
        self.reply(stream, Err(refusal.with("method", method.name())), None);
        Ok(())
    }

    /// The data part; what it takes of the budget goes with it.
    async fn data(
        &self,
        header: &Header,
        inbox: &mut Inbox,
        budget: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Result<Bytes> {
        let length = header.data_len as usize;
        let buffers = &self.limits.buffers;
        let data = inbox.part(length, buffers.take(length), &self.received).await?;
        Ok(buffers.freeze(data, budget))
    }

    /// Takes a request's parts from the budget; `None`: there was none in time.
    async fn charge(&self, header: &Header, deadline: Instant) -> Option<Option<Arc<OwnedSemaphorePermit>>> {
        let meta = header.meta_len as usize;
        let bytes = header.data_len as usize + if meta > FREE_META { meta } else { 0 };
        if bytes == 0 {
            return Some(None);
        }
        let patience = deadline.min(Instant::now() + self.limits.budget_timeout);
        let permit = self.stall(timeout_at(patience, self.limits.inflight_bytes.take(bytes))).await?.ok()?;
        Some(Some(Arc::new(permit)))
    }

    /// Waits for something of our own while the other side is not to blame; `None`: the connection has ended.
    async fn stall<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = std::pin::pin!(wait);
        if let std::task::Poll::Ready(value) = futures::poll!(wait.as_mut()) {
            return Some(value);
        }
        self.outbox.flush();
        self.stalled.store(true, Ordering::Release);
        let value = tokio::select! {
            value = wait => Some(value),
            () = self.closed() => None,
        };
        self.stalled.store(false, Ordering::Release);
        value
    }
}

/// Bytes that follow a header.
fn parts_len(header: &Header) -> usize {
    header.meta_len as usize + header.data_len as usize
}

/// A call whose caller waits; tells the other side if he gives up.
struct Waiting<'a> {
    conn: &'a Conn,
    stream: u32,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered && self.conn.calls.forget(self.stream) && !self.conn.outbox.withdraw(self.stream) {
            self.conn.outbox.push(OutFrame::cancel(self.stream));
        }
    }
}

/// Pings a silent peer, and closes the connection of a dead one.
async fn watch_over(conn: Arc<Conn>) {
    let limits = &conn.limits;
    let shortest = limits.ping_interval.min(limits.dead_after).min(limits.write_timeout);
    let mut ticks = tokio::time::interval((shortest / 2).max(Duration::from_millis(5)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut received, mut heard, mut pinged) = (0, Instant::now(), Instant::now());
    let (mut sent, mut moved) = (0, Instant::now());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = conn.closed() => return,
        }
        let now = Instant::now();
        let received_now = conn.received.load(Ordering::Relaxed);
        if received_now != received || conn.stalled.load(Ordering::Acquire) {
            (received, heard) = (received_now, now);
        }
        let (sent_now, blocked) = conn.outbox.progress();
        if sent_now != sent || !blocked {
            (sent, moved) = (sent_now, now);
        }
        if now - heard >= limits.dead_after {
            return conn.close(&format!("nothing was heard of the peer for {:?}", now - heard));
        }
        if now - moved >= limits.write_timeout {
            return conn.close(&format!("the peer took no byte for {:?}", now - moved));
        }
        if now - heard >= limits.ping_interval && now - pinged >= limits.ping_interval {
            pinged = now;
            let deadline = now + limits.dead_after;
            let bytes = crate::service::encode(&Empty {});
            let stream = conn.calls.next_stream();
            conn.outbox.push(OutFrame::request(Method::Ping as u16, stream, deadline, bytes, crate::Body::Empty));
        }
    }
}

#[cfg(test)]
#[path = "connection_test.rs"]
mod connection_test;
