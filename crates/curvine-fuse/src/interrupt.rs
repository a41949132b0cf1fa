//! Requests that wait, and what an INTERRUPT does to them.
//!
//! Always: a request is answered exactly once, by whoever takes its answer first; an INTERRUPT that overtakes its request
//! (they may come through different readers) is remembered until the request arrives.

use curvine_types::FastMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use curvine_fuse_abi::kernel::InHeader;
use curvine_fuse_abi::{Device, Opcode};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::debug;

use crate::handover::{RequestOrigin, Slot};
use crate::orphans::{Nodes, Orphans, changes};

/// Early interrupts that are remembered. Most of them came late, for a request that had just been answered; their numbers
/// are never used again.
const EARLY_MAX: usize = 1024;
/// How often a process that was interrupted is looked at: it may be killed during the grace.
const KILL_POLL: Duration = Duration::from_millis(50);

/// A request that could not be answered at once.
#[derive(Debug)]
pub struct Waiting {
    device: Arc<Device>,
    unique: u64,
    opcode: Opcode,
    /// The calling thread; 0 if it lives in a pid namespace that we do not see.
    pid: u32,
    nodes: Nodes,
    /// What is recorded of it.
    origin: Option<Arc<RequestOrigin>>,
    /// Where it is kept for a successor.
    slot: Mutex<Option<Arc<Slot>>>,
    answered: AtomicBool,
    /// Wakes a request that may simply be given up.
    give_up: Notify,
}

impl Waiting {
    /// A request of the kernel, by its header.
    pub fn new(
        device: Arc<Device>,
        header: &InHeader,
        opcode: Opcode,
        nodes: Nodes,
        origin: Option<Arc<RequestOrigin>>,
        slot: Option<&Arc<Slot>>,
    ) -> Arc<Self> {
        let (unique, pid, answered) = (header.unique, header.pid, AtomicBool::new(false));
        let (slot, give_up) = (Mutex::new(slot.cloned()), Notify::new());
        Arc::new(Self { device, unique, opcode, pid, nodes, origin, slot, answered, give_up })
    }

    /// The request need not be kept any more.
    pub fn drop_slot(&self) {
        *self.slot.lock() = None;
    }

    /// True for the first caller, who must answer.
    pub fn take_answer(&self) -> bool {
        !self.answered.swap(true, Ordering::AcqRel)
    }

    /// Returns when the request was answered with EINTR and need not go on. Never for one that changes something: it goes
    /// on by itself and its result is dropped or undone.
    pub async fn given_up(&self) {
        if may_be_given_up(self.opcode) {
            self.give_up.notified().await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn answer_interrupted(&self, orphans: &Orphans, giving_back: &Arc<Orphans>) {
        let goes_on = changes(self.opcode) && !may_be_given_up(self.opcode);
        if goes_on {
            // Before the caller hears of it and tries again.
            orphans.add(self.unique, self.nodes);
        }
        if self.take_answer() {
            if let Some(origin) = self.origin.as_ref().filter(|_| takes_lock(self.opcode)) {
                giving_back.add(self.unique, self.nodes);
                origin.give_up(EndsOrphan { orphans: giving_back.clone(), unique: self.unique });
            }
            debug!(unique = self.unique, opcode = self.opcode.name(), "interrupted");
            if let Some(slot) = &*self.slot.lock() {
                slot.answer(libc::EINTR, &[]);
            }
            if let Err(error) = self.device.reply_error(self.unique, libc::EINTR) {
                tracing::warn!(%error, "cannot answer an interrupted request");
            }
            self.give_up.notify_one();
        } else if goes_on {
            orphans.end(self.unique);
        }
    }
}

/// Requests that only look, and waits for a lock: dropping them changes nothing.
fn may_be_given_up(opcode: Opcode) -> bool {
    opcode == Opcode::Setlkw || only_looks(opcode)
}

/// Requests whose outcome must be taken back if nobody hears of it.
fn takes_lock(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Setlk | Opcode::Setlkw)
}

/// What a lock that is given back holds until it is.
struct EndsOrphan {
    orphans: Arc<Orphans>,
    unique: u64,
}

impl Drop for EndsOrphan {
    fn drop(&mut self) {
        self.orphans.end(self.unique);
    }
}

/// Requests that may be served twice.
pub fn only_looks(opcode: Opcode) -> bool {
    use Opcode::*;
    matches!(
        opcode,
        Lookup
            | Getattr
            | Statx
            | Readlink
            | Read
            | Readdir
            | Readdirplus
            | Statfs
            | Getxattr
            | Listxattr
            | Getlk
            | Lseek
    )
}

/// The requests that wait, by the kernel's number.
#[derive(Debug)]
pub struct Interrupts {
    grace: Duration,
    /// What goes on although it was interrupted.
    pub orphans: Arc<Orphans>,
    /// Locks that were perhaps taken for callers who do not know of them: whoever locks or unlocks the same inode waits for their end.
    pub giving_back: Arc<Orphans>,
    table: Mutex<Table>,
    seen: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    waiting: FastMap<u64, Arc<Waiting>>,
    early: VecDeque<u64>,
}

impl Interrupts {
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            orphans: Arc::default(),
            giving_back: Arc::default(),
            table: Mutex::default(),
            seen: AtomicU64::new(0),
        }
    }

    /// Registers a request that waits. Must be within the tokio runtime.
    pub fn register(&self, waiting: &Arc<Waiting>) {
        let mut table = self.table.lock();
        table.waiting.insert(waiting.unique, waiting.clone());
        if let Some(at) = table.early.iter().position(|unique| *unique == waiting.unique) {
            table.early.remove(at);
            drop(table);
            self.act(waiting.clone());
        }
    }

    /// The request has ended.
    pub fn forget(&self, waiting: &Waiting) {
        self.orphans.end(waiting.unique);
        self.table.lock().waiting.remove(&waiting.unique);
    }

    /// The kernel says that the caller of a request has a signal. Must be within the tokio runtime.
    pub fn interrupt(&self, unique: u64) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table.lock();
        if let Some(waiting) = table.waiting.get(&unique).cloned() {
            drop(table);
            self.act(waiting);
        } else {
            if table.early.len() >= EARLY_MAX {
                table.early.pop_front();
            }
            table.early.push_back(unique);
        }
    }

    /// Interrupts that came so far.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.table.lock().waiting.len()
    }

    fn act(&self, waiting: Arc<Waiting>) {
        let at_once = matches!(waiting.opcode, Opcode::Setlkw | Opcode::Flush) || is_killed(waiting.pid);
        if at_once {
            waiting.answer_interrupted(&self.orphans, &self.giving_back);
            return;
        }
        let (grace, orphans, giving_back) = (self.grace, self.orphans.clone(), self.giving_back.clone());
        tokio::spawn(async move {
            let end = tokio::time::Instant::now() + grace;
            while tokio::time::Instant::now() < end && !waiting.answered.load(Ordering::Acquire) {
                tokio::time::sleep(KILL_POLL.min(end - tokio::time::Instant::now())).await;
                if is_killed(waiting.pid) {
                    break;
                }
            }
            waiting.answer_interrupted(&orphans, &giving_back);
        });
    }
}

/// Whether a thread is about to die: SIGKILL is pending for it or its process. Also if it cannot be found any more; unknown
/// (false) for those of other pid namespaces.
pub fn is_killed(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => has_pending_kill(&status),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn has_pending_kill(status: &str) -> bool {
    const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);
    status.lines().any(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & SIGKILL_BIT != 0)
    })
}

#[cfg(test)]
#[path = "interrupt_test.rs"]
mod tests;
