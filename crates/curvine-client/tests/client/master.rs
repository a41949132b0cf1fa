//! A master that is played: a small namespace, leases, opens and the window of results, with faults on demand.
//!
//! Always: a numbered command is applied once; whether one came again is counted, so that tests can tell.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::*;
use curvine_rpc::{Body, Call, Peer, Reply, Service};
use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// What happens to a call instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Refused before anything is done.
    Refuse(ErrorKind),
    /// Done, but the connection breaks before the answer.
    LoseAnswer,
    /// Done, and the answer is held back until `Gate::open`.
    HoldAnswer,
}

#[derive(Clone)]
pub struct Inode {
    pub attr: Attr,
    pub names: BTreeMap<Vec<u8>, u64>,
    pub place: Place,
    pub writers: HashSet<u64>,
}

#[derive(Clone)]
pub enum Place {
    Inline(Vec<u8>),
    Blocks { worker: u64, version: u64, epoch: u64, live: bool },
    Ufs(UfsLayout),
}

#[derive(Default)]
pub struct State {
    pub inodes: HashMap<u64, Inode>,
    pub sessions: HashMap<u64, Vec<Peer>>,
    pub last_session: u64,
    pub last_inode: u64,
    pub lease_number: u64,
    pub leases: HashMap<u64, HashSet<u64>>,
    pub results: HashMap<(u64, u64), Outcome>,
    /// Numbers as they came, repetitions included.
    pub sequences: Vec<u64>,
    pub lowest_unacked: u64,
    /// Of each session and inode, read and write.
    pub opens: HashMap<(u64, u64), (u32, u32)>,
    pub declared: Vec<DeclareRequest>,
    pub faults: VecDeque<(Method, Fault)>,
    pub calls: HashMap<&'static str, u64>,
    pub workers: Vec<WorkerInfo>,
    pub wants_declare: bool,
    pub grants_leases: bool,
    pub locked_by: Option<u64>,
    pub dropped: Vec<u64>,
    pub mutations_at_once: usize,
    pub mutations_peak: usize,
    /// What no client may do.
    pub violations: Vec<String>,
}

pub struct Master {
    pub state: Mutex<State>,
    pub gate: watch::Sender<u64>,
    pub unlocked: Notify,
    pub moved: Notify,
    pub lease_ms: AtomicU64,
    pub incarnation: AtomicU64,
}

const SIZE_INLINE: usize = 16 << 10;

impl Master {
    pub fn new() -> Arc<Self> {
        let mut state = State { grants_leases: true, last_inode: 1, ..State::default() };
        let attr = Attr {
            inode: 1,
            kind: FileKind::Directory as i32,
            mode: 0o755,
            nlink: 2,
            change: 1,
            mtime: Some(Time::new(1, 0)),
            ..Default::default()
        };
        let root = Inode { attr, names: BTreeMap::new(), place: Place::Inline(vec![]), writers: HashSet::new() };
        state.inodes.insert(1, root);
        Arc::new(Self {
            state: Mutex::new(state),
            gate: watch::Sender::new(0),
            unlocked: Notify::new(),
            moved: Notify::new(),
            lease_ms: AtomicU64::new(10_000),
            incarnation: AtomicU64::new(1),
        })
    }

    /// The next call of `method` meets this fault.
    pub fn fault(&self, method: Method, fault: Fault) {
        self.state.lock().faults.push_back((method, fault));
    }

    /// Answers held back go out.
    pub fn open_gate(&self) {
        self.gate.send_modify(|count| *count += 1);
    }

    pub fn calls(&self, method: Method) -> u64 {
        self.state.lock().calls.get(method.name()).copied().unwrap_or_default()
    }

    /// Waits until a condition holds; looked at after each call.
    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let wait = async {
            loop {
                let moved = self.moved.notified();
                if holds(&self.state.lock()) {
                    return;
                }
                moved.await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Adds a file without any client's doing.
    pub fn add_file(&self, name: &str, place: Place, size: u64) -> u64 {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.last_inode += 1;
        let inode = state.last_inode;
        let live = matches!(place, Place::Blocks { live: true, .. });
        let attr = Attr {
            inode,
            kind: FileKind::File as i32,
            mode: 0o644,
            nlink: 1,
            size,
            change: 1,
            generation: 1,
            live,
            mtime: Some(Time::new(1, 0)),
            ..Default::default()
        };
        state.inodes.insert(inode, Inode { attr, names: BTreeMap::new(), place, writers: HashSet::new() });
        let root = state.inodes.get_mut(&1).unwrap();
        root.names.insert(name.into(), inode);
        root.attr.change += 1;
        inode
    }

    /// Recalls from a session as another's change would. The answer.
    pub async fn recall(&self, session: u64, inodes: &[u64]) -> Result<RecallReply> {
        let (peer, number) = {
            let mut state = self.state.lock();
            for inode in inodes {
                state.leases.entry(*inode).or_default().remove(&session);
            }
            state.lease_number += 1;
            (state.sessions[&session].last().unwrap().clone(), state.lease_number)
        };
        let request = RecallRequest { number, inodes: inodes.to_vec() };
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        peer.call(Method::Recall, &request, Body::Empty, deadline).await.map(|(reply, _)| reply)
    }

    /// Forgets a session as if its lease time had passed.
    pub fn expire(&self, session: u64) {
        let mut state = self.state.lock();
        state.sessions.remove(&session);
        state.opens.retain(|(holder, _), _| *holder != session);
        for inode in state.inodes.values_mut() {
            inode.writers.remove(&session);
        }
        for holders in state.leases.values_mut() {
            holders.remove(&session);
        }
    }

    /// Breaks all connections.
    pub fn disconnect(&self) {
        let peers: Vec<Peer> = self.state.lock().sessions.values().flatten().cloned().collect();
        peers.iter().for_each(Peer::close);
    }

    async fn answer(self: Arc<Self>, call: Call) -> Result<Reply> {
        let fault = {
            let mut state = self.state.lock();
            *state.calls.entry(call.method.name()).or_default() += 1;
            match state.faults.front() {
                Some((method, _)) if *method == call.method => state.faults.pop_front().map(|(_, fault)| fault),
                _ => None,
            }
        };
        if let Some(Fault::Refuse(kind)) = fault {
            self.moved.notify_waiters();
            return Err(Error::new(kind, "refused by the test"));
        }
        let peer = call.peer.clone();
        let mut gate = self.gate.subscribe();
        gate.borrow_and_update();
        let answer = self.handle(call).await;
        self.moved.notify_waiters();
        match fault {
            Some(Fault::LoseAnswer) => {
                peer.close();
                futures::future::pending().await
            }
            Some(Fault::HoldAnswer) => {
                let _ = gate.changed().await;
                answer
            }
            _ => answer,
        }
    }

    async fn handle(&self, call: Call) -> Result<Reply> {
        match call.method {
            Method::OpenSession => {
                let mut state = self.state.lock();
                state.last_session += 1;
                let session = state.last_session;
                state.sessions.insert(session, vec![call.peer]);
                Ok(Reply::new(&OpenSessionReply {
                    session,
                    lease_ms: self.lease_ms.load(Ordering::SeqCst),
                    cluster: Bytes::from_static(&[7; 16]),
                    incarnation: self.incarnation.load(Ordering::SeqCst),
                    block_size: 4 << 20,
                }))
            }
            Method::Heartbeat => {
                let request: HeartbeatRequest = call.request()?;
                let mut state = self.state.lock();
                state.session(request.session)?.push(call.peer);
                for inode in &request.dropped_leases {
                    state.leases.entry(*inode).or_default().remove(&request.session);
                }
                state.dropped.extend(request.dropped_leases);
                let incarnation = self.incarnation.load(Ordering::SeqCst);
                let declare = state.wants_declare;
                Ok(Reply::new(&HeartbeatReply { lease_ms: self.lease_ms.load(Ordering::SeqCst), incarnation, declare }))
            }
            Method::Declare => {
                let request: DeclareRequest = call.request()?;
                let mut state = self.state.lock();
                state.session(request.session)?.push(call.peer);
                state.wants_declare = false;
                state.opens.retain(|(session, _), _| *session != request.session);
                for open in &request.opens {
                    state.count(request.session, open.inode, open.write, 1);
                }
                for holders in state.leases.values_mut() {
                    holders.remove(&request.session);
                }
                state.declared.push(request);
                Ok(Reply::new(&Empty {}))
            }
            Method::CloseSession => {
                let request: CloseSessionRequest = call.request()?;
                self.expire(request.session);
                Ok(Reply::new(&Empty {}))
            }
            Method::Mutate => self.mutate(call.request()?).await,
            Method::Lookup => {
                let request: LookupRequest = call.request()?;
                let mut state = self.state.lock();
                state.session(request.session)?;
                let parent = state.inode(request.parent)?.clone();
                let child = parent.names.get(&request.name[..]).copied();
                let mut leases = state.grant(request.session, request.parent);
                let attr = match child {
                    Some(child) => {
                        leases.extend(state.grant(request.session, child));
                        Some(state.inode(child)?.attr)
                    }
                    None => None,
                };
                Ok(Reply::new(&LookupReply { attr, parent: Some(parent.attr), leases }))
            }
            Method::GetAttr => {
                let request: GetAttrRequest = call.request()?;
                let mut state = self.state.lock();
                state.session(request.session)?;
                let leases = state.grant(request.session, request.inode);
                Ok(Reply::new(&GetAttrReply { attr: Some(state.inode(request.inode)?.attr), leases }))
            }
            Method::Open => {
                let request: OpenRequest = call.request()?;
                let mut state = self.state.lock();
                state.session(request.session)?;
                state.count(request.session, request.inode, request.write, 1);
                if request.write {
                    state.inode(request.inode)?.writers.insert(request.session);
                }
                let leases = state.grant(request.session, request.inode);
                let layout = state.layout(request.inode)?;
                Ok(Reply::new(&OpenReply {
                    attr: layout.attr,
                    layout: layout.layout,
                    mode: state.mode(request.session, request.inode) as i32,
                    epoch: layout.epoch,
                    leases,
                }))
            }
            Method::Close => {
                let request: CloseRequest = call.request()?;
                let mut state = self.state.lock();
                for close in &request.closes {
                    state.count(request.session, close.inode, close.write, -1);
                }
                Ok(Reply::new(&Empty {}))
            }
            Method::GetLayout => {
                let request: GetLayoutRequest = call.request()?;
                let mut state = self.state.lock();
                state.session(request.session)?;
                let mode = state.mode(request.session, request.inode) as i32;
                Ok(Reply::new(&GetLayoutReply { mode, ..state.layout(request.inode)? }))
            }
            Method::PlaceForWrite => self.place(call).await,
            Method::TruncateFile => {
                let request: TruncateFileRequest = call.request()?;
                let mut state = self.state.lock();
                let inode = state.inode(request.inode)?;
                inode.place = Place::Inline(vec![0; request.size as usize]);
                inode.attr.size = request.size;
                inode.attr.generation += 1;
                inode.attr.change += 1;
                inode.attr.live = false;
                Ok(Reply::new(&GetAttrReply { attr: Some(inode.attr), leases: vec![] }))
            }
            Method::ListWorkers => Ok(Reply::new(&ListWorkersReply { workers: self.state.lock().workers.clone() })),
            Method::StatFs => Ok(Reply::new(&StatFsReply { capacity: 10, available: 5, inodes: 1, free_files: None })),
            _ => Err(Error::new(ErrorKind::NotSupported, "not played")),
        }
    }

    /// The worker gets the inline bytes from the test's worker itself, which starts empty: only empty files are placed here.
    async fn place(&self, call: Call) -> Result<Reply> {
        let request: PlaceForWriteRequest = call.request()?;
        let (worker, address) = {
            let mut state = self.state.lock();
            state.session(request.session)?;
            let worker = state.workers[0].clone();
            (worker.id, worker.address)
        };
        let (data, content, epoch) = {
            let mut state = self.state.lock();
            let inode = state.inode(request.inode)?;
            let (version, epoch) = match &inode.place {
                Place::Blocks { version, epoch, .. } => (*version, *epoch + 1),
                _ => (1, 1),
            };
            let data = match &inode.place {
                Place::Inline(data) => Some(data.clone()),
                _ => None,
            };
            (data, ContentId { inode: request.inode, generation: inode.attr.generation, version }, epoch)
        };
        let peer = crate::play::connect(&address).await;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        if let Some(data) = data {
            let place = PlaceRequest { content: Some(content), epoch, mtime: None, mount: 0 };
            let body = Body::Bytes(data.into());
            let _: (Empty, Bytes) = peer.call(Method::Place, &place, body, deadline).await?;
        } else {
            let open = OpenContentRequest { content: Some(content), epoch, revoked: 0, mount: 0 };
            let _: (Empty, Bytes) = peer.call(Method::OpenContent, &open, Body::Empty, deadline).await?;
        }
        let mut state = self.state.lock();
        let inode = state.inode(request.inode)?;
        inode.place = Place::Blocks { worker, version: content.version, epoch, live: true };
        inode.attr.live = true;
        inode.attr.change += 1;
        let mode = state.mode(request.session, request.inode) as i32;
        Ok(Reply::new(&GetLayoutReply { mode, ..state.layout(request.inode)? }))
    }

    async fn mutate(&self, request: MutateRequest) -> Result<Reply> {
        let MutateRequest { command, wait, .. } = request;
        let command = command.unwrap();
        {
            let mut state = self.state.lock();
            state.session(command.session)?;
            state.sequences.push(command.sequence);
            state.lowest_unacked = state.lowest_unacked.max(command.lowest_unacked);
            state.mutations_at_once += 1;
            state.mutations_peak = state.mutations_peak.max(state.mutations_at_once);
        }
        self.moved.notify_waiters();
        // Handlers of several commands run at once before one is done.
        tokio::task::yield_now().await;
        if let Some(CommandBody::SetLock(lock)) = &command.body
            && wait
            && lock.r#type() != LockType::Unlock
        {
            loop {
                let unlocked = self.unlocked.notified();
                let free = self.state.lock().locked_by.is_none_or(|owner| owner == lock.owner);
                if free {
                    break;
                }
                unlocked.await;
            }
        }
        let mut state = self.state.lock();
        state.mutations_at_once -= 1;
        let key = (command.session, command.sequence);
        let (outcome, leases) = match state.results.get(&key) {
            Some(outcome) => (outcome.clone(), vec![]),
            None => {
                let (outcome, leases) = match state.apply(command.session, command.body.unwrap()) {
                    Ok(done) => done,
                    Err(error) => (Outcome { error: Some(ErrorBody::from(&error)), ..Default::default() }, vec![]),
                };
                state.results.insert(key, outcome.clone());
                (outcome, leases)
            }
        };
        drop(state);
        self.unlocked.notify_waiters();
        let mode = if outcome.created { DataMode::WriteExclusive } else { DataMode::Unknown };
        Ok(Reply::new(&MutateReply { outcome: Some(outcome), leases, mode: mode as i32 }))
    }
}

impl State {
    pub fn session(&mut self, session: u64) -> Result<&mut Vec<Peer>> {
        self.sessions.get_mut(&session).ok_or_else(|| Error::new(ErrorKind::SessionExpired, "expired in the test"))
    }

    pub fn inode(&mut self, inode: u64) -> Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| Error::new(ErrorKind::Stale, "no such inode"))
    }

    pub fn grant(&mut self, session: u64, inode: u64) -> Vec<Lease> {
        let shared = self.inodes.get(&inode).is_some_and(|inode| inode.writers.iter().any(|writer| *writer != session));
        if !self.grants_leases || shared {
            return vec![];
        }
        self.lease_number += 1;
        self.leases.entry(inode).or_default().insert(session);
        vec![Lease { inode, number: self.lease_number, valid_ms: 0 }]
    }

    fn count(&mut self, session: u64, inode: u64, write: bool, by: i32) {
        let (reads, writes) = self.opens.entry((session, inode)).or_default();
        let count = if write { writes } else { reads };
        match count.checked_add_signed(by) {
            Some(counted) => *count = counted,
            None => self.violations.push(format!("inode {inode} closed without an open")),
        }
    }

    fn mode(&self, session: u64, inode: u64) -> DataMode {
        let writers = &self.inodes[&inode].writers;
        match writers.len() {
            0 => DataMode::ReadShared,
            1 if writers.contains(&session) => DataMode::WriteExclusive,
            _ => DataMode::WriteShared,
        }
    }

    fn layout(&mut self, inode: u64) -> Result<GetLayoutReply> {
        let found = self.inode(inode)?;
        let mut epoch = 0;
        let kind = match &found.place {
            Place::Inline(data) => layout::Kind::Inline(InlineLayout { data: data.clone().into() }),
            Place::Blocks { worker, version, epoch: now, live } => {
                epoch = *now;
                let extent = Extent { first_block: 0, block_count: 0, version: *version, workers: vec![*worker] };
                layout::Kind::Blocks(BlocksLayout { block_size: 4 << 20, extents: vec![extent], live: *live })
            }
            Place::Ufs(ufs) => layout::Kind::Ufs(ufs.clone()),
        };
        let layout = Layout { generation: found.attr.generation, kind: Some(kind) };
        Ok(GetLayoutReply { attr: Some(found.attr), layout: Some(layout), epoch, mode: 0, observed_age_ms: None })
    }

    fn apply(&mut self, session: u64, body: CommandBody) -> Result<(Outcome, Vec<Lease>)> {
        match body {
            CommandBody::Create(create) => {
                let leases = self.grant(session, create.parent);
                self.last_inode += 1;
                let inode = self.last_inode;
                let parent = self.inode(create.parent)?;
                if parent.names.contains_key(&create.name[..]) {
                    return Err(Error::new(ErrorKind::AlreadyExists, "exists"));
                }
                parent.names.insert(create.name.to_vec(), inode);
                parent.attr.change += 1;
                let parent = parent.attr;
                let attr = Attr {
                    inode,
                    kind: create.kind,
                    mode: create.mode,
                    nlink: 1,
                    change: 1,
                    generation: 1,
                    mtime: Some(Time::new(1, 0)),
                    ..Default::default()
                };
                let mut made =
                    Inode { attr, names: BTreeMap::new(), place: Place::Inline(vec![]), writers: HashSet::new() };
                if create.grant_write {
                    made.writers.insert(session);
                    self.count(session, inode, true, 1);
                }
                self.inodes.insert(inode, made);
                let leases = leases.into_iter().chain(self.grant(session, inode)).collect();
                let outcome = Outcome {
                    attr: Some(attr),
                    parent: Some(parent),
                    created: true,
                    child_cookie: 9,
                    ..Default::default()
                };
                Ok((outcome, leases))
            }
            CommandBody::Unlink(unlink) => {
                let parent = self.inode(unlink.parent)?;
                let Some(inode) = parent.names.remove(&unlink.name[..]) else {
                    return Err(Error::new(ErrorKind::NotFound, "no such name"));
                };
                parent.attr.change += 1;
                let parent = Some(parent.attr);
                let target = self.inode(inode)?;
                target.attr.nlink -= 1;
                target.attr.change += 1;
                Ok((Outcome { parent, target: Some(target.attr), ..Default::default() }, vec![]))
            }
            CommandBody::WriteInline(write) => {
                let found = self.inode(write.inode)?;
                let Place::Inline(data) = &mut found.place else {
                    return Err(Error::new(ErrorKind::Conflict, "not inline"));
                };
                let offset = if write.append { data.len() } else { write.offset as usize };
                let end = offset + write.data.len();
                if end > SIZE_INLINE {
                    return Err(Error::new(ErrorKind::FileTooLarge, "too large"));
                }
                data.resize(data.len().max(end), 0);
                data[offset..end].copy_from_slice(&write.data);
                found.attr.size = data.len() as u64;
                found.attr.change += 1;
                Ok((Outcome { attr: Some(found.attr), id: offset as u64, ..Default::default() }, vec![]))
            }
            CommandBody::SetAttr(set) => {
                let found = self.inode(set.inode)?;
                found.attr.mode = set.mode.unwrap_or(found.attr.mode);
                found.attr.change += 1;
                Ok((Outcome { attr: Some(found.attr), ..Default::default() }, vec![]))
            }
            CommandBody::SetLock(lock) => {
                match lock.r#type() {
                    LockType::Unlock => {
                        if self.locked_by == Some(lock.owner) {
                            self.locked_by = None;
                        }
                    }
                    _ if self.locked_by.is_some_and(|owner| owner != lock.owner) => {
                        return Err(Error::new(ErrorKind::WouldBlock, "locked"));
                    }
                    _ => self.locked_by = Some(lock.owner),
                }
                Ok((Outcome::default(), vec![]))
            }
            _ => Err(Error::new(ErrorKind::NotSupported, "not played")),
        }
    }
}

impl Service for Master {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        self.answer(call).boxed()
    }
}
