//! From a mounted session to one that is served: in the process that mounted it, or in a successor of the one that served it.
//!
//! Always: what the client tells reaches the kernel from before the client may be asked; what a predecessor left open or
//! unanswered is known here before new requests are read.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use curvine_client::LocalFile;
use curvine_fuse_abi::{Connection, Device, MountPoint, Negotiated};
use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::backend::Backend;
use crate::backing::{Backing, Kept};
use crate::buffers::Buffers;
use crate::events::{Kernel, KernelEvents};
use crate::gate::Gate;
use crate::handles::{Handles, Opened};
use crate::handover::{HandleRecord, Inbox, Kind, Limits, NOBODY, RecordedWay, RequestRecord, Table};
use crate::interrupt::Interrupts;
use crate::io_mode::{IoModes, Way};
use crate::lock_owners::LockOwners;
use crate::memory::Memory;
use crate::mount::{Mount, refresh};
use crate::options::FuseOptions;
use crate::pages::Pages;
use crate::passthrough::Passthrough;
use crate::server::Server;

/// Unused read buffers that are kept.
const SPARE_BUFFERS: usize = 16;
/// The gate lets in four times as many requests as it is told.
const REQUESTS_FACTOR: usize = 4;
/// Owners of locks that a successor learns of, one for each handle through which they lock.
const LOCK_NOTES: usize = 1 << 16;

/// A session that the kernel sends requests to.
pub struct Mounted {
    /// One for each reader, or one for all.
    pub devices: Vec<Device>,
    pub negotiated: Negotiated,
    pub mount_point: MountPoint,
    /// Where requests are kept for a successor, if the kernel does not do that.
    pub inbox: Option<Inbox>,
}

/// What a predecessor left.
pub struct Inheritance<H> {
    /// Handle numbers with what they stand for; files with the client's handles.
    pub handles: Vec<(u64, HandleRecord, Option<H>)>,
    pub requests: Vec<RequestRecord>,
    /// There was a predecessor.
    pub resumes: bool,
}

impl<H> Default for Inheritance<H> {
    fn default() -> Self {
        Self { handles: Vec::new(), requests: Vec::new(), resumes: false }
    }
}

/// A session whose kernel hears what the client tells, and which nobody serves yet.
pub struct Stage {
    mounted: Mounted,
    table: Arc<Table>,
    device: Arc<Device>,
    modes: Arc<IoModes>,
    pages: Arc<Pages>,
    passthrough: Passthrough,
}

/// Places for all that may be open or in flight.
pub fn table_limits(options: &FuseOptions) -> Limits {
    let requests = options.requests_in_flight.saturating_mul(REQUESTS_FACTOR);
    Limits { handles: options.open_files, requests, notes: LOCK_NOTES }
}

/// The descriptors that requests are read from, and what else a fresh session needs of its kernel.
pub fn readers_of(device: Device, connection: &Connection, options: &FuseOptions) -> Result<Vec<Device>> {
    if let Err(error) = connection.set_read_ahead(options.read_ahead) {
        warn!(%error, "the kernel reads ahead less than it should");
    }
    let more = if options.clone_fd { options.threads.max(1) - 1 } else { 0 };
    let mut devices = Vec::with_capacity(more + 1);
    for _ in 0..more {
        devices.push(device.clone_reader()?);
    }
    devices.insert(0, device);
    Ok(devices)
}

impl Stage {
    /// From now on `events` reach the kernel.
    pub fn new(
        options: &FuseOptions,
        mut mounted: Mounted,
        table: Arc<Table>,
        events: &KernelEvents,
        keeper: Kept,
    ) -> Result<Self> {
        if mounted.devices.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "a session without a descriptor"));
        }
        let device = Arc::new(mounted.devices.remove(0));
        let modes = Arc::new(IoModes::default());
        let pages =
            Arc::new(Pages::start(device.clone(), options.invalidations_in_flight, options.invalidate_timeout)?);
        let has_epoch = mounted.negotiated.has_inc_epoch();
        let (modes_too, pages_too) = (modes.clone(), pages.clone());
        let kernel =
            Kernel { device: device.clone(), modes: modes_too, pages: pages_too, has_epoch, root: table.root() };
        if !events.bind(kernel) {
            return Err(Error::new(ErrorKind::Internal, "kernel events serve one mount only"));
        }
        let passthrough = Passthrough::new(&device, &mounted.negotiated, options, keeper);
        Ok(Self { mounted, table, device, modes, pages, passthrough })
    }

    /// Takes what a predecessor had open into the I/O modes: recalls must find it. `kept`: the files that the kernel has, by number.
    pub fn rejoin(&self, handles: &[(u64, HandleRecord)], mut kept: HashMap<i32, OwnedFd>) -> Result<()> {
        for (_, record) in handles {
            let inode = record.inode;
            let Kind::File { flags, session, way, .. } = record.kind else { continue };
            let way = match (self.modes.way(inode), way) {
                (Some(way), _) => way,
                (None, RecordedWay::Plain(mode)) => {
                    Way::Plain(mode, "it was open before this process served the mount")
                }
                (None, RecordedWay::Passthrough { id, content, worker }) => {
                    let missing = || {
                        Error::new(ErrorKind::Corrupt, "a file that the kernel reads and writes is not there")
                            .with("inode", inode)
                            .with("backing", id)
                    };
                    let local = LocalFile { file: kept.remove(&id).ok_or_else(missing)?, content, worker, session };
                    Way::Passthrough(Backing::inherit(&self.device, &self.passthrough.keeper, id, local, false))
                }
            };
            if let Way::Passthrough(backing) = &way
                && flags.write
            {
                backing.set_written();
            }
            self.modes.rejoin(inode, way);
        }
        // Nothing was opened with these, or their registration has just ended.
        for id in kept.into_keys() {
            if let Err(error) = self.device.unregister_backing(id) {
                tracing::debug!(%error, id, "not registered any more");
            }
            if let Some(keeper) = &self.passthrough.keeper.0 {
                keeper.forget(id);
            }
        }
        Ok(())
    }

    /// Serves the session over `backend`.
    pub async fn serve<B: Backend>(
        self,
        options: FuseOptions,
        backend: B,
        inheritance: Inheritance<B::Handle>,
        events: Arc<KernelEvents>,
    ) -> Result<Mount> {
        let Stage { mounted, table, device, modes, pages, passthrough } = self;
        let Mounted { devices, negotiated, mount_point, inbox } = mounted;
        let inbox = inbox.map(Arc::new);
        let left = inbox.as_ref().map(Inbox::left);
        let root = table.root();
        let server = Arc::new(Server {
            backend,
            root,
            max_ttl: options.max_ttl,
            cache_names: negotiated.has_inc_epoch(),
            acls: negotiated.has_acls(),
            root_timeout: options.root_timeout,
            handles: Handles::new(options.open_files, table.clone()),
            modes,
            passthrough,
            locks: LockOwners::new(table.clone()),
            pages,
            memory: Memory::new(root),
            interrupts: Interrupts::new(options.interrupt_grace),
            gate: Gate::new(options.requests_in_flight, options.request_bytes, options.threads.max(1)),
            buffers: Buffers::new(Device::buffer_size(negotiated.max_write), SPARE_BUFFERS),
            served: AtomicU64::new(0),
            table,
            inherited: Mutex::default(),
            opened_by: Mutex::default(),
            inbox,
            parked: AtomicBool::new(false),
        });
        let resumes = inheritance.resumes;
        let (open, unanswered) = (inheritance.handles.len(), inheritance.requests.len());
        take_over(&server, inheritance);
        if !resumes {
            // What is remembered is known before the first question, if the cluster answers.
            server.memory.refresh(&server.backend, root, options.root_timeout).await;
            server.leave_known();
        }
        let refresher = tokio::spawn(refresh(server.clone(), options.statfs_interval, options.root_timeout));
        let devices: Vec<Arc<Device>> = std::iter::once(device).chain(devices.into_iter().map(Arc::new)).collect();
        let begin = (server.clone(), devices.clone(), tokio::runtime::Handle::current());
        if resumes {
            let resuming = tokio::task::spawn_blocking(move || {
                let (server, devices, runtime) = begin;
                let _runtime = runtime.enter();
                match left {
                    Some(left) => Ok(server.resume_inbox(&devices, left)),
                    None => server.resume_requests(&devices[0]),
                }
            });
            let left = resuming
                .await
                .map_err(|error| Error::new(ErrorKind::Internal, "taking over requests panicked").caused_by(error))??;
            info!(open, unanswered, forgotten = left.len(), "took over from a predecessor");
            left.into_iter().for_each(|record| abandon(&server, record));
        }
        let (readers, ended) = start_readers(&server, &devices, options.threads.max(1))?;
        info!(path = %mount_point.path().display(), threads = readers.len(), epoch = negotiated.has_inc_epoch(), "serving");
        Ok(Mount {
            connection: Arc::new(Connection::of(&mount_point)),
            mount_point,
            drain_timeout: options.drain_timeout,
            events,
            served: server,
            readers: Mutex::new(readers),
            ended,
            refresher,
        })
    }
}

/// What was open is open, under the same numbers. The I/O modes have it already.
fn take_over<B: Backend>(server: &Server<B>, inheritance: Inheritance<B::Handle>) {
    let unknown: Vec<u64> =
        inheritance.handles.iter().filter(|open| open.1.request == NOBODY).map(|open| open.0).collect();
    for (fh, record, handle) in inheritance.handles {
        server.opened_by.lock().insert(record.request, fh);
        match handle {
            Some(handle) => server.handles.restore(fh, Opened::File { inode: record.inode, handle, paged: true }),
            None => server.handles.restore(fh, Opened::Directory(Default::default())),
        }
    }
    unknown.into_iter().for_each(|fh| server.close(fh));
    let mut inherited = server.inherited.lock();
    inherited.extend(inheritance.requests.into_iter().map(|record| (record.unique, record)));
}

/// The caller of a request got its answer, or is gone. The kernel does not tell which, and what was asked for may still be made: until
/// that is certain, later changes wait. A lock is given back only if its caller was told that he does not have it; one who got it
/// has it, and one who is gone has closed or will close the file.
fn abandon<B: Backend>(server: &Arc<Server<B>>, record: RequestRecord) {
    let orphans = if record.lock.is_some() { &server.interrupts.giving_back } else { &server.interrupts.orphans };
    orphans.add(record.unique, record.nodes);
    let (server, orphans) = (server.clone(), orphans.clone());
    tokio::spawn(async move {
        for sent in &record.sent {
            let give_back = record.lock.filter(|_| record.given_up);
            server.backend.abandon(record.session, sent.sequence, give_back).await;
        }
        server.table.end_request(record.place);
        orphans.end(record.unique);
    });
}

type Readers = (Vec<JoinHandle<()>>, watch::Receiver<bool>);

/// Starts the readers. The watch turns true when the last one has ended.
fn start_readers<B: Backend>(server: &Arc<Server<B>>, devices: &[Arc<Device>], count: usize) -> Result<Readers> {
    let (sender, ended) = watch::channel(false);
    let (sender, left) = (Arc::new(sender), Arc::new(AtomicUsize::new(count)));
    let runtime = tokio::runtime::Handle::current();
    let mut readers = Vec::with_capacity(count);
    for (number, device) in devices.iter().cycle().take(count).cloned().enumerate() {
        let descriptor = number % devices.len();
        let (server, sender, left, runtime) = (server.clone(), sender.clone(), left.clone(), runtime.clone());
        let reader = std::thread::Builder::new().name(format!("fuse-{number}")).spawn(move || {
            let _runtime = runtime.enter();
            if let Err(error) = server.read_requests(&device, descriptor) {
                warn!(%error, "a reader of the mount gives up");
            }
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let _ = sender.send(true);
            }
        });
        readers.push(reader.map_err(|error| Error::from_io(error, "cannot start a thread that reads requests"))?);
    }
    Ok((readers, ended))
}
