//! The sending side of replication: openraft's requests as messages over a [`RaftTransport`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::raft_append_reply::Result as AppendResult;
use curvine_proto::{RaftAppendRequest, RaftSnapshotRequest, RaftVoteRequest};
use curvine_types::limits::IO_MAX;
use curvine_types::{Error, ErrorKind, Result};
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, OptionalSend, Snapshot};
use tokio::time::Instant;

use crate::entry::{
    RecordInfo, Types, Vote, encode_entry, log_id_from_proto, log_id_to_proto, snapshot_meta_to_proto, vote_from_proto,
    vote_to_proto,
};
use crate::snapshot::SnapshotFile;
use crate::transport::RaftTransport;
use crate::{MemberAddress, NodeFile};

/// The last part of a snapshot is answered when it is installed: this many times as long as for others.
const INSTALL_PATIENCE: u32 = 60;

/// Makes a client for each peer.
#[derive(Clone)]
pub(crate) struct Network {
    pub own: NodeFile,
    pub transport: Arc<dyn RaftTransport>,
    pub snapshot_timeout: Duration,
    /// How long an unreachable peer is left alone.
    pub backoff: Duration,
}

/// One peer.
pub(crate) struct PeerClient {
    network: Network,
    node: u64,
    address: String,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> PeerClient {
        PeerClient { network: self.clone(), node: target, address: MemberAddress::parse(&node.addr).log }
    }
}

type CallError<E> = RPCError<u64, BasicNode, E>;

/// `Unreachable` makes openraft wait before it tries again.
fn call_error<E: std::error::Error>(error: Error) -> CallError<E> {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::ConnectionLost => NetworkError::new(&error).into(),
        _ => Unreachable::new(&error).into(),
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::Corrupt, "a peer's answer has no result")
}

impl PeerClient {
    fn cluster(&self) -> Bytes {
        Bytes::copy_from_slice(&self.network.own.cluster.0)
    }

    async fn send_snapshot(&self, vote: &Vote, snapshot: &Snapshot<Types>) -> Result<Vote> {
        let meta = snapshot_meta_to_proto(&snapshot.meta, None);
        let data = &snapshot.snapshot;
        let length = data.file.len().map_err(|source| read_failed(source, data))?;
        let transfer = rand::random();
        let mut offset = 0;
        loop {
            let part = read_part(data, offset, length).await?;
            let done = offset + part.len() as u64 >= length;
            let request = RaftSnapshotRequest {
                cluster: self.cluster(),
                to: self.node,
                vote: Some(vote_to_proto(vote)),
                transfer,
                meta: Some(meta.clone()),
                offset,
                done,
            };
            offset += part.len() as u64;
            let patience = self.network.snapshot_timeout * if done { INSTALL_PATIENCE } else { 1 };
            let reply =
                self.network.transport.snapshot(&self.address, request, part, Instant::now() + patience).await?;
            let theirs = vote_from_proto(&reply.vote.ok_or_else(malformed)?);
            if done || theirs > *vote {
                return Ok(theirs);
            }
        }
    }
}

fn read_failed(source: std::io::Error, data: &SnapshotFile) -> Error {
    Error::from_io(source, "cannot read a snapshot").with("file", data.path.display())
}

async fn read_part(data: &SnapshotFile, offset: u64, length: u64) -> Result<Bytes> {
    let data = data.clone();
    let read = move || {
        let mut part = vec![0; (length - offset).min(IO_MAX as u64) as usize];
        data.file.read_exact_at(&mut part, offset).map_err(|source| read_failed(source, &data))?;
        Ok(Bytes::from(part))
    };
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "reading a snapshot was stopped").caused_by(error)))
}

impl RaftNetwork<Types> for PeerClient {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> std::result::Result<AppendEntriesResponse<u64>, CallError<RaftError<u64>>> {
        let encode = |entry| {
            let mut bytes = Vec::new();
            encode_entry(entry, RecordInfo::default(), &mut bytes);
            Bytes::from(bytes)
        };
        let request = RaftAppendRequest {
            cluster: self.cluster(),
            to: self.node,
            vote: Some(vote_to_proto(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(log_id_to_proto),
            committed: rpc.leader_commit.as_ref().map(log_id_to_proto),
            entries: rpc.entries.iter().map(encode).collect(),
        };
        let deadline = Instant::now() + option.hard_ttl();
        let reply = self.network.transport.append(&self.address, request, deadline).await.map_err(call_error)?;
        match reply.result {
            Some(AppendResult::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote_from_proto(&vote))),
            Some(AppendResult::Matched(matched)) if matched.all => Ok(AppendEntriesResponse::Success),
            Some(AppendResult::Matched(matched)) => {
                Ok(AppendEntriesResponse::PartialSuccess(matched.upto.as_ref().map(log_id_from_proto)))
            }
            Some(AppendResult::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            None => Err(call_error(malformed())),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> std::result::Result<VoteResponse<u64>, CallError<RaftError<u64>>> {
        let request = RaftVoteRequest {
            cluster: self.cluster(),
            to: self.node,
            vote: Some(vote_to_proto(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(log_id_to_proto),
        };
        let deadline = Instant::now() + option.hard_ttl();
        let reply = self.network.transport.vote(&self.address, request, deadline).await.map_err(call_error)?;
        let vote = reply.vote.ok_or_else(|| call_error(malformed()))?;
        Ok(VoteResponse::new(vote_from_proto(&vote), reply.last.as_ref().map(log_id_from_proto), reply.granted))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> std::result::Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(&vote, &snapshot) => match sent {
                Ok(theirs) => Ok(SnapshotResponse::new(theirs)),
                Err(error) => Err(Unreachable::new(&error).into()),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.backoff))
    }
}
