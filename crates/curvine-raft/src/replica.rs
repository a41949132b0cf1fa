//! The replica: the one handle that the master holds. Opening puts the parts together; everything else is delegation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use curvine_proto::{Command, Outcome};
use curvine_types::{ClusterId, Error, ErrorKind, Result};
use openraft::{BasicNode, ChangeMembers, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::applier::Applier;
use crate::barrier::Barrier;
use crate::disk::{Disk, RealDisk, replace_file};
use crate::entry::Raft;
use crate::health::Health;
use crate::leadership::watch_leadership;
use crate::log::store::{LogPlace, LogReader, LogStore};
use crate::network::Network;
use crate::node_file::{FOUNDER, NAME as NODE_FILE};
use crate::planted::PlantedDisk;
use crate::proposer::{Hurry, Proposer, Queue};
use crate::snapshot::store::SnapshotStore;
use crate::snapshotter::Snapshotter;
use crate::transport::or_none;
use crate::{LeaderState, Member, Mode, NodeFile, Options, RaftService, RaftTransport, StateMachine, Status};

/// A replica that is alone wins its election in a few fdatasyncs; slower disks than this are broken.
const LEAD_WITHIN: Duration = Duration::from_secs(30);

/// Stopping finishes the write that is under way; a disk that takes longer hangs.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// One member of the replicated log with its state machine. Clones share it.
pub struct Replica<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    node: NodeFile,
    raft: Raft,
    applier: Applier<S>,
    log: LogReader,
    health: Arc<Health>,
    queue: Queue,
    barrier: Barrier,
    snapshotter: Snapshotter,
    snapshots: Arc<SnapshotStore>,
    leader: watch::Receiver<LeaderState>,
    service: RaftService,
    request_timeout: Duration,
    closing: watch::Sender<bool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl<S> Clone for Replica<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<S: StateMachine> Replica<S> {
    /// First initialisation of a directory: gives it the cluster's id and a new random node id. `AlreadyExists` if there is anything
    /// in it.
    pub fn create(dir: &Path, cluster: ClusterId) -> Result<NodeFile> {
        NodeFile::create(&RealDisk, dir, cluster)
    }

    /// The identity of a directory; `None` if it holds no replica yet. `Foreign`: a format of another version; `Corrupt`: damaged.
    pub fn exists(dir: &Path) -> Result<Option<NodeFile>> {
        NodeFile::load(dir)
    }

    /// Marks a directory as the one in which a new cluster's log begins. Before [`create`](Self::create): so a directory that was wiped
    /// never begins a log of its own.
    pub fn mark_founder(dir: &Path) -> Result<()> {
        let failed = |source| Error::from_io(source, "cannot initialise the directory").with("path", dir.display());
        std::fs::create_dir_all(dir).map_err(failed)?;
        replace_file(&RealDisk, &dir.join(FOUNDER), b"the log of a new cluster begins here\n")
    }

    /// Whether the directory was marked and its log has not begun yet.
    pub fn is_founder(dir: &Path) -> bool {
        dir.join(FOUNDER).exists()
    }

    /// Starts the replica of a directory made by [`create`](Self::create): newest good snapshot, then the log. When this returns, a
    /// replica that is the only voter leads.
    pub async fn open(options: Options, machine: S) -> Result<Self> {
        Self::open_with(options, machine, None).await
    }

    /// As [`open`](Self::open), with a way to other replicas.
    pub async fn open_with(options: Options, machine: S, transport: Option<Arc<dyn RaftTransport>>) -> Result<Self> {
        let disk: Arc<dyn Disk> = match &options.planted_faults {
            Some(plan) => Arc::new(PlantedDisk::new(plan.clone())),
            None => Arc::new(RealDisk),
        };
        Self::open_on(disk, options, machine, transport).await
    }

    pub(crate) async fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
        machine: S,
        transport: Option<Arc<dyn RaftTransport>>,
    ) -> Result<Self> {
        let health = Arc::new(Health::default());
        let recovering = {
            let (options, health) = (options.clone(), health.clone());
            move || recover(disk, &options, machine, health)
        };
        let recovered = tokio::task::spawn_blocking(recovering).await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "recovering the log was stopped").caused_by(error))
        })?;
        Self::start(options, recovered, health, transport).await
    }

    async fn start(
        options: Options,
        recovered: Recovered<S>,
        health: Arc<Health>,
        transport: Option<Arc<dyn RaftTransport>>,
    ) -> Result<Self> {
        let Recovered { node, log, writer, snapshots, applier } = recovered;
        let config = Arc::new(raft_config(&options)?);
        let network = Network {
            own: node,
            transport: or_none(transport),
            snapshot_timeout: options.snapshot_timeout,
            backoff: options.heartbeat,
        };
        let reader = log.reader();
        let started = Raft::new(node.node, config, network, log, applier.clone()).await;
        let raft = match started {
            Ok(raft) => raft,
            Err(fatal) => {
                end_of(writer).await;
                return Err(Error::new(ErrorKind::Io, format!("the log could not be started: {fatal}")));
            }
        };
        let (closing, closed) = watch::channel(false);
        let (leader_sender, leader) = watch::channel(LeaderState::default());
        tokio::spawn(watch_leadership(raft.clone(), applier.clone(), health.clone(), leader_sender, closed.clone()));
        let (queue, waiting) = Queue::new(&options);
        let proposer = Proposer {
            raft: raft.clone(),
            applier: applier.clone(),
            health: health.clone(),
            leader: leader.clone(),
            waiting,
            gauges: queue.clone(),
            options: options.clone(),
            closing: closed.clone(),
        };
        tokio::spawn(proposer.run());
        let barrier = Barrier::start(
            raft.clone(),
            leader.clone(),
            health.clone(),
            options.request_timeout,
            options.queue_limit,
            closed.clone(),
        );
        let snapshotter = Snapshotter::start(
            raft.clone(),
            applier.clone(),
            snapshots.clone(),
            reader.clone(),
            options.snapshot_log_bytes,
            health.clone(),
            closed,
        );
        let replica = Self {
            inner: Arc::new(Inner {
                node,
                service: RaftService::new(raft.clone(), node, snapshots.clone()),
                raft,
                applier,
                log: reader,
                health,
                queue,
                barrier,
                snapshotter,
                snapshots,
                leader,
                request_timeout: options.request_timeout,
                closing,
                writer: Mutex::new(Some(writer)),
            }),
        };
        if let Err(error) = replica.take_the_lead(&options).await {
            replica.shutdown().await;
            return Err(error);
        }
        Ok(replica)
    }

    /// Starts a cluster if there is none yet; as the only voter becomes leader without waiting for a timeout.
    async fn take_the_lead(&self, options: &Options) -> Result<()> {
        let raft = &self.inner.raft;
        let failed =
            |what: String| Error::new(ErrorKind::Unavailable, format!("cannot take the lead of the log: {what}"));
        let initialized = raft.is_initialized().await.map_err(|fatal| failed(fatal.to_string()))?;
        if !initialized {
            if !options.bootstrap {
                return Ok(());
            }
            let alone = BTreeMap::from([(self.inner.node.node, BasicNode::new(&options.address))]);
            raft.initialize(alone).await.map_err(|error| failed(error.to_string()))?;
            let _ = std::fs::remove_file(options.dir.join(FOUNDER)); // from here on the log itself says that it has begun
        } else {
            let own = self.inner.node.node;
            let alone = raft
                .with_raft_state(move |state| {
                    let mut voters = state.membership_state.effective().voter_ids();
                    voters.next() == Some(own) && voters.next().is_none()
                })
                .await
                .map_err(|fatal| failed(fatal.to_string()))?;
            if !alone {
                return Ok(());
            }
            raft.trigger().elect().await.map_err(|fatal| failed(fatal.to_string()))?;
        }
        let mut leader = self.inner.leader.clone();
        let mut mode = self.inner.health.subscribe();
        let won = tokio::select! {
            won = tokio::time::timeout(LEAD_WITHIN, leader.wait_for(|leader| leader.leading)) => {
                matches!(won, Ok(Ok(_)))
            }
            _ = mode.wait_for(|mode| matches!(mode, Mode::Failed(_))) => false,
        };
        match self.inner.health.mode() {
            Mode::Failed(reason) => Err(failed(reason)),
            _ if won => Ok(()),
            _ => Err(failed("the election did not end in time".into())),
        }
    }

    /// Which cluster and node this is.
    pub fn node(&self) -> NodeFile {
        self.inner.node
    }

    /// The state machine, to be read under its lock; keep holds short. Only the log writes to it.
    pub fn state(&self) -> &Arc<RwLock<S>> {
        &self.inner.applier.state
    }

    /// Makes the command durable on a quorum, applies it and returns its outcome (`Outcome.error` is the command's own error). An error
    /// here means that it was not executed, except `TimedOut`: unknown.
    pub async fn propose(&self, command: Command) -> Result<Outcome> {
        self.propose_in(command, Hurry::Now).await
    }

    /// As `propose`, when it is wanted.
    pub async fn propose_in(&self, command: Command, hurry: Hurry) -> Result<Outcome> {
        let outcome = self.inner.queue.push(command, hurry)?;
        match tokio::time::timeout(self.inner.request_timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                "the outcome of the change is unknown: the log did not answer in time",
            )),
        }
    }

    /// Commands that have time are wanted now.
    pub fn hurry(&self) {
        self.inner.queue.hurry();
    }

    /// Returns when everything that was acknowledged anywhere before the call is in the local state. Only the leader can.
    pub async fn read_barrier(&self) -> Result<()> {
        self.inner.barrier.pass().await
    }

    /// Who leads now.
    pub fn leader(&self) -> LeaderState {
        self.inner.leader.borrow().clone()
    }

    /// Changes of who leads.
    pub fn leader_changes(&self) -> watch::Receiver<LeaderState> {
        self.inner.leader.clone()
    }

    /// Changes of whether the replica can take changes.
    pub fn mode_changes(&self) -> watch::Receiver<Mode> {
        self.inner.health.subscribe()
    }

    /// The number of the present leadership of this replica, 0 when it does not lead. Rises with every leadership of any replica
    /// and with every start of the process.
    pub fn incarnation(&self) -> u64 {
        self.inner.leader.borrow().incarnation
    }

    /// Answers the other replicas.
    pub fn service(&self) -> RaftService {
        self.inner.service.clone()
    }

    /// Adds a replica, which was opened without `bootstrap`, as a voter: first it catches up, then it counts.
    pub async fn add_voter(&self, node: u64, address: &str) -> Result<()> {
        let raft = &self.inner.raft;
        let failed = |error: String| Error::new(ErrorKind::Unavailable, format!("cannot add a replica: {error}"));
        let steps = async {
            raft.add_learner(node, BasicNode::new(address), true).await.map_err(|error| failed(error.to_string()))?;
            raft.change_membership(ChangeMembers::AddVoterIds([node].into()), true)
                .await
                .map_err(|error| failed(error.to_string()))
        };
        self.in_time(steps).await.map(|_| ())
    }

    /// Makes a replica a voter at this address, in the place of those of `replaces`, or corrects its address. Only the leader can.
    pub async fn admit(&self, node: u64, address: &str, replaces: &[u64]) -> Result<()> {
        let raft = &self.inner.raft;
        let failed = |error: String| Error::new(ErrorKind::Unavailable, format!("cannot let a replica in: {error}"));
        let members = self.status().members;
        let known = members.iter().find(|member| member.node == node);
        let steps = async {
            match known {
                None => {
                    let learner = raft.add_learner(node, BasicNode::new(address), true).await;
                    learner.map_err(|error| failed(error.to_string()))?;
                }
                Some(member) if member.address != address => {
                    let nodes = ChangeMembers::SetNodes([(node, BasicNode::new(address))].into());
                    raft.change_membership(nodes, true).await.map_err(|error| failed(error.to_string()))?;
                }
                Some(_) => {}
            }
            let before: BTreeSet<u64> =
                members.iter().filter(|member| member.voter).map(|member| member.node).collect();
            let mut voters: BTreeSet<u64> = before.iter().copied().filter(|voter| !replaces.contains(voter)).collect();
            voters.insert(node);
            if voters != before {
                let change = ChangeMembers::ReplaceAllVoters(voters);
                raft.change_membership(change, false).await.map_err(|error| failed(error.to_string()))?;
            }
            Ok(())
        };
        self.in_time(steps).await
    }

    /// Removes a replica from the cluster.
    pub async fn remove_voter(&self, node: u64) -> Result<()> {
        let change = self.inner.raft.change_membership(ChangeMembers::RemoveVoters([node].into()), false);
        let steps = async {
            change
                .await
                .map_err(|error| Error::new(ErrorKind::Unavailable, format!("cannot remove a replica: {error}")))
        };
        self.in_time(steps).await.map(|_| ())
    }

    async fn in_time<T>(&self, steps: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.inner.request_timeout, steps).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, "the replicas did not agree in time; the change may still happen"))
        })
    }

    /// Gauges and state.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let members = membership
            .nodes()
            .map(|(node, basic)| Member { node: *node, address: basic.addr.clone(), voter: voters.contains(node) })
            .collect();
        let snapshot_index = inner.snapshots.newest_index();
        let gauges = inner.queue.gauges();
        let log = inner.log.memory.lock();
        Status {
            node: inner.node.node,
            mode: inner.health.mode(),
            leader: self.leader(),
            term: metrics.current_term,
            last_index: log.last.map_or(0, |id| id.index),
            applied: inner.applier.progress().last.map_or(0, |id| id.index),
            snapshot_index,
            snapshot_error: inner.snapshotter.last_error(),
            log_bytes: log.log_bytes(),
            log_segments: log.segments.len(),
            log_bytes_since_snapshot: log.bytes_after(snapshot_index),
            cache_bytes: log.cache_bytes(),
            holds: inner.applier.holds(),
            queue_commands: gauges.commands.load(Ordering::Relaxed),
            queue_bytes: gauges.bytes.load(Ordering::Relaxed),
            entries_in_flight: gauges.in_flight.load(Ordering::Relaxed),
            majority_age: Duration::from_millis(metrics.millis_since_quorum_ack.unwrap_or(0)),
            members,
        }
    }

    /// Takes a snapshot now; returns when it is durable.
    pub async fn snapshot_now(&self) -> Result<()> {
        self.inner.snapshotter.take().await
    }

    /// Stops: waiting proposals fail, files are closed, the directory can be opened again.
    pub async fn shutdown(&self) {
        self.inner.closing.send_replace(true);
        let mut leader = self.inner.leader.clone();
        let _ = leader.wait_for(|leader| !leader.leading).await; // resigns as soon as its task notices `closing`
        match tokio::time::timeout(STOP_WITHIN, self.inner.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the log's core task did not end well"),
            Err(_) => {
                tracing::error!("the log did not stop in time; its disk does not answer");
                return;
            }
        }
        let writer = self.inner.writer.lock().take();
        if let Some(writer) = writer {
            end_of(writer).await;
        }
    }
}

#[cfg(test)]
impl<S: StateMachine> Replica<S> {
    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.inner.queue
    }
}

/// What the files gave.
struct Recovered<S> {
    node: NodeFile,
    log: LogStore,
    writer: JoinHandle<()>,
    snapshots: Arc<SnapshotStore>,
    applier: Applier<S>,
}

/// Reads the directory; blocks.
fn recover<S: StateMachine>(
    disk: Arc<dyn Disk>,
    options: &Options,
    mut machine: S,
    health: Arc<Health>,
) -> Result<Recovered<S>> {
    let dir = options.dir.as_path();
    let node = NodeFile::load(dir)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the directory holds no log; initialise it first").with("path", dir.display())
    })?;
    let lock = lock(dir)?;
    let place = LogPlace { disk: disk.clone(), node, health };
    let (log, writer) = LogStore::open(options, place, lock)?;
    let bounds = {
        let reader = log.reader();
        let memory = reader.memory.lock();
        (memory.purged, memory.last)
    };
    let mut restore = |reader: &mut dyn std::io::Read| S::restored(reader).map(|restored| machine = restored);
    let opened = SnapshotStore::open(disk, dir, node.cluster, options.snapshots_kept, bounds, &mut restore);
    let (snapshots, restored) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            drop(log);
            let _ = writer.join(); // the directory is free again when the error is told
            return Err(error);
        }
    };
    let snapshots = Arc::new(snapshots);
    let applier = Applier::new(Arc::new(RwLock::new(machine)), snapshots.clone(), restored, options.apply_hold);
    Ok(Recovered { node, log, writer, snapshots, applier })
}

/// Two processes in one directory would destroy each other's log.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(NODE_FILE);
    let file = File::open(&path)
        .map_err(|source| Error::from_io(source, "cannot open the node file").with("file", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::new(ErrorKind::Busy, "another process works on this log").with("path", dir.display()))
        }
        Err(errno) => {
            Err(Error::from_io(errno.into(), "cannot lock the directory of the log").with("path", dir.display()))
        }
    }
}

/// Waits for the writer thread, which ends when the log store is dropped; then the directory is free.
async fn end_of(writer: JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || writer.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        tracing::error!("the log's writer thread panicked; this is a bug");
    }
}

fn raft_config(options: &Options) -> Result<openraft::Config> {
    let millis = |duration: Duration| (duration.as_millis() as u64).max(1);
    let config = openraft::Config {
        cluster_name: "curvine".into(),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_timeout),
        election_timeout_max: millis(options.election_timeout * 2),
        install_snapshot_timeout: millis(options.snapshot_timeout),
        // Snapshots and purging are decided by bytes, in `snapshotter`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: 1 << 20,
        ..Default::default()
    };
    config.validate().map_err(|error| {
        Error::new(
            ErrorKind::Config,
            "the timing of the log is impossible: the election timeout must exceed the heartbeat",
        )
        .caused_by(error)
    })
}
