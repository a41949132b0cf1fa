//! Changes: numbered, executed once, their outcomes taken into the cache.
//!
//! Always: a command keeps its number over all attempts, until its outcome is known or its session is over. That goes on when the
//! caller has given up; then the kernel, which does not know how it ended, is told to forget what it touched.

use std::collections::BTreeSet;
use std::sync::Arc;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{Command, DataMode, LockType, Method, MutateReply, MutateRequest, Outcome};
use curvine_rpc::{Body, begin};
use curvine_types::{Error, ErrorKind, InodeId, Result, SessionId, limits};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::cache::Ticket;
use crate::clock::boot_time;
use crate::core::{Core, Pause};
use crate::{Journal, Origin, origin};

/// Numbers between the lowest that is not acknowledged and the highest given out; below the master's window of results.
const SPREAD: u64 = limits::RESULT_WINDOW as u64 - 24;

/// Gives out numbers.
pub(crate) struct Window {
    inner: Mutex<Numbers>,
    slots: Arc<Semaphore>,
    limit: usize,
    moved: Notify,
    journal: Option<Arc<dyn Journal>>,
    /// A command waits for numbers that a long one holds up.
    pub pressure: Notify,
}

#[derive(Default)]
struct Numbers {
    session: SessionId,
    next: u64,
    unacked: BTreeSet<u64>,
}

/// A number in use. Dropped when the outcome is known.
pub(crate) struct Number {
    core: Arc<Core>,
    pub session: SessionId,
    pub sequence: u64,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Number {
    fn drop(&mut self) {
        let window = &self.core.window;
        let mut numbers = window.inner.lock();
        if numbers.session == self.session {
            numbers.unacked.remove(&self.sequence);
        }
        drop(numbers);
        window.moved.notify_waiters();
    }
}

impl Window {
    pub(crate) fn new(limit: usize, journal: Option<Arc<dyn Journal>>) -> Self {
        let limit = limit.clamp(1, SPREAD as usize);
        Self {
            inner: Mutex::default(),
            slots: Arc::new(Semaphore::new(limit)),
            limit,
            moved: Notify::new(),
            journal,
            pressure: Notify::new(),
        }
    }

    /// A new session numbers from 1.
    pub(crate) fn begin(&self, session: SessionId) {
        *self.inner.lock() = Numbers { session, next: 1, unacked: BTreeSet::new() };
        self.moved.notify_waiters();
    }

    /// Goes on numbering a session of a predecessor; its `unacked` numbers are held until they are adopted or abandoned.
    pub(crate) fn resume(&self, session: SessionId, next: u64, unacked: &[u64]) {
        let unacked = unacked.iter().copied().filter(|sequence| *sequence < next).collect();
        *self.inner.lock() = Numbers { session, next: next.max(1), unacked };
        self.moved.notify_waiters();
    }

    /// A number that a predecessor used, for the same command; `None` if it is not held any more.
    pub(crate) async fn adopt(
        core: &Arc<Core>,
        session: SessionId,
        sequence: u64,
        deadline: Instant,
    ) -> Result<Option<Number>> {
        let full = || Error::new(ErrorKind::TimedOut, "too many changes wait for the master");
        let slot = tokio::time::timeout_at(deadline, core.window.slots.clone().acquire_owned()).await;
        let slot = slot.map_err(|_| full())?.map_err(|_| full())?;
        let numbers = core.window.inner.lock();
        let held = numbers.session == session && numbers.unacked.contains(&sequence);
        Ok(held.then(|| Number { core: core.clone(), session, sequence, _slot: slot }))
    }

    /// Nobody will ask for this number of a predecessor.
    pub(crate) fn abandon(&self, session: SessionId, sequence: u64) {
        let mut numbers = self.inner.lock();
        if numbers.session == session {
            numbers.unacked.remove(&sequence);
        }
        drop(numbers);
        self.moved.notify_waiters();
    }

    /// The session that is numbered now; 0: none yet.
    pub(crate) fn session(&self) -> SessionId {
        self.inner.lock().session
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.limit - self.slots.available_permits()
    }

    /// The lowest number whose outcome is not known; what is below will not be asked for again.
    fn lowest_unacked(&self) -> u64 {
        let numbers = self.inner.lock();
        numbers.unacked.first().copied().unwrap_or(numbers.next)
    }

    /// The next number of the session, when there is room.
    pub(crate) async fn take(core: &Arc<Core>, session: SessionId, deadline: Instant) -> Result<Number> {
        let window = &core.window;
        let full = || Error::new(ErrorKind::TimedOut, "too many changes wait for the master");
        let slot = tokio::time::timeout_at(deadline, window.slots.clone().acquire_owned()).await;
        let slot = slot.map_err(|_| full())?.map_err(|_| full())?;
        loop {
            let moved = window.moved.notified();
            {
                let mut numbers = window.inner.lock();
                if numbers.session != session {
                    return Err(
                        Error::new(ErrorKind::SessionExpired, "the session has expired").with("session", session)
                    );
                }
                let sequence = numbers.next;
                if numbers.unacked.first().is_none_or(|lowest| sequence - lowest < SPREAD) {
                    numbers.next += 1;
                    numbers.unacked.insert(sequence);
                    if let Some(journal) = &window.journal {
                        journal.numbered(numbers.next);
                    }
                    return Ok(Number { core: core.clone(), session, sequence, _slot: slot });
                }
            }
            window.pressure.notify_waiters();
            tokio::time::timeout_at(deadline, moved).await.map_err(|_| full())?;
        }
    }
}

/// The outcome of a change that was made.
pub(crate) struct Done {
    pub outcome: Outcome,
    /// Of when it was first sent.
    pub ticket: Ticket,
    pub mode: DataMode,
    /// The connection that it came over.
    pub serial: u64,
    pub session: SessionId,
}

/// What a command may change of names and of attributes, for the case that nobody learns its outcome in time.
#[derive(Clone, Default)]
pub(crate) struct Touched {
    pub dirs: Vec<InodeId>,
    pub inodes: Vec<InodeId>,
}

impl Touched {
    pub(crate) fn dirs(dirs: impl Into<Vec<InodeId>>) -> Self {
        Self { dirs: dirs.into(), inodes: Vec::new() }
    }

    pub(crate) fn inode(inode: InodeId) -> Self {
        Self { dirs: Vec::new(), inodes: vec![inode] }
    }
}

/// How one attempt to send ended.
pub(crate) enum Attempt {
    Done(Box<MutateReply>, Ticket, u64),
    /// Not known whether it was or will be executed.
    Unknown(Error),
    /// Not executed.
    NotYet(Error),
    Failed(Error),
}

/// The outcome is known, and is still to be told to whoever wanted the change.
pub(crate) fn hold(origin: &Option<Arc<dyn Origin>>, number: Number) {
    if let Some(origin) = origin {
        origin.hold(Box::new(number));
    }
}

impl Core {
    /// Makes a change. `settle` takes the outcome into the cache, whether or not the caller still waits, and makes the result.
    pub(crate) async fn mutate<T: Send + 'static>(
        self: &Arc<Self>,
        body: CommandBody,
        touched: Touched,
        deadline: Instant,
        settle: impl FnOnce(&Arc<Core>, Done) -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let core = self.clone();
        let origin = origin::current();
        begin(async move {
            let made = core.clone().drive(body, origin, deadline, &sender).await;
            let known = made.is_ok();
            let result = made.map(|done| settle(&core, done));
            if sender.send(result).is_err() && known {
                core.forget(&touched).await;
            }
        });
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::new(ErrorKind::Internal, "a change was given up by its own task")),
            Err(_) => {
                Err(Error::new(ErrorKind::TimedOut, "the master did not answer in time; the change may still be made"))
            }
        }
    }

    /// Nothing is known any more of what a command touched.
    pub(crate) async fn forget(self: &Arc<Self>, touched: &Touched) {
        self.cache.doubt(&touched.dirs);
        self.cache.doubt(&touched.inodes);
        let inodes = touched.dirs.iter().chain(&touched.inodes).copied().collect();
        self.notify(touched.dirs.clone(), inodes).await;
    }

    async fn drive<T>(
        self: Arc<Self>,
        body: CommandBody,
        origin: Option<Arc<dyn Origin>>,
        deadline: Instant,
        caller: &oneshot::Sender<Result<T>>,
    ) -> Result<Done> {
        let mut number: Option<Number> = None;
        let mut unknown = false;
        let kind = origin.as_ref().map_or(0, |_| origin::kind_of(&body));
        let lock = match &body {
            CommandBody::SetLock(lock) if lock.r#type() != LockType::Unlock => Some(*lock),
            _ => None,
        };
        // What a predecessor has sent may have been executed.
        let mut earlier = origin.as_ref().and_then(|origin| origin.earlier(kind));
        // A repeated command may have been executed when it was sent first, and be answered with what it left then.
        let mut first: Option<Ticket> = None;
        let mut pause = Pause::new(deadline);
        let over = || Error::new(ErrorKind::SessionExpired, "the session expired; the change may have been made");
        loop {
            if caller.is_closed() && !unknown {
                return Err(Error::new(ErrorKind::Interrupted, "nobody waits for the change any more"));
            }
            let until = if unknown { deadline.max(self.deadline()) } else { deadline };
            let conn = match self.master.conn(until).await {
                Ok(conn) => conn,
                Err(_) if unknown && !*self.master.closing.borrow() => continue,
                Err(error) => return Err(error),
            };
            if let Some((session, sequence)) = earlier.take() {
                if session != conn.session {
                    return Err(over());
                }
                number = Window::adopt(&self, session, sequence, deadline).await?;
                if number.is_some() {
                    (unknown, first) = (true, Some(self.cache.ticket(0, boot_time())));
                }
            }
            let taken = match number.take().filter(|number| number.session == conn.session) {
                Some(number) => number,
                None if unknown => return Err(over()),
                None => match Window::take(&self, conn.session, deadline).await {
                    Ok(number) => number,
                    // A new session has just begun.
                    Err(error) if error.kind() == ErrorKind::SessionExpired => {
                        pause.wait(error).await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            if let Some(origin) = &origin {
                origin.sending(taken.session, taken.sequence, kind, lock.as_ref());
            }
            let until = if caller.is_closed() { self.deadline() } else { deadline };
            let sent = self.ticket(&conn);
            let error = match self.attempt(&conn, &taken, body.clone(), false, until).await {
                Attempt::Done(reply, ticket, serial) => {
                    let session = taken.session;
                    hold(&origin, taken);
                    return self.done(*reply, (first.unwrap_or(ticket), ticket), serial, session);
                }
                Attempt::Failed(error) => {
                    hold(&origin, taken);
                    return Err(error);
                }
                Attempt::Unknown(error) => {
                    unknown = true;
                    first.get_or_insert(sent);
                    error
                }
                Attempt::NotYet(error) => error,
            };
            self.counters.mutation_retries.add();
            number = Some(taken);
            if unknown {
                pause.sleep().await;
            } else {
                pause.wait(error).await?;
            }
        }
    }

    /// Sends a command once.
    pub(crate) async fn attempt(
        &self,
        conn: &crate::master::Conn,
        number: &Number,
        body: CommandBody,
        wait: bool,
        deadline: Instant,
    ) -> Attempt {
        let command = Command {
            session: number.session,
            sequence: number.sequence,
            lowest_unacked: self.window.lowest_unacked(),
            body: Some(body),
        };
        let request = MutateRequest { command: Some(command), wait, caller: self.caller() };
        let ticket = self.ticket(conn);
        match conn.peer.call::<_, MutateReply>(Method::Mutate, &request, Body::Empty, deadline).await {
            Ok((reply, _)) => Attempt::Done(Box::new(reply), ticket, conn.serial()),
            Err(error) => {
                let recovers = self.master.recovers(conn, &error);
                match error.kind() {
                    ErrorKind::ConnectionLost | ErrorKind::TimedOut => Attempt::Unknown(error),
                    _ if recovers => Attempt::NotYet(error),
                    _ => Attempt::Failed(error),
                }
            }
        }
    }

    /// `tickets`: of the first and of the last time that it was sent.
    pub(crate) fn done(
        &self,
        reply: MutateReply,
        tickets: (Ticket, Ticket),
        serial: u64,
        session: SessionId,
    ) -> Result<Done> {
        let (first, ticket) = tickets;
        let mode = reply.mode();
        let MutateReply { outcome, leases, .. } = reply;
        let outcome =
            outcome.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the master answered a change without an outcome"))?;
        self.cache.grant(&ticket, &leases, boot_time());
        match outcome.error {
            Some(error) => Err(error.into()),
            None => Ok(Done { outcome, ticket: first, mode, serial, session }),
        }
    }
}
