//! Reading requests and answering them: on the reader's thread when nothing has to be waited for, else on the runtime.
//!
//! Always: each request that wants an answer gets exactly one; a reader never waits for a request, only for room at the
//! gate, and one reader never does.

use std::future::Future;
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use curvine_client::{Origin, on_behalf};
use curvine_fuse_abi::kernel::{InHeader, ROOT_ID, UNIQUE_RESEND};
use curvine_fuse_abi::reply::{attr_out, statx_out};
use curvine_fuse_abi::{Device, Opcode, Operation, ReadResult, parse, request};
use curvine_types::{Error, ErrorKind, FastMap, InodeId, Result};
use parking_lot::Mutex;
use tracing::{debug, error, warn};

use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;
use crate::buffers::Buffers;
use crate::convert;
use crate::gate::{Gate, Permit};
use crate::handles::Handles;
use crate::handover::{Inbox, Left, RequestOrigin, RequestRecord, Slot, Table, Unanswered};
use crate::interrupt::{Interrupts, Waiting, only_looks};
use crate::io_mode::IoModes;
use crate::lock_owners::LockOwners;
use crate::memory::Memory;
use crate::ops;
use crate::orphans::{self, Nodes};
use crate::pages::Pages;
use crate::passthrough::Passthrough;

/// All that serving one mount needs.
pub(crate) struct Server<B: Backend> {
    pub backend: B,
    /// The inode that the kernel knows as node 1.
    pub root: InodeId,
    pub max_ttl: Duration,
    /// Names may be believed by the kernel: it has INC_EPOCH, so that they can be recalled.
    pub cache_names: bool,
    /// The kernel checks access control lists.
    pub acls: bool,
    pub root_timeout: Duration,
    pub handles: Handles<B::Handle>,
    pub modes: Arc<IoModes>,
    pub passthrough: Passthrough,
    pub locks: LockOwners,
    pub pages: Arc<Pages>,
    pub memory: Memory,
    pub interrupts: Interrupts,
    pub gate: Arc<Gate>,
    pub buffers: Arc<Buffers>,
    pub served: AtomicU64,
    /// What a successor needs.
    pub table: Arc<Table>,
    /// Requests that a predecessor was serving, until the kernel has sent them again.
    pub inherited: Mutex<FastMap<u64, RequestRecord>>,
    /// What a predecessor had opened, by the requests that it may not have answered any more.
    pub opened_by: Mutex<FastMap<u64, u64>>,
    /// What is read goes through it, where the kernel does not send it again to a successor.
    pub inbox: Option<Arc<Inbox>>,
    /// No more requests are read: a successor takes over.
    pub parked: AtomicBool,
}

impl<B: Backend> Server<B> {
    /// The inode of a node of the kernel.
    pub fn inode(&self, node: u64) -> InodeId {
        if node == ROOT_ID { self.root } else { node }
    }

    /// The kernel's node of an inode.
    pub fn node(&self, inode: InodeId) -> u64 {
        if inode == self.root { ROOT_ID } else { inode }
    }

    /// Leaves what is answered from memory with who answers while no process serves.
    pub fn leave_known(&self) {
        if let Some(keeper) = &self.passthrough.keeper.0 {
            let known = self.memory.known_root();
            let root = convert::attr(&known, ROOT_ID);
            let birth = known.btime.as_ref().map(|time| (time.sec, time.nsec));
            let (attr, statx) = (attr_out(&root, Duration::ZERO), statx_out(&root, birth, Duration::ZERO));
            keeper.remember(&self.memory.statfs(), &attr, &statx);
        }
    }

    /// How long the kernel may believe attributes.
    pub fn cap(&self, ttl: Duration) -> Duration {
        ttl.min(self.max_ttl)
    }

    /// How long the kernel may believe a name or its absence.
    pub fn cap_name(&self, ttl: Duration) -> Duration {
        if self.cache_names { self.cap(ttl) } else { Duration::ZERO }
    }

    /// A reader, of the descriptor with this number: until the session ends. Must be within the tokio runtime.
    pub fn read_requests(self: &Arc<Self>, device: &Arc<Device>, number: usize) -> Result<()> {
        let mut buffer = self.buffers.take();
        let mut slot = None;
        loop {
            if self.parked.load(Ordering::Acquire) {
                // The kernel keeps what is not read, and this process ends soon.
                std::thread::park();
                continue;
            }
            self.gate.throttle();
            slot = slot.or_else(|| self.inbox.as_ref().and_then(Inbox::take));
            let read = match &slot {
                Some(slot) => slot.read(device, number, &mut buffer),
                None => device.read(&mut buffer),
            };
            match read? {
                ReadResult::Request => self.serve(device, &mut buffer, slot.take()),
                ReadResult::Again => {}
                ReadResult::Ended => return Ok(()),
            }
            buffer.clear();
        }
    }

    /// Serves what the kernel sends again after the death of a predecessor: those stand at the head of its queue. Returns those that
    /// it does not send again, because they were answered or given up.
    pub fn resume_requests(self: &Arc<Self>, device: &Arc<Device>) -> Result<Vec<RequestRecord>> {
        let mut buffer = self.buffers.take();
        while device.wait_readable(Duration::ZERO)? {
            buffer.clear();
            match device.read(&mut buffer)? {
                ReadResult::Request => {}
                ReadResult::Again => continue,
                ReadResult::Ended => break,
            }
            let header = request::header(&buffer).ok();
            let opcode = header.and_then(|header| Opcode::from_number(header.opcode));
            if let Some(header) = header.filter(|header| header.unique & UNIQUE_RESEND != 0) {
                // It was opened, and the answer never left: it is opened again now.
                let unknown = self.opened_by.lock().remove(&(header.unique & !UNIQUE_RESEND));
                unknown.into_iter().for_each(|fh| self.close(fh));
            }
            self.serve(device, &mut buffer, None);
            // Those without an answer come in between.
            let aside = matches!(opcode, Some(Opcode::Interrupt | Opcode::Forget | Opcode::BatchForget));
            if !aside && header.is_some_and(|header| header.unique & UNIQUE_RESEND == 0) {
                break;
            }
        }
        self.opened_by.lock().clear();
        Ok(self.inherited.lock().drain().map(|(_, record)| record).collect())
    }

    /// Goes on with what a predecessor had read, for a kernel that does not send it again. Returns what was recorded of requests that
    /// need not be served, because they were answered or given up.
    pub fn resume_inbox(self: &Arc<Self>, devices: &[Arc<Device>], left: Vec<Left>) -> Vec<RequestRecord> {
        let mut buffer = self.buffers.take();
        for Left { slot, unique, reader, what } in left {
            let Some(device) = devices.get(reader) else { continue };
            let given_up = self.inherited.lock().get(&unique).is_some_and(|record| record.given_up);
            match what {
                Unanswered::Request { .. } if given_up => self.repeat(device, unique, libc::EINTR, &[]),
                Unanswered::Answer { errno, value } => {
                    self.opened_by.lock().remove(&unique);
                    self.repeat(device, unique, errno, &value);
                }
                Unanswered::Request { bytes, interrupted } => {
                    // It was opened, and the answer never left: it is opened again now.
                    let unknown = self.opened_by.lock().remove(&unique);
                    unknown.into_iter().for_each(|fh| self.close(fh));
                    buffer.clear();
                    buffer.extend_from_slice(&bytes);
                    self.serve(device, &mut buffer, Some(slot));
                    if interrupted {
                        self.interrupts.interrupt(unique);
                    }
                }
            }
        }
        self.opened_by.lock().clear();
        self.inherited.lock().drain().map(|(_, record)| record).collect()
    }

    /// Sends an answer that has perhaps been sent already.
    fn repeat(&self, device: &Device, unique: u64, errno: i32, value: &[u8]) {
        let sent = match errno {
            0 if !value.is_empty() => device.reply(unique, &[IoSlice::new(value)]),
            errno => device.reply_error(unique, errno),
        };
        if let Err(error) = sent {
            warn!(%error, "cannot answer a request of a predecessor");
        }
    }

    /// On whose behalf a request changes something; one that changes nothing may be served twice.
    fn origin(&self, header: &InHeader, opcode: Opcode, nodes: Nodes, again: bool) -> Option<Arc<RequestOrigin>> {
        let unique = header.unique & !UNIQUE_RESEND;
        let earlier = if again { self.inherited.lock().remove(&unique) } else { None };
        match earlier {
            Some(record) => Some(RequestOrigin::resumed(&self.table, record)),
            None if only_looks(opcode) => None,
            None => Some(RequestOrigin::new(&self.table, unique, header.opcode, nodes)),
        }
    }

    /// Serves the request in `buffer`, which may be exchanged for another one.
    fn serve(self: &Arc<Self>, device: &Arc<Device>, buffer: &mut Vec<u8>, slot: Option<Slot>) {
        self.served.fetch_add(1, Ordering::Relaxed);
        let (header, nodes) = match parse(buffer) {
            Ok(parsed) => match parsed.operation {
                // The kernel's count of lookups: inodes are named by themselves, there is nothing to free.
                Operation::Forget { .. } | Operation::BatchForget { .. } => return,
                Operation::Interrupt { unique } => {
                    self.inbox.iter().for_each(|inbox| inbox.interrupt(unique));
                    return self.interrupts.interrupt(unique);
                }
                operation => (parsed.header, orphans::nodes(parsed.header.nodeid, &operation)),
            },
            Err(error) => {
                warn!(%error, "the kernel sent a request that cannot be understood");
                if let Ok(header) = request::header(buffer) {
                    self.send(device, &header, Err(Failure::Errno(libc::EIO)), None, slot.as_ref());
                }
                return;
            }
        };
        let Some(permit) = self.gate.admit(self.buffers.held(buffer.len())) else {
            warn!(opcode = header.opcode, "too many requests are being served; refusing one");
            self.send(device, &header, Err(Failure::Errno(libc::ENOMEM)), None, slot.as_ref());
            return;
        };
        let request = self.buffers.detach(buffer);
        let server = self.clone();
        // An opcode that is not known does not wait; were it to, it would be left to end by itself.
        let opcode = Opcode::from_number(header.opcode).unwrap_or(Opcode::Destroy);
        let in_order = orphans::changes(opcode) && !self.interrupts.orphans.is_clear(nodes);
        let again = header.unique & UNIQUE_RESEND != 0 || slot.as_ref().is_some_and(|slot| slot.inherited);
        let origin = self.origin(&header, opcode, nodes, again);
        let behalf = origin.clone();
        let mut future = Box::pin(async move {
            if in_order {
                server.interrupts.orphans.clear(nodes).await;
            }
            match behalf {
                Some(origin) => on_behalf(origin, ops::run(&*server, request, again)).await,
                None => ops::run(&*server, request, again).await,
            }
        });
        // What the caches can answer is answered here and now, and what waits has sent its own request by then.
        let mut context = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(outcome)) => {
                self.send(device, &header, outcome, origin.as_ref(), slot.as_ref());
                drop(slot);
                origin.iter().for_each(|origin| origin.end());
            }
            Ok(Poll::Pending) => {
                let slot = slot.map(Arc::new);
                let waiting = Waiting::new(device.clone(), &header, opcode, nodes, origin.clone(), slot.as_ref());
                self.interrupts.register(&waiting);
                let (server, device) = (self.clone(), device.clone());
                spawn(InFlight { server, device, header, waiting, origin, slot, _permit: permit }, future);
            }
            Err(_) => {
                error!(opcode = header.opcode, "serving a request panicked");
                self.send(device, &header, Err(Failure::Errno(libc::EIO)), None, slot.as_ref());
            }
        }
    }

    /// Answers, and undoes what nobody takes.
    fn send(
        self: &Arc<Self>,
        device: &Device,
        header: &InHeader,
        outcome: Outcome,
        origin: Option<&Arc<RequestOrigin>>,
        slot: Option<&Slot>,
    ) {
        if let Err(failure) = &outcome {
            log_failure(header, failure);
        }
        if let Some(slot) = slot {
            match &outcome {
                Ok(Answer::Done | Answer::Locked { .. }) => slot.answer(0, &[]),
                Ok(Answer::Value(value) | Answer::Opened { value, .. }) => slot.answer(0, value),
                Ok(Answer::Data(_)) => {}
                Err(failure) => slot.answer(failure.errno(), &[]),
            }
        }
        match send(device, header.unique, &outcome) {
            Ok(true) => {}
            Ok(false) => self.undo(&outcome, origin),
            Err(error) => {
                warn!(%error, opcode = header.opcode, "cannot answer a request");
                self.undo(&outcome, origin);
            }
        }
    }

    /// Takes back what its caller will never know of.
    fn undo(self: &Arc<Self>, outcome: &Outcome, origin: Option<&Arc<RequestOrigin>>) {
        match outcome {
            Ok(Answer::Opened { fh, .. }) => self.close(*fh),
            Ok(Answer::Locked { inode, undo }) => {
                let (server, inode, undo) = (self.clone(), *inode, *undo);
                let remembered = origin.cloned().map(Origin::giving_back);
                tokio::spawn(async move {
                    let _remembered = remembered;
                    if let Err(error) = server.backend.setlk(inode, undo, false).await {
                        warn!(%error, inode, "cannot give back a lock whose caller was interrupted");
                    }
                });
            }
            _ => {}
        }
    }
}

/// A request on the runtime. If it is dropped without an answer (a panic, the runtime's end) it answers EIO.
struct InFlight<B: Backend> {
    server: Arc<Server<B>>,
    device: Arc<Device>,
    header: InHeader,
    waiting: Arc<Waiting>,
    /// Recorded until it is answered.
    origin: Option<Arc<RequestOrigin>>,
    slot: Option<Arc<Slot>>,
    _permit: Permit,
}

impl<B: Backend> InFlight<B> {
    fn answer(&self, outcome: Outcome) {
        if self.waiting.take_answer() {
            self.server.send(&self.device, &self.header, outcome, self.origin.as_ref(), self.slot.as_deref());
        } else {
            debug!(opcode = self.header.opcode, "finished after its caller was interrupted");
            self.server.undo(&outcome, self.origin.as_ref());
        }
    }
}

impl<B: Backend> Drop for InFlight<B> {
    fn drop(&mut self) {
        self.server.interrupts.forget(&self.waiting);
        if self.waiting.take_answer() {
            let lost = Error::new(ErrorKind::Internal, "a request ended without an answer");
            self.server.send(&self.device, &self.header, Err(lost.into()), None, self.slot.as_deref());
        }
        // Before the record: of what is found here the record is needed.
        self.waiting.drop_slot();
        self.slot = None;
        self.origin.iter().for_each(|origin| origin.end());
    }
}

/// Lets a request go on on the runtime until it ends or is given up.
fn spawn<B: Backend>(in_flight: InFlight<B>, future: Pin<Box<impl Future<Output = Outcome> + Send + 'static>>) {
    tokio::spawn(async move {
        let outcome = tokio::select! {
            // In this order: a wait that was given up must not go on to be granted.
            biased;
            () = in_flight.waiting.given_up() => return,
            outcome = future => outcome,
        };
        in_flight.answer(outcome);
    });
}

fn send(device: &Device, unique: u64, outcome: &Outcome) -> Result<bool> {
    match outcome {
        Ok(Answer::Done | Answer::Locked { .. }) => device.reply_error(unique, 0),
        Ok(Answer::Value(value) | Answer::Opened { value, .. }) => device.reply(unique, &[IoSlice::new(value)]),
        Ok(Answer::Data(pieces)) => send_pieces(device, unique, pieces),
        Err(failure) => device.reply_error(unique, failure.errno()),
    }
}

fn send_pieces(device: &Device, unique: u64, pieces: &[Bytes]) -> Result<bool> {
    /// Below the kernel's IOV_MAX of 1024, with room for the header.
    const MOST: usize = 1000;
    if pieces.len() > MOST {
        return device.reply(unique, &[IoSlice::new(&pieces.concat())]);
    }
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    device.reply(unique, &slices)
}

/// Faults are for the operator; what a program may provoke is for those who debug it.
fn log_failure(header: &InHeader, failure: &Failure) {
    let opcode = Opcode::from_number(header.opcode).map_or("unknown", Opcode::name);
    match failure {
        Failure::Error(error) if matches!(error.errno(), libc::EIO | libc::ETIMEDOUT) => {
            warn!(%error, opcode, node = header.nodeid, "a request failed");
        }
        Failure::Error(error) => debug!(%error, opcode, node = header.nodeid, "a request was refused"),
        Failure::Errno(errno) => debug!(errno, opcode, node = header.nodeid, "a request was refused"),
    }
}
