//! The process: opens the replica, listens, and follows who leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use curvine_namespace::Namespace;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{Command, InitCluster, Method, PeerRole};
use curvine_raft::{LeaderState, MemberAddress, Mode, Options, RaftTransport, Replica, RpcTransport};
use curvine_rpc::{Auth, Call, ClusterCell, Connector, Peer, Reply, Server, Service};
use curvine_types::{ClusterId, Error, ErrorKind, Result};
use curvine_web::Source;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::task::JoinSet;

use crate::MasterOptions;
use crate::leader::Leader;
use crate::metrics::MasterPage;
use crate::peers::{LogPort, Peers};
use crate::state::MetaState;

/// A running master.
pub struct Master {
    server: Server,
    replica: Replica<MetaState>,
    front: Arc<Front>,
    follow: tokio::task::JoinHandle<()>,
    cluster: ClusterId,
    others: Option<Others>,
}

/// What connects it with the other masters.
struct Others {
    _server: Server,
    member: tokio::task::JoinHandle<()>,
}

impl Drop for Others {
    fn drop(&mut self) {
        self.member.abort();
    }
}

/// What the server talks to: the leader, if this replica is one.
pub(crate) struct Front {
    leading: RwLock<Option<Leading>>,
    pub(crate) replica: Replica<MetaState>,
}

struct Leading {
    leader: Arc<Leader>,
    incarnation: u64,
    _background: JoinSet<()>,
}

impl Service for Front {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        match self.leader() {
            Some(leader) => leader.answer_call(call).boxed(),
            // Without any leader, whoever is asked says what he knows: an operator is looking for the reason.
            None if call.method == Method::Report && self.replica.leader().address.is_empty() => {
                let reply = Reply::new(&crate::report::of_follower(&self.replica));
                async move { Ok(reply) }.boxed()
            }
            None => {
                let known = self.replica.leader().address;
                let error = Error::new(ErrorKind::NotLeader, "this master is not the leader").with("leader", known);
                async move { Err(error) }.boxed()
            }
        }
    }

    fn disconnected(&self, peer: &Peer) {
        if let Some(leading) = &*self.leading.read() {
            leading.leader.sessions.disconnected(peer);
        }
    }
}

impl Front {
    /// If this replica leads.
    pub(crate) fn leader(&self) -> Option<Arc<Leader>> {
        self.leading.read().as_ref().map(|leading| leading.leader.clone())
    }

    /// Begins and ends leaderships.
    fn follow(&self, state: &LeaderState, begin: impl FnOnce() -> Arc<Leader>) {
        let current = self.leading.read().as_ref().map(|leading| leading.incarnation);
        let wanted = state.leading.then_some(state.incarnation);
        if current == wanted {
            return;
        }
        let begun = wanted.map(|incarnation| {
            let leader = begin();
            tracing::info!(incarnation, "leading");
            Leading { _background: leader.spawn_background(), leader, incarnation }
        });
        *self.leading.write() = begun;
    }
}

impl Master {
    /// Opens the journal, listens, and leads if it is alone. Without a journal one is made: of a new cluster, or of the cluster that
    /// the other masters know; that waits until they can be asked.
    pub async fn start(options: MasterOptions) -> Result<Self> {
        let rpc = format!("{}:{}", options.hostname, options.bind.rsplit(':').next().unwrap_or_default());
        let log = if options.log_address.is_empty() { rpc.clone() } else { options.log_address.clone() };
        let own = MemberAddress { log, rpc };
        let cell = Arc::new(ClusterCell::default());
        let known = Replica::<MetaState>::exists(&options.journal_dir)?;
        if let Some(identity) = known {
            cell.set(identity.cluster)?;
        }
        let auth = Auth {
            secret: options.secret.clone(),
            role: PeerRole::Master,
            cluster: cell.clone(),
            hostname: options.hostname.clone(),
            id: known.map_or(0, |identity| identity.node),
        };
        let connector = Connector::new(auth.clone(), options.limits.clone());
        let mut raft = Options::new(&options.journal_dir);
        raft.address = own.to_string();
        raft.snapshot_log_bytes = options.snapshot_log_bytes;
        raft.planted_faults = options.planted_log_faults.clone();

        let others = if options.masters.len() > 1 {
            let port = Arc::new(LogPort::new(cell.clone(), options.masters.clone()));
            let server =
                Server::bind(Some(options.log_bind.clone()), None, auth.clone(), options.limits.clone(), port.clone())
                    .await?;
            Some((port, server, Arc::new(Peers::new(own, &options.masters, &connector)?)))
        } else {
            None
        };
        let identity = match (&others, known) {
            (Some((_, _, peers)), _) => {
                let (identity, founds) = peers.identify(&options.journal_dir).await?;
                raft.bootstrap = founds;
                identity
            }
            (None, Some(identity)) => identity,
            (None, None) => {
                let cluster = ClusterId(*uuid::Uuid::new_v4().as_bytes());
                tracing::info!(%cluster, dir = %options.journal_dir.display(), "new cluster");
                Replica::<MetaState>::create(&options.journal_dir, cluster)?
            }
        };
        let cluster = identity.cluster;
        cell.set(cluster)?;
        let transport =
            others.as_ref().map(|_| Arc::new(RpcTransport::new(connector.clone())) as Arc<dyn RaftTransport>);
        let replica = Replica::open_with(raft, MetaState(Namespace::new()), transport).await?;
        let in_log = replica.state().read().0.cluster();
        match in_log {
            None if replica.leader().leading => init_cluster(&replica, cluster, options.root_mode).await?,
            Some(in_log) if in_log != cluster => {
                return Err(Error::new(ErrorKind::Foreign, "the log is of another cluster than its directory")
                    .with("path", options.journal_dir.display())
                    .with("have", in_log)
                    .with("want", cluster));
            }
            _ => {}
        }
        let others = others.map(|(port, server, peers)| {
            let _ = port.replica.set((replica.clone(), Arc::new(replica.service())));
            let member = tokio::spawn(peers.stay_member(replica.clone(), cell.clone()));
            Others { _server: server, member }
        });
        let front = Arc::new(Front { leading: RwLock::new(None), replica: replica.clone() });
        let begin = {
            let (options, replica) = (options.clone(), replica.clone());
            move || Leader::new(options.clone(), replica.clone(), connector.clone())
        };
        let mut changes = replica.leader_changes();
        front.follow(&replica.leader(), &begin);
        let follow = tokio::spawn({
            let front = front.clone();
            async move {
                loop {
                    let state = changes.borrow_and_update().clone();
                    front.follow(&state, &begin);
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            }
        });
        let server =
            Server::bind(Some(options.bind.clone()), None, auth, options.limits.clone(), front.clone()).await?;
        let address = server.local_addr().map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(%cluster, address, "master is ready");
        Ok(Self { server, replica, front, follow, cluster, others })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.local_addr()
    }

    /// What this master tells over HTTP.
    pub fn page(&self) -> Arc<dyn Source> {
        Arc::new(MasterPage { front: Arc::downgrade(&self.front), server: self.server.watch() })
    }

    /// The cluster that it is a master of.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Waits until the replica can work no more and says why; only a restart, after the cause is removed, helps.
    pub async fn failed(&self) -> Error {
        let mut modes = self.replica.mode_changes();
        loop {
            if let Mode::Failed(reason) = &*modes.borrow_and_update() {
                return Error::new(ErrorKind::Io, format!("the master cannot go on: {reason}"));
            }
            if modes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Answers what is in work, then closes the log.
    pub async fn shutdown(self, grace: Duration) {
        self.server.shutdown(grace).await;
        self.follow.abort();
        *self.front.leading.write() = None;
        self.replica.shutdown().await;
        drop(self.others);
    }
}

async fn init_cluster(replica: &Replica<MetaState>, cluster: ClusterId, root_mode: u32) -> Result<()> {
    let body = InitCluster { cluster: cluster.0.to_vec().into(), root_mode, root_uid: 0, root_gid: 0 };
    let command = Command { body: Some(CommandBody::InitCluster(body)), ..Default::default() };
    match replica.propose(command).await?.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
