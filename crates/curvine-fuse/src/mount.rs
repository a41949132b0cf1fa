//! A mounted file system, from its start to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use curvine_client::FileSystem;
use curvine_fuse_abi::{Connection, Device, InitOptions, MountOptions, MountPoint, Session};
use curvine_types::{Error, ErrorKind, ROOT_INODE, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::backend::Backend;
use crate::buffers::Buffers;
use crate::events::{Kernel, KernelEvents};
use crate::gate::Gate;
use crate::handles::Handles;
use crate::interrupt::Interrupts;
use crate::io_mode::IoModes;
use crate::lock_owners::LockOwners;
use crate::memory::Memory;
use crate::options::FuseOptions;
use crate::pages::Pages;
use crate::passthrough::Passthrough;
use crate::server::Server;

/// How long the cluster may take to say what a subtree's root is, when the mount starts.
const ROOT_TIMEOUT: Duration = Duration::from_secs(30);
/// Unused read buffers that are kept.
const SPARE_BUFFERS: usize = 16;
/// How often unmounting looks whether the mount is still in use.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// How long a cluster that refused to answer is left alone.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);
/// How long aborted readers may take to return.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Current values of what is limited, for metrics and reports.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub requests_in_flight: usize,
    pub request_bytes: usize,
    /// Of those in flight, the ones that wait for the cluster and can be interrupted.
    pub requests_waiting: usize,
    /// Requests that the kernel holds, read or not; `None` if it cannot be told.
    pub kernel_waiting: Option<u64>,
    /// Changes that go on although their callers were interrupted.
    pub requests_orphaned: usize,
    pub open_files: usize,
    pub open_inodes: usize,
    /// Open inodes through which record locks may be held.
    pub locked_inodes: usize,
    pub requests_served: u64,
    pub interrupts: u64,
    pub notifications: u64,
    pub pages_waiting: usize,
    pub pages_late: u64,
    /// Inodes that are open by passthrough now, opens that were served so, and those that were not, by reason.
    pub passthrough_inodes: usize,
    pub passthrough_opens: u64,
    pub passthrough_refused: Vec<(&'static str, u64)>,
    /// Why there is no passthrough at all.
    pub passthrough_off: Option<&'static str>,
}

impl Gauges {
    /// Nothing is open, and no request is on its way.
    fn is_idle(&self) -> bool {
        self.open_files == 0 && self.requests_in_flight == 0 && self.kernel_waiting.is_none_or(|waiting| waiting == 0)
    }
}

/// A mount that is being served. Dropping it unmounts without waiting.
pub struct Mount {
    mount_point: MountPoint,
    connection: Connection,
    drain_timeout: Duration,
    events: Arc<KernelEvents>,
    served: Arc<dyn Served>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    ended: watch::Receiver<bool>,
    refresher: tokio::task::JoinHandle<()>,
}

/// The server without its type.
trait Served: Send + Sync {
    fn gauges(&self) -> Gauges;
    /// Lets throttled readers go on, so that they see the end.
    fn stop_throttling(&self);
    /// Releases all that the kernel had open. Returns how many that were.
    fn release_all(&self) -> usize;
}

impl<B: Backend> Served for Server<B> {
    fn gauges(&self) -> Gauges {
        let (requests_in_flight, request_bytes) = self.gate.load();
        Gauges {
            requests_in_flight,
            request_bytes,
            requests_waiting: self.interrupts.waiting(),
            requests_orphaned: self.interrupts.orphans.len(),
            open_files: self.handles.len(),
            open_inodes: self.modes.len(),
            locked_inodes: self.locks.len(),
            requests_served: self.served.load(Ordering::Relaxed),
            interrupts: self.interrupts.seen(),
            pages_waiting: self.pages.waiting(),
            pages_late: self.pages.late(),
            passthrough_inodes: self.modes.backings(),
            passthrough_opens: self.passthrough.taken(),
            passthrough_refused: self.passthrough.refused(),
            passthrough_off: self.passthrough.off(),
            ..Gauges::default()
        }
    }

    fn stop_throttling(&self) {
        self.gate.close();
    }

    fn release_all(&self) -> usize {
        let opened = self.handles.drain();
        opened.iter().for_each(|opened| self.release_opened(opened));
        opened.len()
    }
}

impl Mount {
    /// Recovers the mount point, mounts and serves. `events` is what `fs` was connected with. Must be called within a
    /// tokio runtime with several threads, which then runs what cannot be answered at once.
    pub async fn start(options: FuseOptions, fs: FileSystem, events: Arc<KernelEvents>, path: &Path) -> Result<Mount> {
        Self::start_with(options, fs, events, path).await
    }

    /// As `start`, over anything that can be mounted.
    pub async fn start_with<B: Backend>(
        options: FuseOptions,
        backend: B,
        events: Arc<KernelEvents>,
        path: &Path,
    ) -> Result<Mount> {
        let root = subtree(&backend, &options.fs_path).await?;
        let session = {
            let (path, mount, init) = (path.to_path_buf(), mount_options(&options), init_options(&options));
            // Looking at a mount point that somebody hangs on takes time.
            let mounting = tokio::task::spawn_blocking(move || Session::mount(&path, &mount, &init));
            mounting.await.map_err(|error| Error::new(ErrorKind::Internal, "mounting panicked").caused_by(error))??
        };
        let Session { device, negotiated, mount_point, connection } = session;
        // From here on a failure must not leave a mount behind that nobody serves.
        let mut guard = Unmount { mount_point: mount_point.clone(), armed: true };
        if let Err(error) = connection.set_read_ahead(options.read_ahead) {
            warn!(%error, "the kernel reads ahead less than it should");
        }
        let device = Arc::new(device);
        let passthrough = Passthrough::new(&device, &negotiated, &options);
        let modes = Arc::new(IoModes::default());
        let pages =
            Arc::new(Pages::start(device.clone(), options.invalidations_in_flight, options.invalidate_timeout)?);
        let server = Arc::new(Server {
            backend,
            root,
            max_ttl: options.max_ttl,
            cache_names: negotiated.has_inc_epoch(),
            root_timeout: options.root_timeout,
            handles: Handles::new(options.open_files),
            modes: modes.clone(),
            passthrough,
            locks: LockOwners::default(),
            pages: pages.clone(),
            memory: Memory::new(root),
            interrupts: Interrupts::new(options.interrupt_grace),
            gate: Gate::new(options.requests_in_flight, options.request_bytes, options.threads.max(1)),
            buffers: Buffers::new(Device::buffer_size(negotiated.max_write), SPARE_BUFFERS),
            served: AtomicU64::new(0),
        });
        let kernel = Kernel { device: device.clone(), modes, pages, has_epoch: negotiated.has_inc_epoch(), root };
        if !events.bind(kernel) {
            return Err(Error::new(ErrorKind::Internal, "kernel events serve one mount only"));
        }
        // What is remembered is known before the first question, if the cluster answers.
        server.memory.refresh(&server.backend, root, options.root_timeout).await;
        let refresher = tokio::spawn(refresh(server.clone(), options.statfs_interval, options.root_timeout));
        let (readers, ended) = start_readers(&server, &device, &options)?;
        guard.armed = false;
        info!(path = %mount_point.path().display(), threads = readers.len(), epoch = negotiated.has_inc_epoch(), "serving");
        Ok(Mount {
            mount_point,
            connection,
            drain_timeout: options.drain_timeout,
            events,
            served: server,
            readers: Mutex::new(readers),
            ended,
            refresher,
        })
    }

    /// Until the mount has ended: by `unmount`, or because somebody else unmounted it.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        // An error means that the last reader is gone.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Detaches the mount at once, waits for what is in flight and for open files up to the drain timeout, then ends the
    /// session and releases what was open.
    pub async fn unmount(&self) -> Result<()> {
        self.mount_point.detach()?;
        let unused = async {
            tokio::select! {
                () = self.wait() => {}
                () = self.until_idle() => {}
            }
        };
        if tokio::time::timeout(self.drain_timeout, unused).await.is_err() {
            let gauges = self.gauges();
            warn!(
                open = gauges.open_files,
                in_flight = gauges.requests_in_flight,
                "still in use; ending it all the same"
            );
        }
        if !*self.ended.borrow() {
            self.served.stop_throttling();
            if !self.connection.abort() {
                warn!("the connection cannot be aborted from here; it ends with this process");
            } else if tokio::time::timeout(ABORT_TIMEOUT, self.wait()).await.is_err() {
                warn!("readers of the aborted connection do not return");
            }
        }
        self.refresher.abort();
        if *self.ended.borrow() {
            for reader in std::mem::take(&mut *self.readers.lock()) {
                // It has said that it ends.
                let _ = reader.join();
            }
        }
        let released = self.served.release_all();
        info!(path = %self.path().display(), released, "unmounted");
        Ok(())
    }

    /// Until nothing is open and nothing in flight. Somebody's working directory may still hold the mount.
    async fn until_idle(&self) {
        // The kernel does not tell; this is a poll of its counters at shutdown.
        while !self.gauges().is_idle() {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// Current values.
    pub fn gauges(&self) -> Gauges {
        let kernel_waiting = self.connection.waiting();
        Gauges { notifications: self.events.sent(), kernel_waiting, ..self.served.gauges() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.refresher.abort();
        if !*self.ended.borrow()
            && let Err(error) = self.mount_point.detach()
        {
            warn!(%error, "cannot unmount");
        }
    }
}

/// Unmounts when it is dropped, unless it is told that somebody serves the mount.
struct Unmount {
    mount_point: MountPoint,
    armed: bool,
}

impl Drop for Unmount {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.mount_point.force()
        {
            warn!(%error, "cannot unmount");
        }
    }
}

/// The inode that becomes the root of the mount.
async fn subtree<B: Backend>(backend: &B, fs_path: &str) -> Result<u64> {
    let names: PathBuf = Path::new(fs_path).components().collect();
    if names == Path::new("/") || names == Path::new("") {
        return Ok(ROOT_INODE);
    }
    let found = tokio::time::timeout(ROOT_TIMEOUT, backend.resolve(fs_path.as_bytes())).await;
    let entry = found.map_err(|_| Error::new(ErrorKind::TimedOut, "the cluster does not answer"))?;
    let entry = entry.map_err(|error| error.with("fs_path", fs_path))?;
    if entry.attr.kind() != curvine_proto::FileKind::Directory {
        return Err(Error::new(ErrorKind::NotADirectory, "only a directory can be mounted").with("fs_path", fs_path));
    }
    Ok(entry.attr.inode)
}

fn mount_options(options: &FuseOptions) -> MountOptions {
    MountOptions {
        allow_other: options.allow_other,
        default_permissions: true,
        read_only: options.read_only,
        nosuid: options.nosuid,
        nodev: options.nodev,
        noexec: options.noexec,
        max_read: options.max_write,
    }
}

fn init_options(options: &FuseOptions) -> InitOptions {
    InitOptions {
        max_write: options.max_write,
        max_readahead: u32::try_from(options.read_ahead).unwrap_or(u32::MAX),
        max_background: options.max_background,
        congestion_threshold: options.congestion_threshold,
        locks: true,
        passthrough: options.passthrough,
    }
}

/// Keeps what is answered from memory up to date, until it is aborted.
async fn refresh<B: Backend>(server: Arc<Server<B>>, interval: Duration, patience: Duration) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // An answer that did not come is asked for again at once, so that a cluster that comes back is believed again.
        tokio::select! {
            _ = ticks.tick() => {}
            () = server.memory.is_stale() => {}
        }
        // Longer than those who ask have patience for, so that a slow cluster is heard, too.
        if !server.memory.refresh(&server.backend, server.root, patience.max(interval)).await {
            tokio::time::sleep(REFRESH_PAUSE).await;
        }
    }
}

type Readers = (Vec<JoinHandle<()>>, watch::Receiver<bool>);

/// Starts the readers. The watch turns true when the last one has ended.
fn start_readers<B: Backend>(server: &Arc<Server<B>>, device: &Arc<Device>, options: &FuseOptions) -> Result<Readers> {
    let count = options.threads.max(1);
    let (sender, ended) = watch::channel(false);
    let (sender, left) = (Arc::new(sender), Arc::new(AtomicUsize::new(count)));
    let runtime = tokio::runtime::Handle::current();
    let mut readers = Vec::with_capacity(count);
    for number in 0..count {
        let device = if number > 0 && options.clone_fd { Arc::new(device.clone_reader()?) } else { device.clone() };
        let (server, sender, left, runtime) = (server.clone(), sender.clone(), left.clone(), runtime.clone());
        let reader = std::thread::Builder::new().name(format!("fuse-{number}")).spawn(move || {
            let _runtime = runtime.enter();
            if let Err(error) = server.read_requests(&device) {
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
