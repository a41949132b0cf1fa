//! Several replicas in one process, over a network that can be cut: nothing acknowledged is lost, whoever stops.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::{
    RaftAppendReply, RaftAppendRequest, RaftSnapshotReply, RaftSnapshotRequest, RaftVoteReply, RaftVoteRequest,
};
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::testing::{CLUSTER, Journal, command, options};
use crate::{Options, RaftService, RaftTransport, Replica};

/// Who can be reached, by address.
#[derive(Clone, Default)]
struct Net {
    services: Arc<Mutex<HashMap<String, RaftService>>>,
}

/// The network as one replica sees it.
struct Link {
    net: Net,
    own: String,
}

impl Link {
    /// Nothing leaves a replica that is cut off, and nothing reaches it.
    fn to(&self, address: &str) -> Result<RaftService> {
        let services = self.net.services.lock();
        let unreachable = || Error::new(ErrorKind::Unavailable, "cut off").with("peer", address);
        services.get(&self.own).ok_or_else(unreachable)?;
        services.get(address).cloned().ok_or_else(unreachable)
    }
}

impl RaftTransport for Link {
    fn append(
        &self,
        address: &str,
        request: RaftAppendRequest,
        _: Instant,
    ) -> BoxFuture<'static, Result<RaftAppendReply>> {
        let service = self.to(address);
        Box::pin(async move { service?.append(request).await })
    }

    fn vote(&self, address: &str, request: RaftVoteRequest, _: Instant) -> BoxFuture<'static, Result<RaftVoteReply>> {
        let service = self.to(address);
        Box::pin(async move { service?.vote(request).await })
    }

    fn snapshot(
        &self,
        address: &str,
        request: RaftSnapshotRequest,
        data: Bytes,
        _: Instant,
    ) -> BoxFuture<'static, Result<RaftSnapshotReply>> {
        let service = self.to(address);
        Box::pin(async move { service?.snapshot(request, data).await })
    }
}

struct Member {
    dir: TempDir,
    address: String,
    replica: Replica<Journal>,
}

impl Net {
    async fn start(&self, dir: &TempDir, address: &str) -> Replica<Journal> {
        let options = Options {
            heartbeat: Duration::from_millis(50),
            election_timeout: Duration::from_millis(250),
            address: address.to_string(),
            bootstrap: address == "0",
            segment_bytes: 4000,
            ..options(dir.path())
        };
        let link = Link { net: self.clone(), own: address.to_string() };
        let replica = Replica::open_with(options, Journal::default(), Some(Arc::new(link))).await.unwrap();
        self.connect(address, &replica);
        replica
    }

    fn connect(&self, address: &str, replica: &Replica<Journal>) {
        self.services.lock().insert(address.to_string(), replica.service());
    }

    fn cut(&self, address: &str) {
        self.services.lock().remove(address);
    }

    async fn member(&self, address: &str) -> Member {
        let dir = tempfile::tempdir().unwrap();
        Replica::<Journal>::create(dir.path(), CLUSTER).unwrap();
        let replica = self.start(&dir, address).await;
        Member { dir, address: address.to_string(), replica }
    }

    /// A cluster of three voters, the first of which leads.
    async fn three(&self) -> Vec<Member> {
        let mut members = Vec::new();
        for address in ["0", "1", "2"] {
            members.push(self.member(address).await);
        }
        for member in &members[1..] {
            members[0].replica.add_voter(member.replica.node().node, &member.address).await.unwrap();
        }
        members
    }
}

/// The position of the member that leads, other than `not`.
async fn leader(members: &[Member], not: Option<usize>) -> usize {
    let waits = members.iter().enumerate().filter(|(position, _)| Some(*position) != not).map(|(position, member)| {
        let mut changes = member.replica.leader_changes();
        Box::pin(async move {
            changes.wait_for(|leader| leader.leading).await.unwrap();
            position
        })
    });
    tokio::time::timeout(Duration::from_secs(20), futures::future::select_all(waits)).await.expect("no leader").0
}

/// Waits until a replica has applied a command with this number.
async fn applied(replica: &Replica<Journal>, sequence: u64) {
    let has = |replica: &Replica<Journal>| replica.state().read().commands.iter().any(|one| one.1 == sequence);
    let mut metrics = replica.raft().metrics();
    let wait = async {
        while !has(replica) {
            metrics.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("never applied");
}

/// The acknowledged numbers appear in order and none is missing.
fn assert_kept(replica: &Replica<Journal>, acknowledged: &[u64]) {
    let have = replica.state().read().sequences();
    let mut rest = have.iter();
    for sequence in acknowledged {
        assert!(rest.any(|one| one == sequence), "{sequence} was acknowledged and is not in {have:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_takes_over_from_a_lost_leader_and_nothing_acknowledged_is_lost() {
    let net = Net::default();
    let members = net.three().await;
    let mut acknowledged = Vec::new();
    let mut sequence = 0;
    let mut incarnations = Vec::new();
    for _ in 0..3 {
        let leading = leader(&members, None).await;
        let replica = &members[leading].replica;
        incarnations.push(replica.incarnation());
        for _ in 0..20 {
            sequence += 1;
            replica.propose(command(sequence, 50)).await.unwrap();
            acknowledged.push(sequence);
        }
        replica.read_barrier().await.unwrap();
        net.cut(&members[leading].address);
        let next = leader(&members, Some(leading)).await;
        let successor = &members[next].replica;
        successor.read_barrier().await.unwrap();
        assert_kept(successor, &acknowledged);
        sequence += 1;
        successor.propose(command(sequence, 50)).await.unwrap();
        acknowledged.push(sequence);
        net.connect(&members[leading].address, replica);
        applied(replica, sequence).await;
    }
    assert!(incarnations.is_sorted_by(|a, b| a < b), "{incarnations:?}");
    let states: Vec<Journal> = members.iter().map(|member| member.replica.state().read().clone()).collect();
    assert!(states.iter().all(|state| state == &states[0]), "replicas differ");
    for member in &members {
        member.replica.shutdown().await;
    }
}

/// A member behind a real server on a Unix socket.
struct Served {
    replica: Replica<Journal>,
    server: curvine_rpc::Server,
    _dir: TempDir,
}

async fn serve(position: usize) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("raft.sock");
    let data = dir.path().join("log");
    let node = Replica::<Journal>::create(&data, CLUSTER).unwrap();
    let auth = curvine_rpc::Auth {
        secret: curvine_types::Secret::new(*b"secret"),
        role: curvine_proto::PeerRole::Master,
        cluster: Arc::new(curvine_rpc::ClusterCell::new(CLUSTER)),
        hostname: "localhost".into(),
        id: node.node,
    };
    let limits = curvine_rpc::Limits::default();
    let transport = crate::RpcTransport::new(curvine_rpc::Connector::new(auth.clone(), limits.clone()));
    let options = Options {
        heartbeat: Duration::from_millis(50),
        election_timeout: Duration::from_millis(250),
        address: format!("unix:{}", socket.display()),
        bootstrap: position == 0,
        ..options(&data)
    };
    let replica = Replica::open_with(options, Journal::default(), Some(Arc::new(transport))).await.unwrap();
    let server =
        curvine_rpc::Server::bind(None, Some(socket), auth, limits, Arc::new(replica.service())).await.unwrap();
    Served { replica, server, _dir: dir }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_replicate_over_the_rpc_and_survive_the_loss_of_one() {
    let mut members = Vec::new();
    for position in 0..3 {
        members.push(serve(position).await);
    }
    let first = members[0].replica.clone();
    for sequence in 1..40 {
        first.propose(command(sequence, 64 << 10)).await.unwrap();
    }
    for member in &members[1..] {
        let address = format!("unix:{}", member._dir.path().join("raft.sock").display());
        first.add_voter(member.replica.node().node, &address).await.unwrap();
    }
    for sequence in 40..60 {
        first.propose(command(sequence, 64 << 10)).await.unwrap();
    }
    first.read_barrier().await.unwrap();
    let stopped = members.remove(0);
    stopped.server.shutdown(Duration::from_secs(1)).await;
    stopped.replica.shutdown().await;
    assert!(!stopped.replica.leader().leading);
    let replicas: Vec<_> = members.iter().map(|member| member.replica.clone()).collect();
    let waits = replicas.iter().map(|replica| {
        let mut changes = replica.leader_changes();
        Box::pin(async move {
            changes.wait_for(|leader| leader.leading).await.unwrap();
            replica
        })
    });
    let waiting = futures::future::select_all(waits);
    let (next, ..) = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("no leader");
    next.propose(command(60, 10)).await.unwrap();
    next.read_barrier().await.unwrap();
    assert_eq!(next.state().read().sequences(), (1..=60).collect::<Vec<_>>());
    for member in members {
        member.replica.shutdown().await;
        member.server.shutdown(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_confirms_no_read() {
    let net = Net::default();
    let members = net.three().await;
    let leading = leader(&members, None).await;
    let old = &members[leading].replica;
    old.propose(command(1, 10)).await.unwrap();
    net.cut(&members[leading].address);
    let cut_off = tokio::spawn({
        let old = old.clone();
        async move { old.propose(command(2, 10)).await }
    });
    assert!(old.read_barrier().await.is_err());
    let next = leader(&members, Some(leading)).await;
    members[next].replica.propose(command(3, 10)).await.unwrap();
    net.connect(&members[leading].address, old);
    let error = cut_off.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "it was in a log: {error}");
    applied(old, 3).await;
    assert_eq!(old.state().read().sequences(), vec![1, 3]);
    let error = old.propose(command(4, 10)).await.unwrap_err();
    assert_eq!((error.kind(), error.get("leader")), (ErrorKind::NotLeader, Some(members[next].address.as_str())));
    for member in &members {
        member.replica.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restarted_follower_catches_up_and_a_new_one_gets_a_snapshot() {
    let net = Net::default();
    let mut members = net.three().await;
    let leading = leader(&members, None).await;
    let behind = (leading + 1) % 3;
    members[behind].replica.shutdown().await;
    net.cut(&members[behind].address.clone());
    for sequence in 1..200 {
        members[leading].replica.propose(command(sequence, 50)).await.unwrap();
        if sequence % 60 == 0 {
            members[leading].replica.snapshot_now().await.unwrap();
        }
    }
    let restarted = net.start(&members[behind].dir, &members[behind].address).await;
    members[behind].replica = restarted;
    applied(&members[behind].replica, 199).await;
    assert_eq!(members[behind].replica.state().read().sequences(), (1..200).collect::<Vec<_>>());

    let newcomer = net.member("3").await;
    let leading = leader(&members, None).await;
    members[leading].replica.add_voter(newcomer.replica.node().node, "3").await.unwrap();
    applied(&newcomer.replica, 199).await;
    let status = newcomer.replica.status();
    assert!(status.snapshot_index > 0, "the log no longer reaches back to its beginning");
    assert_eq!(newcomer.replica.state().read().clone(), members[leading].replica.state().read().clone());
    assert_eq!(status.members.iter().filter(|member| member.voter).count(), 4);

    // What was installed is there after a restart, too.
    newcomer.replica.shutdown().await;
    net.cut("3");
    let again = net.start(&newcomer.dir, "3").await;
    applied(&again, 199).await;
    assert_eq!(again.state().read().sequences(), (1..200).collect::<Vec<_>>());
    again.shutdown().await;
    for member in &members {
        member.replica.shutdown().await;
    }
}
