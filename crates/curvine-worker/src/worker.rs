//! A running worker: what it is made of, how it starts and stops.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use curvine_blockstore::{BlockStore, Options};
use curvine_proto::PeerRole;
use curvine_rpc::{Address, Auth, Budget, Channel, ClusterCell, Connector, Limits, Server};
use curvine_types::limits::{CHUNK_SIZE, IO_MAX};
use curvine_types::{ClusterId, Error, ErrorKind, Result, WorkerId};
use curvine_ufs::Policy;
use curvine_web::Source;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::copies::Copies;
use crate::dirty::Dirty;
use crate::disk::DiskPool;
use crate::engine::{ByteBudget, Engine, Lease};
use crate::fetch::{Fetcher, RUN_MAX};
use crate::membership::{self, Announcement};
use crate::metrics::WorkerPage;
use crate::options::WorkerOptions;
use crate::pins::Pins;
use crate::service::WorkerService;
use crate::source::Sources;
use crate::stats::Stats;
use crate::store_change::Orders;
use crate::store_object::UPLOAD_MEMORY;

/// Between two rounds of the block store's upkeep.
const UPKEEP: Duration = Duration::from_secs(2);

/// A running worker. Dropping it stops it at once; `shutdown` stops it in order.
pub struct Worker {
    server: Server,
    address: SocketAddr,
    pub(crate) service: Arc<WorkerService>,
    pub(crate) master: Channel,
    pub(crate) registered: watch::Receiver<WorkerId>,
    failed: watch::Receiver<Option<(ErrorKind, String)>>,
    tasks: Tasks,
    limits: (usize, usize),
}

/// Current values of what has a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerGauges {
    pub connections: u64,
    pub requests: u64,
    pub disk_busy: u64,
    pub reply_bytes: u64,
    pub fetch_bytes: u64,
    pub chunks_in_flight: u64,
    pub open_files: u64,
    pub contents: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub ufs_requests: u64,
    pub ufs_bytes: u64,
    pub checksum_errors: u64,
    pub evictions: u64,
}

/// Tasks that end with the worker.
#[derive(Default)]
struct Tasks(Mutex<Vec<JoinHandle<()>>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.lock().iter().for_each(JoinHandle::abort);
    }
}

impl Worker {
    /// Opens the tier directories, binds the sockets and begins to register with the master. Returns when the sockets are
    /// bound. New directories are opened only after a master has told which cluster this is; until then every request is
    /// answered `Unavailable`.
    pub async fn start(options: WorkerOptions) -> Result<Worker> {
        if options.masters.is_empty() {
            return Err(Error::new(ErrorKind::Config, "a worker needs the address of at least one master"));
        }
        for tier in &options.tiers {
            std::fs::create_dir_all(&tier.dir).map_err(|error| {
                Error::from_io(error, "cannot make a data directory").with("file", tier.dir.display())
            })?;
        }
        let known = if options.ask_cluster_first { None } else { BlockStore::discover(&options.tiers) };
        let cell = Arc::new(ClusterCell::new(known.unwrap_or_default()));
        let auth = Auth {
            secret: options.secret.clone(),
            role: PeerRole::Worker,
            cluster: cell.clone(),
            hostname: options.hostname.clone(),
            id: 0,
        };
        let limits = Limits {
            inflight_bytes: Budget::new(usize::try_from(options.memory_limit / 4).unwrap_or(usize::MAX)),
            ..Limits::default()
        };
        let addresses: Vec<Address> = options.masters.iter().map(|text| text.parse()).collect::<Result<_>>()?;
        let connector = Connector::new(auth.clone(), limits.clone());
        let master = Channel::new(connector.clone(), addresses, 1);

        let service = Arc::new(WorkerService { engine: OnceLock::new(), read_ahead_max: options.read_ahead_max });
        if let Some(cluster) = known {
            // Early, so that what is wrong with them is told to who starts the worker.
            let engine = open_engine(options.clone(), cluster, master.clone(), connector.clone()).await?;
            let _ = service.engine.set(engine);
        }
        let server =
            Server::bind(Some(options.bind.clone()), options.socket.clone(), auth, limits, service.clone()).await?;
        let address = server
            .local_addr()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the server does not know where it listens"))?;
        let (registered_tx, registered) = watch::channel(0);
        let (failed_tx, failed) = watch::channel(None);
        let limits = (options.open_files, options.ufs_concurrency);
        let tasks = Tasks::default();
        let worker = Worker { server, address, service, master: master.clone(), registered, failed, tasks, limits };
        worker.spawn(join(
            options,
            address,
            worker.service.clone(),
            (master, connector),
            cell,
            registered_tx,
            failed_tx,
        ));
        worker.spawn(keep_up(worker.service.clone()));
        worker.spawn(count_dirty(worker.service.clone()));
        Ok(worker)
    }

    /// Where the RPC service listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the master has taken this worker and its inventory; returns the worker's number.
    pub async fn registered(&self, timeout: Duration) -> Result<WorkerId> {
        let mut registered = self.registered.clone();
        let mut failed = self.failed.clone();
        let waited = tokio::time::timeout(timeout, async {
            tokio::select! {
                // Who fails says why before he closes either channel.
                biased;
                Ok(why) = failed.wait_for(Option::is_some) => Err(failure_of(&why)),
                number = registered.wait_for(|number| *number != 0) => {
                    number.map(|number| *number).map_err(|_| failure_of(&self.failed.borrow()))
                }
            }
        });
        waited
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "the master has not taken this worker in time")))
    }

    /// Waits until the worker cannot go on, and says why. It never returns while all is well.
    pub async fn failure(&self) -> Error {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => failure_of(&why),
            Err(_) => std::future::pending().await,
        }
    }

    /// What this worker tells over HTTP.
    pub fn page(&self) -> Arc<dyn Source> {
        let (open_files_limit, ufs_concurrency) = self.limits;
        let service = Arc::downgrade(&self.service);
        Arc::new(WorkerPage { service, server: self.server.watch(), open_files_limit, ufs_concurrency })
    }

    pub fn gauges(&self) -> WorkerGauges {
        let mut gauges = WorkerGauges {
            connections: self.server.connections() as u64,
            requests: self.server.inflight() as u64,
            ..WorkerGauges::default()
        };
        if let Some(engine) = self.service.engine.get() {
            let store = engine.store.gauges();
            let stats = engine.worker_stats();
            gauges.disk_busy = engine.disk.busy() as u64;
            gauges.reply_bytes = engine.replies.used().0;
            gauges.fetch_bytes = engine.fetcher.budget_used().0;
            gauges.chunks_in_flight = engine.fetcher.in_flight() as u64;
            gauges.open_files = store.open_files;
            gauges.contents = store.contents;
            gauges.cache_hits = stats.cache_hits;
            gauges.cache_misses = stats.cache_misses;
            gauges.ufs_requests = stats.ufs_requests;
            gauges.ufs_bytes = stats.ufs_bytes;
            gauges.checksum_errors = store.checksum_errors;
            gauges.evictions = store.evictions;
        }
        gauges
    }

    /// Bytes that are on no other disk and in no store: what was written to Curvine itself and placed here.
    pub fn unique_bytes(&self) -> u64 {
        let tiers = self.service.engine.get().map(|engine| engine.store.tiers()).unwrap_or_default();
        tiers.iter().map(|tier| tier.used.saturating_sub(tier.clean)).sum()
    }

    /// Stops taking requests, lets those in hand finish for up to `grace`, and makes everything durable.
    pub async fn shutdown(self, grace: Duration) {
        self.server.shutdown(grace).await;
        self.tasks.0.lock().iter().for_each(JoinHandle::abort);
        if let Some(engine) = self.service.engine.get() {
            let store = engine.store.clone();
            match tokio::task::spawn_blocking(move || store.close()).await {
                Ok(Ok(())) => tracing::info!("worker stopped, all data is on the disks"),
                Ok(Err(error)) => tracing::error!(%error, "the worker could not bring all data to the disks"),
                Err(error) => tracing::error!(%error, "the worker could not close its store"),
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.0.lock().push(tokio::spawn(task));
    }
}

/// Why the worker cannot go on, once it is known.
fn failure_of(why: &Option<(ErrorKind, String)>) -> Error {
    let (kind, message) = why.clone().unwrap_or((ErrorKind::Internal, "the worker stopped".to_string()));
    Error::new(kind, message)
}

/// Learns the cluster, opens the directories if that is still to do, and stays registered.
async fn join(
    options: WorkerOptions,
    address: SocketAddr,
    service: Arc<WorkerService>,
    (master, connector): (Channel, Connector),
    cell: Arc<ClusterCell>,
    registered: watch::Sender<WorkerId>,
    failed: watch::Sender<Option<(ErrorKind, String)>>,
) {
    let announcement = Announcement {
        hostname: options.hostname.clone(),
        rpc_port: address.port(),
        web_port: options.web_port,
        socket: options.socket.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        node: options.node.clone(),
        timeout: options.master_timeout,
    };
    if service.engine.get().is_none() {
        let cluster = membership::learn_cluster(&master, &cell, options.master_timeout).await;
        match open_engine(options, cluster, master.clone(), connector).await {
            Ok(engine) => {
                let _ = service.engine.set(engine);
            }
            Err(error) => {
                tracing::error!(%error, "cannot open the data directories");
                failed.send_replace(Some((error.kind(), error.to_string())));
                return;
            }
        }
    }
    if let Some(engine) = service.engine.get().cloned() {
        let error = membership::stay(engine, master, announcement, &registered).await;
        tracing::error!(%error, "the worker does not belong to the master's cluster");
        failed.send_replace(Some((error.kind(), error.to_string())));
    }
}

/// Opens the block store on its cluster's directories and puts the parts together.
async fn open_engine(
    options: WorkerOptions,
    cluster: ClusterId,
    master: Channel,
    connector: Connector,
) -> Result<Arc<Engine>> {
    let tiers = options.tiers.clone();
    let store_options =
        Options { open_files: options.open_files, probe_after: options.probe_after, ..Options::default() };
    let opening = tokio::task::spawn_blocking(move || BlockStore::open(cluster, &tiers, store_options));
    let store = opening
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "opening the data directories panicked").caused_by(error))??;
    let store = Arc::new(store);
    let dirty = match options.dirty_limit {
        0 => store.tiers().iter().map(|tier| tier.capacity).sum::<u64>() / 2,
        limit => limit,
    };
    let dirty = Dirty::new(dirty, options.dirty_wait);
    let disk = Arc::new(DiskPool::new(options.disk_threads));
    let stats = Arc::new(Stats::default());
    let policy = Policy {
        timeout: options.ufs_timeout,
        attempt_timeout: options.ufs_timeout / 2,
        concurrency: options.ufs_concurrency,
        ..Policy::default()
    };
    let copies =
        Copies::new(master.clone(), connector, options.copy_max_size, options.copy_percent, options.ufs_timeout);
    let sources = Arc::new(Sources::new(master, policy, options.master_timeout));
    let told = Arc::downgrade(&sources);
    store.on_evict(Box::new(move |key, bytes| {
        if let Some(sources) = told.upgrade() {
            sources.per_mount.of(sources.mount_of(key)).evicted(bytes);
        }
    }));
    // Of the memory limit a quarter each is for received requests and for replies, half for what comes from and goes to stores.
    let fetches = ByteBudget::new(options.memory_limit / 8 * 3, RUN_MAX * CHUNK_SIZE);
    let uploads = ByteBudget::new(options.memory_limit / 8, UPLOAD_MEMORY);
    let fetcher = Arc::new(Fetcher::new(
        store.clone(),
        disk.clone(),
        sources.clone(),
        stats.clone(),
        fetches,
        options.ufs_timeout,
    ));
    let replies = ByteBudget::new(options.memory_limit / 4, 2 * IO_MAX as u64);
    Ok(Arc::new(Engine {
        store,
        disk,
        sources,
        copies,
        fetcher,
        stats,
        lease: Lease::default(),
        replies,
        last_tiers: Mutex::default(),
        orders: Orders::default(),
        pins: Pins::default(),
        uploads,
        dirty,
        leaving: Default::default(),
    }))
}

/// What waits for its upload, counted anew again and again.
async fn count_dirty(service: Arc<WorkerService>) {
    loop {
        tokio::time::sleep(crate::dirty::LOOK_EVERY).await;
        let Some(engine) = service.engine.get().filter(|engine| !engine.dirty.is_empty()) else { continue };
        let engine = engine.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || engine.dirty.look(&engine.store)).await {
            tracing::error!(%error, "counting what waits for its upload failed");
        }
    }
}

/// The block store's upkeep, for as long as the worker runs.
async fn keep_up(service: Arc<WorkerService>) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(engine) = service.engine.get() else { continue };
        let store = engine.store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || store.maintain()).await {
            tracing::error!(%error, "upkeep of the data directories panicked");
        }
    }
}
