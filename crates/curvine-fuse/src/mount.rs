//! A mounted file system, from its start to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use curvine_client::FileSystem;
use curvine_fuse_abi::{Connection, InitOptions, MountOptions, MountPoint, Session};
use curvine_types::{Error, ErrorKind, ROOT_INODE, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::backend::Backend;
use crate::backing::Kept;
use crate::events::KernelEvents;
use crate::handover::Table;
use crate::options::FuseOptions;
use crate::server::Server;
use crate::stage::{Inheritance, Mounted, Stage, readers_of, table_limits};

/// How long the cluster may take to say what a subtree's root is, when the mount starts.
const ROOT_TIMEOUT: Duration = Duration::from_secs(30);
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
    /// Writes whose pages had been read again before they were done.
    pub writes_overtaken: u64,
    /// Inodes that are open by passthrough now, opens that were served so, and those that were not, by reason.
    pub passthrough_inodes: usize,
    pub passthrough_opens: u64,
    pub passthrough_refused: Vec<(&'static str, u64)>,
    /// Why there is no passthrough at all.
    pub passthrough_off: Option<&'static str>,
    /// In the hand-over table.
    pub recorded_handles: u64,
    pub recorded_requests: u64,
}

impl Gauges {
    /// Nothing is open, and no request is on its way.
    fn is_idle(&self) -> bool {
        self.open_files == 0 && self.requests_in_flight == 0 && self.kernel_waiting.is_none_or(|waiting| waiting == 0)
    }
}

/// A mount that is being served. Dropping it unmounts without waiting.
pub struct Mount {
    pub(crate) mount_point: MountPoint,
    pub(crate) connection: Arc<Connection>,
    pub(crate) drain_timeout: Duration,
    pub(crate) events: Arc<KernelEvents>,
    pub(crate) served: Arc<dyn Served>,
    pub(crate) readers: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) ended: watch::Receiver<bool>,
    pub(crate) refresher: tokio::task::JoinHandle<()>,
}

/// The server without its type.
pub(crate) trait Served: Send + Sync {
    fn gauges(&self) -> Gauges;
    /// Lets throttled readers go on, so that they see the end.
    fn stop_throttling(&self);
    /// Releases all that the kernel had open. Returns how many that were.
    fn release_all(&self) -> usize;
    /// Readers read no more.
    fn park(&self);
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
            writes_overtaken: self.modes.overtakes.count(),
            passthrough_inodes: self.modes.backings(),
            passthrough_opens: self.passthrough.taken(),
            passthrough_refused: self.passthrough.refused(),
            passthrough_off: self.passthrough.off(),
            recorded_handles: self.table.used().0,
            recorded_requests: self.table.used().1,
            ..Gauges::default()
        }
    }

    fn stop_throttling(&self) {
        self.gate.close();
    }

    fn park(&self) {
        self.parked.store(true, Ordering::Release);
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
        let table = Arc::new(Table::create(table_limits(&options))?);
        table.set_root(root);
        let devices = readers_of(device, &connection, &options)?;
        let stage = Stage::new(
            &options,
            Mounted { devices, negotiated, mount_point, inbox: None },
            table,
            &events,
            Kept::default(),
        )?;
        let mount = stage.serve(options, backend, Inheritance::default(), events).await?;
        guard.armed = false;
        Ok(mount)
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

    /// Stops reading requests and waits for those in flight, up to `limit`. What is left is for a successor: this process must end
    /// without unmounting and without a word to the master. True if nothing is left in flight.
    pub async fn hand_over(&self, limit: Duration) -> bool {
        self.served.park();
        let idle = async {
            while self.served.gauges().requests_in_flight > 0 {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
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
pub(crate) async fn subtree<B: Backend>(backend: &B, fs_path: &str) -> Result<u64> {
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

pub(crate) fn mount_options(options: &FuseOptions) -> MountOptions {
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

pub(crate) fn init_options(options: &FuseOptions) -> InitOptions {
    InitOptions {
        max_write: options.max_write,
        max_readahead: u32::try_from(options.read_ahead).unwrap_or(u32::MAX),
        max_background: options.max_background,
        congestion_threshold: options.congestion_threshold,
        locks: true,
        passthrough: options.passthrough,
        minor_max: options.abi_minor_max,
    }
}

/// Keeps what is answered from memory up to date, until it is aborted.
pub(crate) async fn refresh<B: Backend>(server: Arc<Server<B>>, interval: Duration, patience: Duration) {
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
        } else {
            server.leave_known();
        }
    }
}
