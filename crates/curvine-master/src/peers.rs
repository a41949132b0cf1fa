//! Several masters become one cluster: who founds it, how others find it, how a new disk takes the place of a lost one.
//!
//! Always: a cluster is founded only by the master with the smallest address, and only after *every* other one has said that it knows
//! none; the mark of a founder is on the disk before the identity, so a wiped disk never founds a second cluster. Everybody
//! else gets an identity of the cluster that it was told, with a random node id, and asks the leader to be let in.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use curvine_proto::{Empty, MasterHelloReply, MasterHelloRequest, MasterJoinRequest, Method, PeerRole};
use curvine_raft::{MemberAddress, NodeFile, RaftService, Replica};
use curvine_rpc::{Body, Call, Channel, ClusterCell, Connector, Reply, Service};
use curvine_types::{ClusterId, Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

use crate::state::MetaState;

/// Between two attempts to find the others or to be let in.
const RETRY: Duration = Duration::from_millis(300);
/// Longest wait for one answer of another master.
const ANSWER: Duration = Duration::from_secs(2);
/// Being let in includes catching up.
const ADMISSION: Duration = Duration::from_secs(60);
/// How often a member looks whether it still is one.
const LOOK: Duration = Duration::from_secs(1);

/// The other masters as this one sees them.
pub(crate) struct Peers {
    /// Own address in the list of all masters.
    pub own: MemberAddress,
    /// (address of the log, connection).
    others: Vec<(String, Channel)>,
}

impl Peers {
    /// `all`: the addresses of the logs of all masters, with or without this one.
    pub fn new(own: MemberAddress, all: &[String], connector: &Connector) -> Result<Self> {
        let mut others = Vec::new();
        for address in all.iter().filter(|address| **address != own.log) {
            others.push((
                address.clone(),
                Channel::new(connector.clone(), vec![address.parse()?], 1).with_patience(ANSWER),
            ));
        }
        Ok(Self { own, others })
    }

    fn founds(&self) -> bool {
        self.others.iter().all(|(address, _)| self.own.log < *address)
    }

    async fn hello(&self, channel: &Channel) -> Result<Option<ClusterId>> {
        let request = MasterHelloRequest { address: self.own.log.clone() };
        let (reply, _): (MasterHelloReply, _) =
            channel.call(Method::MasterHello, &request, Body::Empty, Instant::now() + ANSWER).await?;
        if reply.cluster.is_empty() {
            return Ok(None);
        }
        ClusterId::from_slice(&reply.cluster).map(Some)
    }

    /// The cluster that this master belongs to from now on, and whether it founds it. Waits for as long as it takes.
    async fn find_cluster(&self) -> (ClusterId, bool) {
        let mut told = Instant::now();
        loop {
            let answers = join_all(self.others.iter().map(|(_, channel)| self.hello(channel))).await;
            if let Some(cluster) = answers.iter().find_map(|answer| answer.as_ref().ok().copied().flatten()) {
                return (cluster, false);
            }
            let silent: Vec<&str> = answers
                .iter()
                .zip(&self.others)
                .filter(|(answer, _)| answer.is_err())
                .map(|(_, (address, _))| address.as_str())
                .collect();
            if silent.is_empty() && self.founds() {
                return (ClusterId(*uuid::Uuid::new_v4().as_bytes()), true);
            }
            if told.elapsed() > Duration::from_secs(5) {
                tracing::info!(
                    silent = silent.join(" "),
                    "no master knows a cluster yet; a new one is founded when all of journal.journal_addrs have been started"
                );
                told = Instant::now();
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The identity of a directory, made if there is none yet; and whether this master may start the log.
    pub async fn identify(&self, dir: &Path) -> Result<(NodeFile, bool)> {
        if let Some(identity) = Replica::<MetaState>::exists(dir)? {
            return Ok((identity, Replica::<MetaState>::is_founder(dir)));
        }
        let (cluster, founds) = self.find_cluster().await;
        if founds {
            tracing::info!(%cluster, dir = %dir.display(), "founding a new cluster");
            Replica::<MetaState>::mark_founder(dir)?;
        } else {
            tracing::info!(%cluster, dir = %dir.display(), "joining the cluster of the other masters");
        }
        Ok((Replica::<MetaState>::create(dir, cluster)?, founds))
    }

    /// Asks to be let in whenever the membership does not have this replica at this address.
    pub async fn stay_member(self: Arc<Self>, replica: Replica<MetaState>, cell: Arc<ClusterCell>) {
        let wanted = self.own.to_string();
        loop {
            let status = replica.status();
            let is_member = status
                .members
                .iter()
                .any(|member| member.node == status.node && member.voter && member.address == wanted);
            if is_member {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            if status.leader.leading {
                if let Err(error) = replica.admit(status.node, &wanted, &[]).await {
                    tracing::warn!(%error, "cannot correct the own address in the membership yet");
                }
            } else {
                let request = MasterJoinRequest {
                    cluster: cell.get().unwrap_or_default().0.to_vec().into(),
                    node: status.node,
                    address: wanted.clone(),
                };
                self.ask_to_join(&request).await;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask_to_join(&self, request: &MasterJoinRequest) {
        for (address, channel) in &self.others {
            let deadline = Instant::now() + ADMISSION;
            let answer: Result<(Empty, _)> = channel.call(Method::MasterJoin, request, Body::Empty, deadline).await;
            match answer {
                Ok(_) => return tracing::info!(by = %address, "let in among the masters"),
                Err(error) => tracing::debug!(%address, %error, "not let in yet"),
            }
        }
    }
}

/// What answers on the port of the log, from before this master has an identity.
pub(crate) struct LogPort {
    pub cell: Arc<ClusterCell>,
    pub replica: OnceLock<(Replica<MetaState>, Arc<RaftService>)>,
    /// The logs of all masters; others are not let in.
    pub known: Vec<String>,
    /// One admission at a time.
    admitting: tokio::sync::Mutex<()>,
}

impl LogPort {
    pub fn new(cell: Arc<ClusterCell>, known: Vec<String>) -> Self {
        Self { cell, replica: OnceLock::new(), known, admitting: tokio::sync::Mutex::default() }
    }

    fn hello(&self) -> MasterHelloReply {
        let cluster = self.cell.get().map(|cluster| cluster.0.to_vec().into()).unwrap_or_default();
        MasterHelloReply { cluster }
    }

    async fn join(&self, request: MasterJoinRequest, deadline: Instant) -> Result<Empty> {
        let Some((replica, _)) = self.replica.get() else {
            return Err(Error::new(ErrorKind::Unavailable, "this master has no log yet"));
        };
        if request.cluster != replica.node().cluster.0.as_slice() {
            return Err(Error::new(ErrorKind::Foreign, "the master that wants to join is of another cluster"));
        }
        let leader = replica.leader();
        if !leader.leading {
            // Whoever asks goes to the next one; a redirection would be to an address for clients.
            return Err(Error::new(ErrorKind::Unavailable, "this master does not lead"));
        }
        let address = MemberAddress::parse(&request.address);
        if !self.known.contains(&address.log) {
            let message = "this address is not among the masters; add it to journal.journal_addrs of all of them";
            return Err(Error::new(ErrorKind::NotPermitted, message).with("address", address.log));
        }
        let waiting = tokio::time::timeout_at(deadline, self.admitting.lock()).await;
        let _one = waiting.map_err(|_| Error::new(ErrorKind::TimedOut, "another master is being let in"))?;
        let same_place: Vec<u64> = replica
            .status()
            .members
            .iter()
            .filter(|member| member.node != request.node && MemberAddress::parse(&member.address).log == address.log)
            .map(|member| member.node)
            .collect();
        tracing::info!(node = request.node, address = %request.address, replaces = ?same_place, "letting a master in");
        replica.admit(request.node, &request.address, &same_place).await?;
        Ok(Empty {})
    }
}

impl Service for LogPort {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        async move {
            if call.peer.hello().role != PeerRole::Master as i32 {
                return Err(Error::new(
                    ErrorKind::Unauthenticated,
                    "this port is for masters; ask the port of the RPC",
                ));
            }
            match call.method {
                Method::MasterHello => {
                    let _: MasterHelloRequest = call.request()?;
                    Ok(Reply::new(&self.hello()))
                }
                Method::MasterJoin => {
                    let (request, deadline) = (call.request()?, call.deadline);
                    // To its end, whatever the caller does.
                    let joining = tokio::spawn(async move { self.join(request, deadline).await });
                    let joined = joining.await.map_err(|error| {
                        Error::new(ErrorKind::Internal, "letting a master in was stopped").caused_by(error)
                    })?;
                    joined.map(|reply| Reply::new(&reply))
                }
                _ => match self.replica.get() {
                    Some((_, service)) => service.clone().call(call).await,
                    None => Err(Error::new(ErrorKind::Unavailable, "this master has no log yet")),
                },
            }
        }
        .boxed()
    }
}
