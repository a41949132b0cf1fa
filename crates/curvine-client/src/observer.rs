//! Questions to a cluster that need no session: what it is doing, what it holds, whether it is sound.
//!
//! Always: nothing is written, not even a session into the log, so an observer is answered while the log takes no changes, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use curvine_proto::{ListWorkersReply, ListWorkersRequest, Message, Method, ReportReply, ReportRequest, WorkerInfo};
use curvine_rpc::{Body, Channel, ClusterCell, Connector};
use curvine_types::{Error, ErrorKind, Result, WorkerId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ClientOptions;

/// How long a worker may take to take a connection: a dead one must not hold up the rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks masters and workers.
pub struct Observer {
    connector: Connector,
    masters: Channel,
    workers: Mutex<HashMap<WorkerId, Channel>>,
    timeout: Duration,
    /// For messages.
    addresses: String,
}

impl Observer {
    /// For the masters of `options`; each question is given up after `timeout`. Connects at the first one.
    pub fn new(options: &ClientOptions, timeout: Duration) -> Result<Self> {
        let addresses = options.master_addrs.iter().map(|text| text.parse()).collect::<Result<Vec<_>>>()?;
        let connector = crate::workers::connector(options, Arc::new(ClusterCell::default()));
        let masters = Channel::new(connector.clone(), addresses, 1);
        let addresses = options.master_addrs.join(" ");
        Ok(Self { connector, masters, workers: Mutex::default(), timeout, addresses })
    }

    /// Asks the leader.
    pub async fn master<Q: Message, R: Message + Default>(&self, method: Method, request: &Q) -> Result<R> {
        let deadline = Instant::now() + self.timeout;
        let (reply, _) = self.masters.call(method, request, Body::Empty, deadline).await?;
        Ok(reply)
    }

    /// Connects to one of the masters and shakes hands, whether it leads or not.
    pub async fn ping_master(&self) -> Result<()> {
        self.masters.peer(Instant::now() + self.timeout).await.map(drop)
    }

    /// Asks a worker.
    pub async fn worker<Q: Message, R: Message + Default>(
        &self,
        worker: &WorkerInfo,
        method: Method,
        request: &Q,
    ) -> Result<R> {
        let channel = match self.workers.lock().entry(worker.id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.get().clone(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let address = worker.address.parse()?;
                let channel = Channel::new(self.connector.clone(), vec![address], 1).with_patience(PATIENCE);
                entry.insert(channel).clone()
            }
        };
        let deadline = Instant::now() + self.timeout;
        let (reply, _) = channel.call(method, request, Body::Empty, deadline).await?;
        Ok(reply)
    }

    /// The state of the cluster. Of masters without a leader, what the one that is asked knows.
    pub async fn report(&self) -> Result<ReportReply> {
        self.master(Method::Report, &ReportRequest {}).await.map_err(|error| self.nobody(error))
    }

    /// The workers that the master knows.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let reply: ListWorkersReply =
            self.master(Method::ListWorkers, &ListWorkersRequest {}).await.map_err(|error| self.nobody(error))?;
        Ok(reply.workers)
    }

    fn nobody(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::ConnectionLost => {
                Error::new(ErrorKind::TimedOut, "no master answers; is it running, and is this its address?")
                    .with("masters", &self.addresses)
                    .caused_by(error)
            }
            _ => error,
        }
    }
}
