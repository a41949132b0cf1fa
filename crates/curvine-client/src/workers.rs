//! The workers: who they are, how they are reached, which of them is on this machine.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::{ListWorkersReply, ListWorkersRequest, Message, Method, WorkerInfo, WorkerState};
use curvine_rpc::{Address, Auth, Body, Channel, Connector, Limits};
use curvine_types::{Error, ErrorKind, Result, WorkerId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ClientOptions;
use crate::core::Core;

/// A list is asked for again at most this often because a worker is missing from it.
const REFRESH_MIN: Duration = Duration::from_millis(200);

pub(crate) struct Workers {
    connector: Connector,
    list: Mutex<Option<(Instant, Arc<Vec<WorkerInfo>>)>>,
    /// One asks, the others wait.
    asking: tokio::sync::Mutex<()>,
    channels: Mutex<HashMap<WorkerId, (Address, Channel)>>,
    connections: usize,
    patience: Duration,
    ttl: Duration,
    hostname: String,
}

impl Workers {
    pub(crate) fn new(connector: Connector, options: &ClientOptions) -> Self {
        Self {
            connector,
            list: Mutex::new(None),
            asking: tokio::sync::Mutex::new(()),
            channels: Mutex::default(),
            connections: options.worker_connections.max(1),
            patience: options.connect_timeout,
            ttl: options.worker_list_ttl,
            hostname: options.hostname.clone(),
        }
    }

    /// A list not older than `age`.
    async fn list_within(&self, core: &Core, age: Duration, deadline: Instant) -> Result<Arc<Vec<WorkerInfo>>> {
        let young = || {
            let list = self.list.lock();
            list.as_ref().filter(|(asked, _)| asked.elapsed() < age).map(|(_, workers)| workers.clone())
        };
        if let Some(workers) = young() {
            return Ok(workers);
        }
        let asking = tokio::time::timeout_at(deadline, self.asking.lock()).await;
        let _asking =
            asking.map_err(|_| Error::new(ErrorKind::TimedOut, "the master did not list the workers in time"))?;
        if let Some(workers) = young() {
            return Ok(workers);
        }
        let asked = Instant::now();
        let request = |_| ListWorkersRequest {};
        let (reply, _) = core.ask::<_, ListWorkersReply>(Method::ListWorkers, request, deadline).await?;
        let workers = Arc::new(reply.workers);
        self.channels.lock().retain(|worker, _| workers.iter().any(|info| info.id == *worker));
        *self.list.lock() = Some((asked, workers.clone()));
        Ok(workers)
    }

    /// The known workers. An old list is better than none while no master answers.
    pub(crate) async fn list(&self, core: &Core, deadline: Instant) -> Result<Arc<Vec<WorkerInfo>>> {
        let known = self.list.lock().as_ref().map(|(_, workers)| workers.clone());
        let soon = match known {
            Some(_) => deadline.min(Instant::now() + self.patience),
            None => deadline,
        };
        match (self.list_within(core, self.ttl, soon).await, known) {
            (Err(_), Some(known)) => Ok(known),
            (listed, _) => listed,
        }
    }

    /// The worker on this machine; 0: none.
    pub(crate) async fn local(&self, core: &Core, deadline: Instant) -> WorkerId {
        let local = |info: &&WorkerInfo| info.live && self.is_local(info);
        match self.list(core, deadline).await {
            Ok(workers) => workers.iter().find(local).map_or(0, |info| info.id),
            Err(_) => 0,
        }
    }

    async fn channel(&self, core: &Core, worker: WorkerId, deadline: Instant) -> Result<Channel> {
        let unknown =
            || Error::new(ErrorKind::Unavailable, "the worker is not known to the master").with("worker", worker);
        let find = |workers: &[WorkerInfo]| workers.iter().find(|info| info.id == worker).cloned();
        let mut info = find(&self.list(core, deadline).await?);
        if info.as_ref().is_none_or(|info| !info.live) {
            info = find(&self.list_within(core, REFRESH_MIN, deadline).await?).or(info);
        }
        let address = self.address(&info.ok_or_else(unknown)?)?;
        let mut channels = self.channels.lock();
        match channels.get(&worker) {
            Some((known, channel)) if *known == address => Ok(channel.clone()),
            _ => {
                let channel = Channel::new(self.connector.clone(), vec![address.clone()], self.connections)
                    .with_patience(self.patience);
                channels.insert(worker, (address, channel.clone()));
                Ok(channel)
            }
        }
    }

    /// The way to a worker of this machine over its Unix socket; `None`: it is elsewhere.
    pub(crate) async fn local_channel(
        &self,
        core: &Core,
        worker: WorkerId,
        deadline: Instant,
    ) -> Result<Option<Channel>> {
        let channel = self.channel(core, worker, deadline).await?;
        let local = matches!(self.channels.lock().get(&worker), Some((Address::Unix(_), _)));
        Ok(local.then_some(channel))
    }

    /// Whether it runs on this machine.
    fn is_local(&self, info: &WorkerInfo) -> bool {
        let machine = if info.node.is_empty() { &info.hostname } else { &info.node };
        *machine == self.hostname
    }

    fn address(&self, info: &WorkerInfo) -> Result<Address> {
        let socket = PathBuf::from(&info.socket);
        if self.is_local(info) && !info.socket.is_empty() && socket.exists() {
            return Ok(Address::Unix(socket));
        }
        if info.address.is_empty() {
            return format!("{}:{}", info.hostname, info.rpc_port).parse();
        }
        info.address.parse()
    }

    /// Calls a worker; the reply alone.
    pub(crate) async fn call<Q: Message, R: Message + Default>(
        &self,
        core: &Core,
        worker: WorkerId,
        method: Method,
        request: &Q,
        deadline: Instant,
    ) -> Result<R> {
        self.exchange(core, worker, method, request, Body::Empty, deadline).await.map(|(reply, _)| reply)
    }

    /// Calls a worker with a data part; the reply and its data part.
    pub(crate) async fn exchange<Q: Message, R: Message + Default>(
        &self,
        core: &Core,
        worker: WorkerId,
        method: Method,
        request: &Q,
        body: Body,
        deadline: Instant,
    ) -> Result<(R, Bytes)> {
        let deadline = deadline.min(Instant::now() + core.options.data_timeout);
        let channel = self.channel(core, worker, deadline).await?;
        let answer = channel.call(method, request, body, deadline).await;
        answer.map_err(|error| if error.get("worker").is_none() { error.with("worker", worker) } else { error })
    }
}

/// The workers that blocks of stores may have their homes on: those that stay, if any do.
pub(crate) fn homes(workers: &[WorkerInfo]) -> Vec<WorkerId> {
    let live = |staying: bool| {
        let fits = move |info: &&WorkerInfo| info.live && (!staying || info.state() == WorkerState::InService);
        workers.iter().filter(fits).map(|info| info.id).collect::<Vec<_>>()
    };
    let staying = live(true);
    if staying.is_empty() { live(false) } else { staying }
}

/// Whether what failed at a worker may pass. `is_unknown`: it may have been executed.
pub(crate) fn may_pass(error: &Error) -> bool {
    error.kind().is_retryable() || is_unknown(error)
}

/// Whether a request that failed so may have been executed.
pub(crate) fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionLost | ErrorKind::TimedOut)
}

/// How a client introduces itself to workers and masters.
pub(crate) fn connector(options: &ClientOptions, cluster: Arc<curvine_rpc::ClusterCell>) -> Connector {
    let auth = Auth {
        secret: options.secret.clone(),
        role: curvine_proto::PeerRole::Client,
        cluster,
        hostname: options.hostname.clone(),
        id: 0,
    };
    Connector::new(auth, Limits { connect_timeout: options.connect_timeout, ..Limits::default() })
}
