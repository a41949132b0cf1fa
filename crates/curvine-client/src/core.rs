//! What all parts of one client share, and the way of a request to the master that is read-only.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use curvine_proto::{Caller, Message, Method};
use curvine_rpc::{Body, ClusterCell, begin};
use curvine_types::{Error, ErrorKind, InodeId, Result, SessionId};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::cache::{Cache, CacheLimits, Ticket};
use crate::clock::boot_time;
use crate::counters::Counters;
use crate::graves::Graves;
use crate::master::{Conn, Master};
use crate::mutation::{Touched, Window};
use crate::opens::Opens;
use crate::workers::Workers;
use crate::{CacheEvents, ClientOptions, Journal, origin};

/// Own changes and recalls that are remembered against replies that they overtook.
const RECENT: usize = 16 * 4096;
/// Pauses between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Core {
    pub options: ClientOptions,
    pub events: Arc<dyn CacheEvents>,
    pub cache: Cache,
    pub master: Master,
    pub window: Window,
    pub opens: Opens,
    pub workers: Workers,
    /// KiB of data that operations wait for.
    pub memory: Arc<Semaphore>,
    /// KiB of data that was read ahead.
    pub ahead_memory: Arc<Semaphore>,
    /// KiB in each of the two.
    memory_half: usize,
    pub notifications: Arc<Semaphore>,
    pub counters: Counters,
    pub graves: Graves,
    /// Remembers what a successor needs.
    pub journal: Option<Arc<dyn Journal>>,
    /// Which process of its session this is; 0: the only one.
    pub instance: u64,
    /// Names appends that no origin names.
    appends: AtomicU64,
    /// The kernel may believe what was leased to a predecessor and is not known here.
    pub inherited: AtomicBool,
}

/// Memory is counted in KiB, so that a semaphore can hold it.
pub(crate) fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

impl Core {
    pub(crate) fn new(
        options: ClientOptions,
        events: Arc<dyn CacheEvents>,
        journal: Option<Arc<dyn Journal>>,
        instance: u64,
    ) -> Result<Self> {
        let addresses = options.master_addrs.iter().map(|text| text.parse()).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            return Err(Error::new(ErrorKind::Config, "a client needs the address of at least one master"));
        }
        let cluster = Arc::new(ClusterCell::default());
        let connector = crate::workers::connector(&options, cluster.clone());
        let cache = Cache::new(CacheLimits {
            inodes: options.cached_inodes,
            names: options.cached_names,
            recent: RECENT,
            max_ttl: options.max_ttl,
        });
        let half = (options.memory_limit / 2).max(2 * curvine_types::limits::IO_MAX as u64);
        let memory = || Arc::new(Semaphore::new(kib(half) as usize));
        Ok(Self {
            events,
            cache,
            master: Master::new(addresses, cluster),
            window: Window::new(options.mutations_in_flight, journal.clone()),
            opens: Opens::new(options.open_handles),
            workers: Workers::new(connector, &options),
            memory: memory(),
            ahead_memory: memory(),
            memory_half: kib(half) as usize,
            notifications: Arc::new(Semaphore::new(options.notifications_in_flight.max(1))),
            counters: Counters::default(),
            graves: Graves::default(),
            journal,
            instance,
            appends: AtomicU64::new(1),
            inherited: AtomicBool::new(false),
            options,
        })
    }

    /// The deadline of an operation on metadata that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.options.rpc_timeout
    }

    /// The deadline of an operation on data that begins now.
    pub(crate) fn data_deadline(&self) -> Instant {
        Instant::now() + self.options.rpc_timeout + self.options.data_timeout
    }

    /// Names an append, so that a worker makes it once; part `part` of what the present request writes.
    pub(crate) fn append_token(&self, part: u64) -> u64 {
        match origin::current() {
            Some(origin) => origin.token().wrapping_mul(16).wrapping_add(part & 15),
            // Of no request: such tokens have the highest bit, which those of requests never reach.
            None => (1 << 63) | (self.instance << 48) | self.appends.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(crate) fn caller(&self) -> Option<Caller> {
        self.options.caller.clone()
    }

    pub(crate) fn ticket(&self, conn: &Conn) -> Ticket {
        self.cache.ticket(conn.term(), boot_time())
    }

    /// Asks the master something that changes nothing, again and again until the deadline.
    pub(crate) async fn ask<Q: Message, R: Message + Default>(
        &self,
        method: Method,
        request: impl Fn(SessionId) -> Q,
        deadline: Instant,
    ) -> Result<(R, Ticket)> {
        let mut pause = Pause::new(deadline);
        loop {
            let conn = self.master.conn(deadline).await?;
            let ticket = self.ticket(&conn);
            let error = match conn.peer.call(method, &request(conn.session), Body::Empty, deadline).await {
                Ok((reply, _)) => return Ok((reply, ticket)),
                Err(error) => error,
            };
            if !self.master.recovers(&conn, &error) {
                return Err(error);
            }
            pause.wait(error).await?;
        }
    }

    /// Runs a change that is no numbered command to its end, even if the caller gives up; the kernel, which does not learn how it
    /// ended, then forgets what it touched.
    pub(crate) fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        touched: Touched,
        deadline: Instant,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send {
        let (sender, receiver) = oneshot::channel();
        let core = self.clone();
        let work = origin::carried(origin::current(), work);
        begin(async move {
            if sender.send(work.await).is_err() {
                core.forget(&touched).await;
            }
        });
        // The work keeps to the deadline by itself; a little more lets its own words be heard.
        async move {
            match tokio::time::timeout_at(deadline + Duration::from_secs(1), receiver).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(Error::new(ErrorKind::Internal, "a change was given up by its own task")),
                Err(_) => Err(Error::new(ErrorKind::TimedOut, "a change was not finished in time")),
            }
        }
    }

    /// The most KiB that one operation takes.
    pub(crate) fn memory_share(&self) -> u32 {
        u32::try_from(self.memory_half).unwrap_or(u32::MAX)
    }

    /// Bytes of file data held for operations and by read-ahead.
    pub(crate) fn memory_used(&self) -> u64 {
        let used = |memory: &Semaphore| self.memory_half.saturating_sub(memory.available_permits()) as u64 * 1024;
        used(&self.memory) + used(&self.ahead_memory)
    }

    /// Notifications of the kernel under way.
    pub(crate) fn notifications_in_flight(&self) -> usize {
        self.options.notifications_in_flight.max(1).saturating_sub(self.notifications.available_permits())
    }

    /// Tells the kernel, on threads that may block. Returns when it knows.
    pub(crate) async fn notify(self: &Arc<Self>, dirs: Vec<InodeId>, inodes: Vec<InodeId>) {
        if dirs.is_empty() && inodes.is_empty() {
            return;
        }
        let Ok(permit) = self.notifications.clone().acquire_owned().await else { return };
        let events = self.events.clone();
        let told = tokio::task::spawn_blocking(move || {
            if !dirs.is_empty() {
                events.names_changed(&dirs);
            }
            if !inodes.is_empty() {
                events.inodes_changed(&inodes);
            }
            drop(permit);
        });
        if let Err(error) = told.await {
            tracing::error!(%error, "the kernel could not be told that its caches are out of date");
        }
    }
}

/// Growing pauses between attempts, up to a deadline.
pub(crate) struct Pause {
    deadline: Instant,
    next: Duration,
}

impl Pause {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { deadline, next: PAUSE_MIN }
    }

    /// Waits, or gives `error` back if there is no time left.
    pub(crate) async fn wait(&mut self, error: Error) -> Result<()> {
        let until = Instant::now() + self.next;
        if until >= self.deadline {
            return Err(error);
        }
        self.sleep().await;
        Ok(())
    }

    /// Waits, whatever the deadline.
    pub(crate) async fn sleep(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}
