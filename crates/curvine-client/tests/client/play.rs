//! A cluster that is played, and a client of it that remembers what the kernel would have been told.

use std::sync::Arc;
use std::time::Duration;

use curvine_client::{CacheEvents, ClientOptions, FileSystem};
use curvine_proto::{PeerRole, WorkerInfo};
use curvine_rpc::{Address, Auth, ClusterCell, Connector, Limits, Peer, Server, Service};
use curvine_types::{Name, Secret};
use parking_lot::{Condvar, Mutex};

use crate::master::Master;
use crate::worker::Worker;

pub struct Cluster {
    pub master: Arc<Master>,
    pub workers: Vec<Arc<Worker>>,
    pub master_address: String,
    servers: Vec<Option<Server>>,
}

/// What the kernel was told, and a switch that makes it slow.
#[derive(Default)]
pub struct Kernel {
    pub dirs: Mutex<Vec<u64>>,
    pub inodes: Mutex<Vec<u64>>,
    blocked: Mutex<bool>,
    freed: Condvar,
}

impl Kernel {
    /// Notifications of inodes do not return until the guard is dropped.
    pub fn block(self: &Arc<Self>) -> Blocked {
        *self.blocked.lock() = true;
        Blocked(self.clone())
    }

    /// Waits until names were told.
    pub async fn names_told(&self) {
        let told = async {
            while self.dirs.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.expect("the kernel is told of names");
    }

    pub fn told(&self) -> (Vec<u64>, Vec<u64>) {
        (std::mem::take(&mut *self.dirs.lock()), std::mem::take(&mut *self.inodes.lock()))
    }
}

pub struct Blocked(Arc<Kernel>);

impl Drop for Blocked {
    fn drop(&mut self) {
        *self.0.blocked.lock() = false;
        self.0.freed.notify_all();
    }
}

impl CacheEvents for Kernel {
    fn names_changed(&self, dirs: &[u64]) {
        self.dirs.lock().extend(dirs);
    }

    fn inodes_changed(&self, inodes: &[u64]) {
        let mut blocked = self.blocked.lock();
        while *blocked {
            self.freed.wait(&mut blocked);
        }
        self.inodes.lock().extend(inodes);
    }
}

fn auth(role: PeerRole) -> Auth {
    Auth { secret: secret(), role, cluster: Arc::new(ClusterCell::default()), hostname: "played".into(), id: 0 }
}

fn secret() -> Secret {
    Secret::new("a secret of the test")
}

async fn serve(address: &str, role: PeerRole, service: Arc<dyn Service>) -> (Server, String) {
    let server = Server::bind(Some(address.into()), None, auth(role), Limits::default(), service).await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    (server, address)
}

/// For the master's calls to workers.
pub async fn connect(address: &str) -> Peer {
    let connector = Connector::new(auth(PeerRole::Master), Limits::default());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    connector.connect(&address.parse::<Address>().unwrap(), deadline).await.unwrap()
}

impl Cluster {
    pub async fn start(workers: usize) -> Self {
        let master = Master::new();
        let (server, master_address) = serve("127.0.0.1:0", PeerRole::Master, master.clone()).await;
        let mut cluster = Self { master, workers: vec![], master_address, servers: vec![Some(server)] };
        for id in 1..=workers as u64 {
            let worker = Worker::new();
            let (server, address) = serve("127.0.0.1:0", PeerRole::Worker, worker.clone()).await;
            let info = WorkerInfo { id, hostname: format!("worker{id}"), address, live: true, ..Default::default() };
            cluster.master.state.lock().workers.push(info);
            cluster.workers.push(worker);
            cluster.servers.push(Some(server));
        }
        cluster
    }

    /// Ends a server at once; 0 is the master.
    pub async fn stop(&mut self, index: usize) {
        if let Some(server) = self.servers[index].take() {
            server.shutdown(Duration::ZERO).await;
        }
    }

    /// The master comes back at its address.
    pub async fn restart_master(&mut self) {
        self.stop(0).await;
        let (server, _) = serve(&self.master_address, PeerRole::Master, self.master.clone()).await;
        self.servers[0] = Some(server);
    }

    pub fn options(&self) -> ClientOptions {
        ClientOptions {
            secret: secret(),
            rpc_timeout: Duration::from_secs(10),
            data_timeout: Duration::from_secs(10),
            ..ClientOptions::new(vec![self.master_address.clone()], "test")
        }
    }

    pub async fn client(&self) -> (FileSystem, Arc<Kernel>) {
        self.client_with(|_| {}).await
    }

    pub async fn client_with(&self, set: impl FnOnce(&mut ClientOptions)) -> (FileSystem, Arc<Kernel>) {
        let kernel = Arc::new(Kernel::default());
        let mut options = self.options();
        set(&mut options);
        (FileSystem::connect(options, kernel.clone()).await.unwrap(), kernel)
    }

    /// The newest session.
    pub fn session(&self) -> u64 {
        self.master.state.lock().last_session
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// Bytes that differ from place to place.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}
