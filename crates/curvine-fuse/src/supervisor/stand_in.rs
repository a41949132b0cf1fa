//! Answers requests while no serving process lives and the next one is not to come at once.
//!
//! Always: it has stopped reading before a serving process is started; what it has not answered by then, the kernel sends again.
//! Always: a request waits no longer than the limit, counted over all pauses between serving processes; one whose process is killed
//! does not wait at all. What only the cluster may know of a failed request, the next serving process finds marked in the table.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use curvine_fuse_abi::kernel::{InHeader, ROOT_ID, UNIQUE_RESEND};
use curvine_fuse_abi::{Device, Opcode, Operation, ReadResult, parse, request};
use curvine_types::{Error, Result};
use tracing::{info, warn};

use super::message::Known;
use crate::buffers::Buffers;
use crate::handover::Table;
use crate::interrupt::is_killed;

/// How long it takes to notice that it should stop, or that a process was killed.
const POLL: Duration = Duration::from_millis(20);

/// By the kernel's number of a request: since when it waits for somebody to serve it.
pub(super) type Since = HashMap<u64, Instant>;

/// What it needs to answer.
pub(super) struct Duty {
    pub device: Arc<Device>,
    pub table: Arc<Table>,
    pub max_write: u32,
    /// How long a request may wait.
    pub limit: Duration,
    /// How long one whose caller has a signal that does not kill may still wait.
    pub grace: Duration,
    /// How many may wait; more are left to the kernel.
    pub most: usize,
    pub known: Option<Known>,
    /// Those that have waited before.
    pub since: Since,
}

/// One at work.
pub(super) struct StandIn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Since>>,
}

impl StandIn {
    pub fn start(duty: Duty) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("stand-in".into())
            .spawn(move || Work::new(duty).run(&told))
            .map_err(|error| Error::from_io(error, "cannot start the thread that answers meanwhile"))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// It reads no more when this returns.
    pub fn end(mut self) -> Since {
        self.stop.store(true, Ordering::Release);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// A request that was read.
struct Waiting {
    /// As the kernel gave it.
    unique: u64,
    pid: u32,
    /// `None`: nobody waits for its answer, and it must not be lost.
    until: Option<Instant>,
    interrupted: bool,
}

struct Work {
    duty: Duty,
    waiting: HashMap<u64, Waiting>,
    timed_out: u64,
}

impl Work {
    fn new(duty: Duty) -> Self {
        Self { duty, waiting: HashMap::new(), timed_out: 0 }
    }

    fn run(mut self, stop: &AtomicBool) -> Since {
        info!("no process serves the mount; answering what cannot wait");
        let mut buffer = Buffers::new(Device::buffer_size(self.duty.max_write), 0).take();
        while !stop.load(Ordering::Acquire) {
            self.end_waits();
            match self.read(&mut buffer) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    warn!(%error, "nobody answers until the next serving process");
                    break;
                }
            }
        }
        info!(
            waiting = self.waiting.len(),
            timed_out = self.timed_out,
            "leaving the mount to the next serving process"
        );
        self.duty.since
    }

    /// False: the session has ended.
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<bool> {
        if self.waiting.len() >= self.duty.most {
            std::thread::sleep(POLL);
            return Ok(true);
        }
        if !self.duty.device.wait_readable(POLL)? {
            return Ok(true);
        }
        buffer.clear();
        match self.duty.device.read(buffer)? {
            ReadResult::Request => self.take(buffer),
            ReadResult::Again => {}
            ReadResult::Ended => return Ok(false),
        }
        Ok(true)
    }

    fn take(&mut self, buffer: &[u8]) {
        let Ok(parsed) = parse(buffer) else {
            if let Ok(header) = request::header(buffer) {
                self.answer(header.unique, Err(libc::EIO));
            }
            return;
        };
        let header = parsed.header;
        if let Some(value) = self.remembered(&header, &parsed.operation) {
            return self.answer(header.unique, Ok(value));
        }
        match parsed.operation {
            Operation::Forget { .. } | Operation::BatchForget { .. } => {}
            Operation::Interrupt { unique } => self.interrupt(unique),
            Operation::Release(_) | Operation::Releasedir(_) => self.wait(&header, false),
            _ => self.wait(&header, true),
        }
    }

    /// The answer, if it is known.
    fn remembered(&self, header: &InHeader, operation: &Operation<'_>) -> Option<&[u8]> {
        let known = self.duty.known.as_ref()?;
        match operation {
            Operation::Statfs => Some(&known.statfs),
            Operation::Getattr { .. } if header.nodeid == ROOT_ID => Some(&known.root),
            Operation::Statx { .. } if header.nodeid == ROOT_ID => Some(&known.root_statx),
            _ => None,
        }
    }

    fn wait(&mut self, header: &InHeader, somebody_waits: bool) {
        let key = header.unique & !UNIQUE_RESEND;
        let until = somebody_waits.then(|| *self.duty.since.entry(key).or_insert_with(Instant::now) + self.duty.limit);
        let waiting = Waiting { unique: header.unique, pid: header.pid, until, interrupted: false };
        let opcode = Opcode::from_number(header.opcode);
        self.waiting.insert(key, waiting);
        if until.is_some() && matches!(opcode, Some(Opcode::Flush | Opcode::Setlkw)) && is_killed(header.pid) {
            // Its INTERRUPT follows; here is what its process waits for to end.
            self.give_up(key, libc::EINTR);
        }
    }

    fn interrupt(&mut self, unique: u64) {
        let grace = Instant::now() + self.duty.grace;
        if let Some(waiting) = self.waiting.get_mut(&(unique & !UNIQUE_RESEND)) {
            waiting.interrupted = true;
            waiting.until = waiting.until.map(|until| until.min(grace));
        }
    }

    /// Answers those whose time is over, and those whose process was killed.
    fn end_waits(&mut self) {
        let now = Instant::now();
        let over: Vec<(u64, i32)> = self
            .waiting
            .iter()
            .filter_map(|(key, waiting)| match waiting.until {
                Some(until) if until <= now && !waiting.interrupted => Some((*key, libc::ETIMEDOUT)),
                Some(until) if waiting.interrupted && (until <= now || is_killed(waiting.pid)) => {
                    Some((*key, libc::EINTR))
                }
                _ => None,
            })
            .collect();
        for (key, errno) in over {
            self.timed_out += u64::from(errno == libc::ETIMEDOUT);
            self.give_up(key, errno);
        }
    }

    fn give_up(&mut self, key: u64, errno: i32) {
        let Some(waiting) = self.waiting.remove(&key) else { return };
        self.duty.since.remove(&key);
        // Before its caller hears of it.
        self.duty.table.give_up_request(key);
        self.duty.table.give_up_handles(key);
        self.answer(waiting.unique, Err(errno));
    }

    fn answer(&self, unique: u64, outcome: std::result::Result<&[u8], i32>) {
        let device = &self.duty.device;
        let answered = match outcome {
            Ok(value) => device.reply(unique, &[IoSlice::new(value)]),
            Err(errno) => device.reply_error(unique, errno),
        };
        if let Err(error) = answered {
            warn!(%error, "cannot answer a request");
        }
    }
}
