//! What the tests of this crate share: a master that is a table, a worker on temporary directories, a client.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use curvine_blockstore::{TierConfig, TierKind};
use curvine_proto::*;
use curvine_rpc::{
    Address, Auth, Body, Call, Channel, ClusterCell, Connector, Limits, Peer, Reply, Server, Service, crc32c,
};
use curvine_types::limits::PIECE_SIZE;
use curvine_types::{ClusterId, Error, ErrorKind, Result, Secret};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{Worker, WorkerOptions};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const CLUSTER: ClusterId = ClusterId(*b"cluster-of-tests");

/// A deadline that no passing test meets.
pub(crate) fn far() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn auth(role: PeerRole, cluster: ClusterId) -> Auth {
    Auth {
        secret: Secret::new("the secret of tests"),
        role,
        cluster: Arc::new(ClusterCell::new(cluster)),
        hostname: "localhost".to_string(),
        id: 0,
    }
}

/// What a fake master knows and has heard.
#[derive(Default)]
pub(crate) struct Table {
    pub contents: Mutex<HashMap<(u64, u64), ResolveContentReply>>,
    pub mounts: Mutex<HashMap<u32, MountInfo>>,
    pub unwanted: Mutex<Vec<ContentId>>,
    pub inventory: Mutex<Vec<ContentId>>,
    pub changed: Mutex<Vec<ReportChangedRequest>>,
    pub registrations: AtomicU64,
    pub heartbeats: AtomicU64,
    pub resolved: AtomicU64,
    pub stats: Mutex<WorkerStats>,
    /// Heartbeats and registrations are not answered.
    pub silent: AtomicBool,
    /// The next heartbeat is answered with "register again".
    pub forgot: AtomicBool,
    pub lease_ms: AtomicU64,
}

impl Service for Table {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        async move { self.answer(&call).await }.boxed()
    }
}

impl Table {
    async fn answer(&self, call: &Call) -> Result<Reply> {
        let alive = matches!(call.method, Method::RegisterWorker | Method::WorkerHeartbeat);
        if alive && self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let lease_ms = self.lease_ms.load(Ordering::SeqCst);
        match call.method {
            Method::RegisterWorker => {
                self.registrations.fetch_add(1, Ordering::SeqCst);
                let cluster = CLUSTER.0.to_vec().into();
                Ok(Reply::new(&RegisterWorkerReply { worker: 1, cluster, lease_ms }))
            }
            Method::WorkerHeartbeat => {
                let request: WorkerHeartbeatRequest = call.request()?;
                *self.stats.lock() = request.stats.unwrap_or_default();
                self.heartbeats.fetch_add(1, Ordering::SeqCst);
                let register = self.forgot.swap(false, Ordering::SeqCst);
                Ok(Reply::new(&WorkerHeartbeatReply { lease_ms, register, pins_change: 0 }))
            }
            Method::Inventory => {
                let request: InventoryRequest = call.request()?;
                self.inventory.lock().extend(request.contents);
                Ok(Reply::new(&InventoryReply { delete: self.unwanted.lock().clone(), ..Default::default() }))
            }
            Method::ResolveContent => {
                let request: ResolveContentRequest = call.request()?;
                self.resolved.fetch_add(1, Ordering::SeqCst);
                let contents = self.contents.lock();
                let reply = contents.get(&(request.inode, request.generation));
                Ok(Reply::new(reply.ok_or_else(|| Error::new(ErrorKind::VersionMismatch, "another generation"))?))
            }
            Method::ResolveMount => {
                let request: ResolveMountRequest = call.request()?;
                let mount = self.mounts.lock().get(&request.mount).cloned();
                Ok(Reply::new(&ResolveMountReply { mount }))
            }
            Method::ReportChanged => {
                self.changed.lock().push(call.request()?);
                Ok(Reply::new(&Empty {}))
            }
            Method::ListWorkers => Ok(Reply::new(&ListWorkersReply::default())),
            method => Err(Error::new(ErrorKind::NotSupported, "not here").with("method", method.name())),
        }
    }
}

/// A master, a worker, and a directory that is mounted as mount 1.
pub(crate) struct Cluster {
    pub dir: TempDir,
    pub table: Arc<Table>,
    pub master: Server,
    pub worker: Worker,
    pub options: WorkerOptions,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut WorkerOptions)) -> Self {
        let dir = TempDir::new().unwrap();
        let table = Arc::new(Table { lease_ms: AtomicU64::new(30_000), ..Table::default() });
        let master = serve(&table, CLUSTER).await;
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let url = format!("file://{}", store.display());
        table.mounts.lock().insert(1, MountInfo { id: 1, url, change: 1, ..MountInfo::default() });
        let tier =
            TierConfig { dir: dir.path().join("tier"), kind: TierKind::Ssd, quota: None, reserve: 0, watermarks: None };
        let mut options = WorkerOptions {
            masters: vec![master.local_addr().unwrap().to_string()],
            bind: "127.0.0.1:0".to_string(),
            secret: Secret::new("the secret of tests"),
            tiers: vec![tier],
            ufs_timeout: Duration::from_secs(5),
            master_timeout: Duration::from_secs(2),
            ..WorkerOptions::default()
        };
        adjust(&mut options);
        let worker = Worker::start(options.clone()).await.unwrap();
        worker.registered(Duration::from_secs(20)).await.unwrap();
        Self { dir, table, master, worker, options }
    }

    /// Stops the worker in order and starts another one on the same directories.
    pub async fn restart(self) -> Self {
        let Self { dir, table, master, worker, options } = self;
        worker.shutdown(Duration::from_secs(5)).await;
        let worker = Worker::start(options.clone()).await.unwrap();
        worker.registered(Duration::from_secs(20)).await.unwrap();
        Self { dir, table, master, worker, options }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Puts an object into the store and makes it generation 1 of `inode`.
    pub fn object(&self, inode: u64, name: &str, data: &[u8]) {
        let path = self.store().join(name);
        std::fs::write(&path, data).unwrap();
        self.bind(inode, 1, name, &path);
    }

    /// Makes what is in the store now a generation of `inode`.
    pub fn bind(&self, inode: u64, generation: u64, name: &str, path: &Path) {
        let meta = std::fs::metadata(path).unwrap();
        let modified: SystemTime = meta.modified().unwrap();
        let ufs = UfsLayout {
            mount: 1,
            key: name.to_string(),
            size: meta.len(),
            mtime: Some(modified.into()),
            ..UfsLayout::default()
        };
        self.table
            .contents
            .lock()
            .insert((inode, generation), ResolveContentReply { ufs: Some(ufs), mount_change: 1, pinned: false });
    }

    pub async fn client(&self) -> Client {
        Client(self.peer(PeerRole::Client, CLUSTER).await.unwrap())
    }

    /// A channel over the Unix socket.
    pub fn local_channel(&self) -> Channel {
        let address = Address::Unix(self.options.socket.clone().unwrap());
        Channel::new(Connector::new(auth(PeerRole::Client, CLUSTER), Limits::default()), vec![address], 1)
    }

    pub async fn as_master(&self) -> Client {
        Client(self.peer(PeerRole::Master, CLUSTER).await.unwrap())
    }

    pub async fn peer(&self, role: PeerRole, cluster: ClusterId) -> Result<Peer> {
        let address: Address = self.worker.address().to_string().parse().unwrap();
        Connector::new(auth(role, cluster), Limits::default()).connect(&address, far()).await
    }
}

/// A master of `cluster` on a free port.
pub(crate) async fn serve(table: &Arc<Table>, cluster: ClusterId) -> Server {
    let auth = auth(PeerRole::Master, cluster);
    Server::bind(Some("127.0.0.1:0".to_string()), None, auth, Limits::default(), table.clone()).await.unwrap()
}

/// Calls the worker.
pub(crate) struct Client(pub Peer);

pub(crate) fn content(inode: u64, version: u64) -> Option<ContentId> {
    Some(ContentId { inode, generation: 1, version })
}

impl Client {
    pub async fn call<R: Message + Default>(&self, method: Method, request: &impl Message, data: &[u8]) -> Result<R> {
        let body = if data.is_empty() { Body::Empty } else { Body::Bytes(Bytes::copy_from_slice(data)) };
        Ok(self.0.call(method, request, body, far()).await?.0)
    }

    pub async fn place(&self, inode: u64, initial: &[u8]) -> Result<Empty> {
        let mtime = Some(Time::new(1_700_000_000, 0));
        self.call(Method::Place, &PlaceRequest { content: content(inode, 1), epoch: 1, mtime, mount: 0 }, initial).await
    }

    pub async fn write(&self, inode: u64, offset: u64, data: &[u8]) -> Result<WriteReply> {
        let crcs = data.chunks(PIECE_SIZE as usize).map(crc32c).collect();
        let request = WriteRequest { content: content(inode, 1), epoch: 1, offset, crcs, ..WriteRequest::default() };
        self.call(Method::Write, &request, data).await
    }

    /// Reads a range as a client does: checks each piece, trims, follows holes.
    pub async fn read(&self, request: ReadRequest) -> Result<Vec<u8>> {
        let (reply, data): (ReadReply, _) = self.0.call(Method::Read, &request, Body::Empty, far()).await?;
        let data = if reply.hole > 0 { Bytes::from(vec![0; reply.hole as usize]) } else { data };
        if reply.hole == 0 {
            let sums: Vec<u32> = data.chunks(PIECE_SIZE as usize).map(crc32c).collect();
            if sums != reply.crcs {
                return Err(Error::new(ErrorKind::Corrupt, "a piece does not fit its checksum"));
            }
        }
        let end = (request.offset + u64::from(request.length)).min(reply.size);
        if request.offset >= end {
            return Ok(Vec::new());
        }
        assert!(reply.offset % PIECE_SIZE == 0 && reply.offset <= request.offset, "{reply:?}");
        Ok(data[(request.offset - reply.offset) as usize..(end - reply.offset) as usize].to_vec())
    }

    pub async fn read_at(&self, inode: u64, version: u64, offset: u64, length: u64) -> Result<Vec<u8>> {
        let content = content(inode, version);
        self.read(ReadRequest { content, offset, length: length as u32, ..ReadRequest::default() }).await
    }

    pub async fn map(&self, inode: u64, version: u64) -> Result<ContentMapReply> {
        self.call(Method::ContentMap, &ContentMapRequest { content: content(inode, version) }, b"").await
    }
}

/// Bytes that differ from place to place and from seed to seed, never all zero.
pub(crate) fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| ((at / 7).wrapping_mul(31).wrapping_add(seed * 131 + 1) % 251) as u8 + 1).collect()
}
