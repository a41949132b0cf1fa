//! The receiving side of replication: what the master's Raft port answers with.

use std::sync::Arc;

use bytes::Bytes;
use curvine_proto::raft_append_reply::Result as AppendResult;
use curvine_proto::{
    Method, PeerRole, RaftAppendReply, RaftAppendRequest, RaftMatched, RaftSnapshotReply, RaftSnapshotRequest,
    RaftVoteReply, RaftVoteRequest,
};
use curvine_rpc::{Call, Reply, Service};
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use openraft::Snapshot;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use tokio::sync::Mutex;

use crate::NodeFile;
use crate::entry::{
    Raft, decode_entry, log_id_from_proto, log_id_to_proto, snapshot_meta_from_proto, vote_from_proto, vote_to_proto,
};
use crate::snapshot::SnapshotFile;
use crate::snapshot::store::SnapshotStore;

/// Answers other replicas: directly, or as the [`Service`] of the Raft port. Clones share it.
#[derive(Clone)]
pub struct RaftService {
    raft: Raft,
    own: NodeFile,
    snapshots: Arc<SnapshotStore>,
    /// The one snapshot that is being received.
    incoming: Arc<Mutex<Option<Incoming>>>,
}

struct Incoming {
    transfer: u64,
    data: SnapshotFile,
    received: u64,
}

impl RaftService {
    pub(crate) fn new(raft: Raft, own: NodeFile, snapshots: Arc<SnapshotStore>) -> Self {
        Self { raft, own, snapshots, incoming: Arc::default() }
    }

    /// A request may reach the wrong process: addresses move.
    fn check(&self, cluster: &[u8], to: u64) -> Result<()> {
        if cluster != self.own.cluster.0 {
            return Err(Error::new(ErrorKind::Foreign, "the request is for the log of another cluster"));
        }
        if to != self.own.node {
            return Err(Error::new(ErrorKind::Foreign, "the request is for another node of the log")
                .with("want", to)
                .with("have", self.own.node));
        }
        Ok(())
    }

    /// Takes entries of the leader.
    pub async fn append(&self, request: RaftAppendRequest) -> Result<RaftAppendReply> {
        self.check(&request.cluster, request.to)?;
        let rpc = AppendEntriesRequest {
            vote: vote_from_proto(&request.vote.ok_or_else(incomplete)?),
            prev_log_id: request.previous.as_ref().map(log_id_from_proto),
            leader_commit: request.committed.as_ref().map(log_id_from_proto),
            entries: request.entries.iter().map(decode_entry).collect::<Result<_>>()?,
        };
        let result = match self.raft.append_entries(rpc).await.map_err(stopped)? {
            AppendEntriesResponse::Success => AppendResult::Matched(RaftMatched { all: true, upto: None }),
            AppendEntriesResponse::PartialSuccess(upto) => {
                AppendResult::Matched(RaftMatched { all: false, upto: upto.as_ref().map(log_id_to_proto) })
            }
            AppendEntriesResponse::Conflict => AppendResult::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => AppendResult::HigherVote(vote_to_proto(&vote)),
        };
        Ok(RaftAppendReply { result: Some(result) })
    }

    /// Gives or refuses a vote.
    pub async fn vote(&self, request: RaftVoteRequest) -> Result<RaftVoteReply> {
        self.check(&request.cluster, request.to)?;
        let rpc = VoteRequest {
            vote: vote_from_proto(&request.vote.ok_or_else(incomplete)?),
            last_log_id: request.last.as_ref().map(log_id_from_proto),
        };
        let reply = self.raft.vote(rpc).await.map_err(stopped)?;
        Ok(RaftVoteReply {
            vote: Some(vote_to_proto(&reply.vote)),
            granted: reply.vote_granted,
            last: reply.last_log_id.as_ref().map(log_id_to_proto),
        })
    }

    /// Takes one part of a snapshot; the last one installs it.
    pub async fn snapshot(&self, request: RaftSnapshotRequest, data: Bytes) -> Result<RaftSnapshotReply> {
        self.check(&request.cluster, request.to)?;
        let vote = vote_from_proto(&request.vote.ok_or_else(incomplete)?);
        let current = self.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(stopped)?;
        if current > vote {
            return Ok(RaftSnapshotReply { vote: Some(vote_to_proto(&current)) });
        }
        let mut incoming = self.incoming.lock().await;
        if request.offset == 0 {
            self.discard(incoming.take());
            let snapshots = self.snapshots.clone();
            let data = blocking(move || snapshots.begin_receiving()).await?;
            *incoming = Some(Incoming { transfer: request.transfer, data, received: 0 });
        }
        let expected = |one: &&mut Incoming| one.transfer == request.transfer && one.received == request.offset;
        let Some(current) = incoming.as_mut().filter(expected) else {
            return Err(Error::new(ErrorKind::Conflict, "this part of a snapshot is not the next one; start again")
                .with("offset", request.offset));
        };
        current.received += data.len() as u64;
        let file = current.data.clone();
        blocking(move || {
            file.file
                .write_all_at(&data, request.offset)
                .map_err(|source| Error::from_io(source, "cannot receive a snapshot").with("file", file.path.display()))
        })
        .await?;
        if !request.done {
            return Ok(RaftSnapshotReply { vote: Some(vote_to_proto(&vote)) });
        }
        let Some(whole) = incoming.take() else { return Err(incomplete()) };
        drop(incoming);
        let meta = snapshot_meta_from_proto(&request.meta.ok_or_else(incomplete)?);
        let snapshot = Snapshot { meta, snapshot: Box::new(whole.data) };
        let reply = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(RaftSnapshotReply { vote: Some(vote_to_proto(&reply.vote)) })
    }

    /// Forgets a transfer that was given up.
    fn discard(&self, abandoned: Option<Incoming>) {
        if let Some(abandoned) = abandoned {
            let _ = std::fs::remove_file(&abandoned.data.path); // what stays is removed at the next start
        }
    }
}

impl Service for RaftService {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        Box::pin(async move {
            if call.peer.hello().role != PeerRole::Master as i32 {
                return Err(Error::new(ErrorKind::Unauthenticated, "only masters replicate the log"));
            }
            match call.method {
                Method::Ping => Ok(Reply::new(&curvine_proto::Empty {})),
                Method::RaftAppend => Ok(Reply::new(&self.append(call.request()?).await?)),
                Method::RaftVote => Ok(Reply::new(&self.vote(call.request()?).await?)),
                Method::RaftSnapshot => Ok(Reply::new(&self.snapshot(call.request()?, call.data.clone()).await?)),
                other => Err(Error::new(ErrorKind::NotSupported, "this port is for the log of the masters")
                    .with("key", other.name())),
            }
        })
    }
}

fn incomplete() -> Error {
    Error::new(ErrorKind::InvalidArgument, "the request of a replica is incomplete")
}

fn stopped(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the log has stopped: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Internal, "receiving a snapshot was stopped").caused_by(error))
    })
}
