//! Gathers commands into log entries and hands the outcomes back, each to its caller.
//!
//! What must hold: a caller gets `NotLeader`, `NoSpace`, `Overloaded` or `Unavailable` only if its command has certainly not been and
//! will not be executed; once it has reached the log without an outcome the answer is `TimedOut`: unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use curvine_proto::{Command, CommandBatch, Message, Outcome, Time};
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::error::ClientWriteError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::applier::Applier;
use crate::entry::{Batch, Raft};
use crate::health::Health;
use crate::leadership::not_leader;
use crate::machine::StateMachine;
use crate::{LeaderState, Mode, Options};

/// Largest command; with its entry it must fit into one message to a follower.
pub(crate) const COMMAND_MAX: usize = 3 << 20;

/// One waiting command.
pub(crate) struct Pending {
    command: Command,
    size: usize,
    reply: oneshot::Sender<Result<Outcome>>,
}

/// The waiting room, shared by all who propose.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Pending>,
    unhurried: mpsc::Sender<Pending>,
    hurry: Arc<Notify>,
    gauges: Arc<Gauges>,
    bytes_limit: usize,
    commands_limit: usize,
}

#[derive(Default)]
pub(crate) struct Gauges {
    pub commands: AtomicUsize,
    pub bytes: AtomicUsize,
    pub in_flight: AtomicUsize,
}

/// Those who wait, as the proposer takes them.
pub(crate) struct Waiting {
    queue: mpsc::Receiver<Pending>,
    unhurried: mpsc::Receiver<Pending>,
}

/// When a command is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurry {
    /// As soon as the log can take it.
    Now,
    /// With the next one that is in a hurry, or a little later: it costs no entry of its own while others are made.
    Soon,
}

impl Queue {
    pub fn new(options: &Options) -> (Self, Waiting) {
        let limit = options.queue_limit.clamp(1, 1 << 24);
        let ((sender, queue), (unhurried, later)) = (mpsc::channel(limit), mpsc::channel(limit));
        let (hurry, gauges) = (Arc::default(), Arc::default());
        let room = Self { sender, unhurried, hurry, gauges, bytes_limit: options.queue_bytes, commands_limit: limit };
        (room, Waiting { queue, unhurried: later })
    }

    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Somebody waits for what was said to have time.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Puts a command in line; its outcome comes through the receiver.
    pub fn push(&self, command: Command, hurry: Hurry) -> Result<oneshot::Receiver<Result<Outcome>>> {
        let size = command.encoded_len();
        if size > COMMAND_MAX {
            return Err(Error::new(ErrorKind::TooBig, "the command is too large for the log")
                .with("length", size)
                .with("limit", COMMAND_MAX));
        }
        let waiting = self.gauges.bytes.fetch_add(size, Ordering::Relaxed);
        let full = |limit: usize| {
            self.gauges.bytes.fetch_sub(size, Ordering::Relaxed);
            Error::new(ErrorKind::Overloaded, "too many changes wait for the log; try again later").with("limit", limit)
        };
        if waiting > 0 && waiting + size > self.bytes_limit {
            return Err(full(self.bytes_limit));
        }
        let (reply, outcome) = oneshot::channel();
        self.gauges.commands.fetch_add(1, Ordering::Relaxed);
        let sender = if hurry == Hurry::Now { &self.sender } else { &self.unhurried };
        match sender.try_send(Pending { command, size, reply }) {
            Ok(()) => Ok(outcome),
            Err(error) => {
                self.gauges.commands.fetch_sub(1, Ordering::Relaxed);
                let overloaded = full(self.commands_limit);
                Err(match error {
                    mpsc::error::TrySendError::Full(_) => overloaded,
                    mpsc::error::TrySendError::Closed(_) => stopped(),
                })
            }
        }
    }
}

/// What the proposer has taken and not yet proposed.
#[derive(Default)]
struct Held {
    /// It did not fit into the last entry, or is the first of the next one.
    over: Option<Pending>,
    /// The first of those who have time, and when it is to make an entry of its own; the others wait in line.
    unhurried: Option<(Pending, Instant)>,
}

/// The task that makes entries.
pub(crate) struct Proposer<S> {
    pub raft: Raft,
    pub applier: Applier<S>,
    pub health: Arc<Health>,
    pub leader: watch::Receiver<LeaderState>,
    pub waiting: Waiting,
    pub gauges: Queue,
    pub options: Options,
    pub closing: watch::Receiver<bool>,
}

impl<S: StateMachine> Proposer<S> {
    /// Works until closed; then everyone still waiting is told so.
    pub async fn run(mut self) {
        let mut in_flight = FuturesUnordered::new();
        let mut held = Held::default();
        let mut last_now = (i64::MIN, 0);
        loop {
            let room = in_flight.len() < self.options.entries_in_flight.max(1);
            let due = held.unhurried.as_ref().map(|(_, due)| *due);
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing) => break,
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {
                    self.gauges.gauges.in_flight.store(in_flight.len(), Ordering::Relaxed);
                    continue;
                }
                () = std::future::ready(()), if room && held.over.is_some() => {}
                first = self.waiting.queue.recv(), if room && held.over.is_none() => match first {
                    Some(first) => held.over = Some(first),
                    None => break,
                },
                Some(later) = self.waiting.unhurried.recv(), if due.is_none() => {
                    held.unhurried = Some((later, Instant::now() + self.options.gather_time));
                    continue;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if room && due.is_some() => {}
                () = self.gauges.hurry.notified(), if room && due.is_some() => {}
            }
            // Those who were woken by the last entry's outcomes get a chance to join this one.
            tokio::task::yield_now().await;
            let gathered = self.gather(&mut held);
            if let Some(refusal) = self.refusal() {
                gathered.into_iter().for_each(|one| drop(one.reply.send(Err(refusal()))));
                continue;
            }
            if gathered.is_empty() {
                continue;
            }
            let now = self.now(&mut last_now);
            let (replies, commands) = gathered.into_iter().map(|one| (one.reply, one.command)).unzip();
            in_flight.push(self.propose(CommandBatch { now: Some(now), commands }, replies));
            self.gauges.gauges.in_flight.store(in_flight.len(), Ordering::Relaxed);
        }
        self.waiting.queue.close();
        self.waiting.unhurried.close();
        let queued =
            std::iter::from_fn(|| self.waiting.queue.try_recv().or_else(|_| self.waiting.unhurried.try_recv()).ok());
        for one in queued.chain(held.over).chain(held.unhurried.map(|(one, _)| one)) {
            let _ = one.reply.send(Err(stopped())); // the caller may have given up
        }
        while in_flight.next().await.is_some() {}
    }

    /// Takes waiting commands up to the limits of an entry, those in a hurry first; one that does not fit is held over.
    fn gather(&mut self, held: &mut Held) -> Vec<Pending> {
        let mut gathered = Vec::new();
        let mut bytes = 0;
        while gathered.len() < self.options.batch_commands.max(1) {
            let queued = held.over.take().or_else(|| self.waiting.queue.try_recv().ok());
            let queued = queued.or_else(|| held.unhurried.take().map(|(one, _)| one));
            let Some(next) = queued.or_else(|| self.waiting.unhurried.try_recv().ok()) else { break };
            if !gathered.is_empty() && bytes + next.size > self.options.batch_bytes.min(COMMAND_MAX) {
                held.over = Some(next);
                break;
            }
            let gauges = self.gauges.gauges();
            gauges.commands.fetch_sub(1, Ordering::Relaxed);
            gauges.bytes.fetch_sub(next.size, Ordering::Relaxed);
            bytes += next.size;
            if !next.reply.is_closed() {
                gathered.push(next);
            }
        }
        gathered
    }

    /// Why nothing can be proposed now.
    fn refusal(&self) -> Option<Box<dyn Fn() -> Error>> {
        match self.health.mode() {
            Mode::Working => {}
            Mode::ReadOnly(reason) => return Some(Box::new(move || Error::new(ErrorKind::NoSpace, reason.clone()))),
            Mode::Failed(reason) => return Some(Box::new(move || failed(&reason))),
        }
        let leader = self.leader.borrow().clone();
        (!leader.leading).then(|| Box::new(move || not_leader(&leader)) as Box<dyn Fn() -> Error>)
    }

    /// Never before what an earlier entry had.
    fn now(&self, last: &mut (i64, u32)) -> Time {
        let applied = self.applier.progress().now.map_or((i64::MIN, 0), |time| time.key());
        *last = Time::now().key().max(applied).max(*last);
        Time::new(last.0, last.1)
    }

    /// Proposes one entry and, when it is applied, answers its callers. Entries are handed to openraft in the order of the calls.
    fn propose(
        &self,
        batch: CommandBatch,
        replies: Vec<oneshot::Sender<Result<Outcome>>>,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let batch = Batch::new(batch);
        let (raft, limit) = (self.raft.clone(), self.options.request_timeout);
        async move {
            let result = async {
                let written = raft.client_write_ff(batch.clone()).await;
                let Ok(receiver) = written else { return Err(lost(&batch)) };
                match tokio::time::timeout(limit, receiver).await {
                    Ok(Ok(Ok(response))) => Ok(response.data.0),
                    Ok(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) if !batch.was_appended() => {
                        let address = forward.leader_node.map(|node| node.addr).unwrap_or_default();
                        let leader =
                            LeaderState { leader: forward.leader_id.unwrap_or(0), address, ..Default::default() };
                        Err(Box::new(move || not_leader(&leader)) as Box<dyn Fn() -> Error + Send>)
                    }
                    _ => Err(lost(&batch)),
                }
            };
            match result.await {
                Ok(outcomes) if outcomes.len() == replies.len() => {
                    for (reply, outcome) in replies.into_iter().zip(outcomes) {
                        let _ = reply.send(Ok(outcome)); // the caller may have given up
                    }
                }
                Ok(_) => replies.into_iter().for_each(|reply| drop(reply.send(Err(unknown())))),
                Err(error) => replies.into_iter().for_each(|reply| drop(reply.send(Err(error())))),
            }
        }
    }
}

/// An entry that got no result: whether it may still be executed depends on whether it reached the log.
fn lost(batch: &Batch) -> Box<dyn Fn() -> Error + Send> {
    let appended = batch.was_appended();
    Box::new(move || if appended { unknown() } else { stopped() })
}

fn unknown() -> Error {
    Error::new(ErrorKind::TimedOut, "the outcome of the change is unknown: the log did not confirm it")
}

pub(crate) fn failed(reason: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the log has failed; restart after removing the cause: {reason}"))
}

pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the log is stopping")
}
