//! What the log contains, as openraft sees it (opaque batches) and as it lies in records and messages.
//!
//! An encoded entry is a fixed part of 40 bytes and a body; the batch inside stays the bytes that the leader made, so that a
//! follower of another version loses nothing of it.
//!
//! ```text
//! 0 kind u8 (1 blank, 2 batch, 3 membership)   1 zero [3]   4 durable u32   8 term u64   16 node u64   24 index u64
//! 32 committed u64 (index + 1 of an entry known to be committed; 0: none)   40 body
//! ```
//!
//! `durable` and `committed` belong to the record, not to the entry: see `log::record`. In messages both are 0.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use curvine_proto::{
    CommandBatch, Message, Outcome, RaftLogId, RaftMember, RaftMembership, RaftSnapshotMeta, RaftVote, RaftVoters,
};
use curvine_types::{Error, ErrorKind, Result};
use openraft::{BasicNode, CommittedLeaderId, EntryPayload, SnapshotMeta};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::Fields;
use crate::snapshot::SnapshotFile;

openraft::declare_raft_types!(
    /// The types that openraft is used with.
    pub(crate) Types:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = SnapshotFile,
        AsyncRuntime = openraft::TokioRuntime,
        Responder = openraft::impls::OneshotResponder<Types>,
);

pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, BasicNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Raft = openraft::Raft<Types>;

/// Largest encoded entry that is believed when read back; writers stay far below.
pub(crate) const ENTRY_MAX: usize = 16 << 20;
/// Bytes of the fixed part.
pub(crate) const FIXED_LEN: usize = 40;

/// The payload of one entry: an encoded `CommandBatch`.
#[derive(Clone)]
pub(crate) struct Batch {
    bytes: Bytes,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The leader has it decoded already; whoever applies it takes it.
    decoded: Mutex<Option<CommandBatch>>,
    /// Whether it ever reached the log of this replica; until then it has certainly not been executed.
    appended: AtomicBool,
}

impl Batch {
    /// Encodes a batch that this replica proposes.
    pub fn new(batch: CommandBatch) -> Self {
        let bytes = batch.encode_to_vec().into();
        Self { bytes, shared: Arc::new(Shared { decoded: Mutex::new(Some(batch)), ..Default::default() }) }
    }

    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes, shared: Arc::default() }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The commands; the first call is free for a batch made by [`new`](Self::new).
    pub fn take_decoded(&self) -> Result<CommandBatch> {
        if let Some(batch) = self.shared.decoded.lock().take() {
            return Ok(batch);
        }
        CommandBatch::decode(self.bytes.clone())
            .map_err(|source| Error::new(ErrorKind::Corrupt, "cannot decode a batch of the log").caused_by(source))
    }

    pub fn note_appended(&self) {
        self.shared.appended.store(true, Ordering::Release);
    }

    pub fn was_appended(&self) -> bool {
        self.shared.appended.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.bytes.len())
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

// openraft asks for serde on its types; this crate has its own encodings.
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Self::from_bytes(Vec::<u8>::deserialize(deserializer)?.into()))
    }
}

/// What applying one entry gave: the outcome of each of its commands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes(pub Vec<Outcome>);

impl Serialize for Outcomes {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Message::encode_to_vec))
    }
}

impl<'de> Deserialize<'de> for Outcomes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let encoded = Vec::<Vec<u8>>::deserialize(deserializer)?;
        let decoded: std::result::Result<_, _> =
            encoded.iter().map(|bytes| Outcome::decode(bytes.as_slice())).collect();
        decoded.map(Self).map_err(serde::de::Error::custom)
    }
}

/// What a record says beside its entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordInfo {
    /// Bytes of the segment that were on stable storage when the record was written.
    pub durable: u32,
    /// Index + 1 of an entry known to be committed then.
    pub committed: u64,
}

/// Appends the encoded entry.
pub(crate) fn encode_entry(entry: &Entry, info: RecordInfo, out: &mut Vec<u8>) {
    let membership;
    let (kind, body): (u8, &[u8]) = match &entry.payload {
        EntryPayload::Blank => (1, &[]),
        EntryPayload::Normal(batch) => (2, batch.bytes()),
        EntryPayload::Membership(value) => {
            membership = membership_to_proto(value).encode_to_vec();
            (3, &membership)
        }
    };
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&info.durable.to_le_bytes());
    out.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    out.extend_from_slice(&entry.log_id.leader_id.node_id.to_le_bytes());
    out.extend_from_slice(&entry.log_id.index.to_le_bytes());
    out.extend_from_slice(&info.committed.to_le_bytes());
    out.extend_from_slice(body);
}

/// Bytes that [`encode_entry`] makes.
pub(crate) fn encoded_len(entry: &Entry) -> usize {
    FIXED_LEN
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(batch) => batch.bytes().len(),
            EntryPayload::Membership(value) => membership_to_proto(value).encoded_len(),
        }
}

/// The fixed part of an encoded entry; `None` if it cannot be one.
pub(crate) fn decode_fixed(bytes: &[u8]) -> Option<(LogId, RecordInfo)> {
    let mut fields = Fields(bytes);
    if !matches!(fields.array::<4>()?, [1..=3, 0, 0, 0]) {
        return None;
    }
    let durable = fields.u32()?;
    let (term, node, index) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let committed = fields.u64()?;
    Some((log_id(term, node, index), RecordInfo { durable, committed }))
}

/// Reads an encoded entry whose checksum has been verified.
pub(crate) fn decode_entry(bytes: &Bytes) -> Result<Entry> {
    let invalid = || Error::new(ErrorKind::Corrupt, "not an entry of the log").with("length", bytes.len());
    let (log_id, _) = decode_fixed(bytes).ok_or_else(invalid)?;
    let body = bytes.slice(FIXED_LEN..);
    let payload = match bytes.first() {
        Some(1) => EntryPayload::Blank,
        Some(2) => EntryPayload::Normal(Batch::from_bytes(body)),
        _ => {
            let decoded = RaftMembership::decode(body).map_err(|source| invalid().caused_by(source))?;
            EntryPayload::Membership(membership_from_proto(decoded))
        }
    };
    Ok(Entry { log_id, payload })
}

/// Tells the batch that it is in the log now.
pub(crate) fn note_appended(entry: &Entry) {
    if let EntryPayload::Normal(batch) = &entry.payload {
        batch.note_appended();
    }
}

pub(crate) fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, node), index)
}

pub(crate) fn log_id_to_proto(id: &LogId) -> RaftLogId {
    RaftLogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_proto(id: &RaftLogId) -> LogId {
    log_id(id.term, id.node, id.index)
}

pub(crate) fn vote_to_proto(vote: &Vote) -> RaftVote {
    RaftVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_proto(vote: &RaftVote) -> Vote {
    if vote.committed { Vote::new_committed(vote.term, vote.node) } else { Vote::new(vote.term, vote.node) }
}

pub(crate) fn membership_to_proto(membership: &Membership) -> RaftMembership {
    RaftMembership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| RaftVoters { nodes: set.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(node, basic)| RaftMember { node: *node, address: basic.addr.clone() })
            .collect(),
    }
}

pub(crate) fn membership_from_proto(message: RaftMembership) -> Membership {
    let voters: Vec<BTreeSet<u64>> = message.voters.into_iter().map(|set| set.nodes.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, BasicNode> =
        message.members.into_iter().map(|member| (member.node, BasicNode { addr: member.address })).collect();
    Membership::new(voters, nodes)
}

/// `now` is the time of the last batch in the snapshot.
pub(crate) fn snapshot_meta_to_proto(
    meta: &SnapshotMeta<u64, BasicNode>,
    now: Option<curvine_proto::Time>,
) -> RaftSnapshotMeta {
    RaftSnapshotMeta {
        last: meta.last_log_id.as_ref().map(log_id_to_proto),
        membership_log: meta.last_membership.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(meta.last_membership.membership())),
        now,
    }
}

pub(crate) fn snapshot_meta_from_proto(message: &RaftSnapshotMeta) -> SnapshotMeta<u64, BasicNode> {
    let last_log_id = message.last.as_ref().map(log_id_from_proto);
    let membership = message.membership.clone().map(membership_from_proto).unwrap_or_default();
    SnapshotMeta {
        last_log_id,
        last_membership: StoredMembership::new(message.membership_log.as_ref().map(log_id_from_proto), membership),
        snapshot_id: last_log_id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// An error of ours as openraft takes it: it stops the replica.
pub(crate) fn storage_error(verb: openraft::ErrorVerb, error: &Error) -> StorageError {
    openraft::StorageIOError::new(openraft::ErrorSubject::Store, verb, openraft::AnyError::error(error)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(payload: EntryPayload<Types>) -> Entry {
        let entry = Entry { log_id: log_id(3, u64::MAX, 17), payload };
        let info = RecordInfo { durable: 5, committed: 16 };
        let mut bytes = Vec::new();
        encode_entry(&entry, info, &mut bytes);
        assert_eq!(bytes.len(), encoded_len(&entry));
        assert_eq!(decode_fixed(&bytes), Some((entry.log_id, info)));
        let back = decode_entry(&bytes.into()).unwrap();
        assert_eq!(back, entry);
        back
    }

    #[test]
    fn entries_survive_their_encoding() {
        round_trip(EntryPayload::Blank);
        let commands = vec![curvine_proto::Command { session: 9, sequence: 4, ..Default::default() }];
        let batch = CommandBatch { now: Some(curvine_proto::Time::new(1, 2)), commands };
        let back = round_trip(EntryPayload::Normal(Batch::new(batch.clone())));
        let EntryPayload::Normal(back) = back.payload else { panic!("another payload") };
        assert_eq!(back.take_decoded().unwrap(), batch);
        let nodes: BTreeMap<u64, BasicNode> =
            [(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2")), (3, BasicNode::new("c:3"))].into();
        let joint = Membership::new(vec![[1, 2].into(), [2].into()], nodes);
        round_trip(EntryPayload::Membership(joint));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for bad in [&[][..], &[1; 39], &[0; 64], &[4; 64], &[1, 1, 0, 0, 9, 9, 9, 9]] {
            assert!(decode_entry(&Bytes::copy_from_slice(bad)).is_err());
        }
    }
}
