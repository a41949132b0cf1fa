//! Records of the index log, and what a run of them says about each content.
//!
//! A record is `length u32, CRC-32C u32, protobuf`, little endian; the checksum covers length and body.
//! Replaying a log twice, or a compacted one, gives the same state.

use std::collections::BTreeSet;

use curvine_types::FastMap;
use prost::Message;

use crate::chunks::{Chunk, ChunkMap};
use crate::disk::crc32c;
use crate::types::{ContentKey, ContentKind, Exposure, Timestamp};

/// Bytes before the body of a record.
pub(crate) const FRAME_LEN: usize = 8;
/// Longest body; a longer length is damage.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// Most chunks whose checksums one record carries, which keeps it far below `BODY_MAX`.
const CHUNKS_PER_RECORD: usize = 4096;

/// One state transition of one content, or of the log itself (`Boot`, `Closed`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(oneof = "Body", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 60")]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Body {
    /// A new content; its file appears after this.
    #[prost(message, tag = "10")]
    Create(Create),
    /// Writable from now on; checksums known so far are void.
    #[prost(message, tag = "11")]
    Live(Live),
    /// This much of a live content is on the disk.
    #[prost(message, tag = "12")]
    Synced(Synced),
    /// Checksums of chunks. For a live content they count once `Sealed` follows.
    #[prost(message, tag = "13")]
    Pieces(Pieces),
    #[prost(message, tag = "14")]
    Sealed(Sealed),
    /// A chunk of a cached copy was found damaged.
    #[prost(message, tag = "15")]
    Absent(Absent),
    #[prost(message, tag = "16")]
    Delete(Nothing),
    /// There is a file, but what is in it is not known.
    #[prost(message, tag = "17")]
    Lost(Nothing),
    /// A store was opened in this boot of the machine.
    #[prost(string, tag = "18")]
    Boot(String),
    /// The store was closed and everything is on the disk.
    #[prost(message, tag = "19")]
    Closed(Nothing),
    /// An application set the time of a live content.
    #[prost(message, tag = "20")]
    Stamped(Stamped),
    /// A descriptor of the file is about to leave, or the file was replaced by one that nobody has.
    #[prost(message, tag = "60")]
    Exposed(Exposed),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Create {
    /// 0: a cached copy.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint64, tag = "3")]
    pub size: u64,
    #[prost(sint64, tag = "4")]
    pub mtime_sec: i64,
    #[prost(uint32, tag = "5")]
    pub mtime_nsec: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Live {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Synced {
    #[prost(uint64, tag = "1")]
    pub size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Pieces {
    #[prost(uint64, tag = "1")]
    pub first_chunk: u64,
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// The chunks are known zeroes and have no checksums.
    #[prost(bool, tag = "3")]
    pub hole: bool,
    /// Of all pieces of the chunks in order; only the content's last chunk may have fewer than 16.
    #[prost(fixed32, repeated, tag = "4")]
    pub crcs: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sealed {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint64, tag = "3")]
    pub size: u64,
    #[prost(sint64, tag = "4")]
    pub mtime_sec: i64,
    #[prost(uint32, tag = "5")]
    pub mtime_nsec: u32,
    #[prost(uint64, tag = "6")]
    pub blocks: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Absent {
    #[prost(uint64, tag = "1")]
    pub first_chunk: u64,
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stamped {
    #[prost(sint64, tag = "1")]
    pub mtime_sec: i64,
    #[prost(uint32, tag = "2")]
    pub mtime_nsec: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Exposed {
    /// As `Exposure`. Of several records the highest counts since the last 0.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    /// Of the client that writes.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    // Tag 3 told that the content had been sealed once; nobody asks for that any more.
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Nothing {}

impl Record {
    pub fn new(key: ContentKey, body: Body) -> Self {
        Self { inode: key.inode, generation: key.generation, body: Some(body) }
    }

    /// A record about the log itself.
    pub fn of_log(body: Body) -> Self {
        Self { inode: 0, generation: 0, body: Some(body) }
    }

    /// Appends the framed record to `out`.
    pub fn encode_framed(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_LEN]);
        self.encode_raw(out);
        let body_len = (out.len() - start - FRAME_LEN) as u32;
        let crc = frame_crc(body_len, &out[start + FRAME_LEN..]);
        out[start..start + 4].copy_from_slice(&body_len.to_le_bytes());
        out[start + 4..start + FRAME_LEN].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Checksum of a record's frame.
pub(crate) fn frame_crc(body_len: u32, body: &[u8]) -> u32 {
    crc32c(body) ^ body_len.wrapping_mul(0x9e37_79b1)
}

/// What the log says about one content.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub kind: ContentKind,
    pub version: u64,
    pub epoch: u64,
    /// Of a sealed or cached content; a live one has it in its file.
    pub size: u64,
    /// The last one that was logged.
    pub mtime: Timestamp,
    /// The mtime that the master gave at `place`, until the content is opened or sealed: a file that still has it was
    /// never written.
    pub placed: Option<Timestamp>,
    /// Size that is on the disk; `None`: the content never got so far and nobody was told of it.
    pub synced: Option<u64>,
    /// Of a sealed content, as last seen.
    pub blocks: u64,
    pub chunks: ChunkMap,
    pub exposure: Exposure,
    /// Sessions that were given a descriptor to write through.
    pub writers: BTreeSet<u64>,
}

impl Known {
    fn new(create: &Create) -> Self {
        let mtime = Timestamp { sec: create.mtime_sec, nsec: create.mtime_nsec };
        let cached = create.version == 0;
        Self {
            kind: if cached { ContentKind::Cached } else { ContentKind::Live },
            version: create.version,
            epoch: create.epoch,
            size: create.size,
            mtime,
            placed: (!cached).then_some(mtime),
            synced: None,
            blocks: 0,
            chunks: ChunkMap::default(),
            exposure: Exposure::None,
            writers: BTreeSet::new(),
        }
    }

    /// A content of which nothing is known but that there is a file.
    pub fn lost() -> Self {
        Self { kind: ContentKind::Lost, placed: None, ..Self::new(&Create::default()) }
    }

    /// The records that lead to this state.
    pub fn records(&self, key: ContentKey) -> Vec<Record> {
        let mut records = Vec::new();
        let mut push = |body| records.push(Record::new(key, body));
        if self.kind == ContentKind::Lost {
            push(Body::Lost(Nothing {}));
            return records;
        }
        let created = self.placed.unwrap_or(self.mtime);
        push(Body::Create(Create {
            version: self.version,
            epoch: self.epoch,
            size: self.size,
            mtime_sec: created.sec,
            mtime_nsec: created.nsec,
        }));
        if let Some(size) = self.synced {
            push(Body::Synced(Synced { size }));
        }
        match self.kind {
            ContentKind::Live if self.placed.is_none() => {
                push(Body::Live(Live { version: self.version, epoch: self.epoch }));
            }
            ContentKind::Live | ContentKind::Lost => {}
            ContentKind::Cached => pieces_bodies(&self.chunks).into_iter().for_each(&mut push),
            ContentKind::Sealed => {
                pieces_bodies(&self.chunks).into_iter().for_each(&mut push);
                push(Body::Sealed(Sealed {
                    version: self.version,
                    epoch: self.epoch,
                    size: self.size,
                    mtime_sec: self.mtime.sec,
                    mtime_nsec: self.mtime.nsec,
                    blocks: self.blocks,
                }));
            }
        }
        let level = self.exposure as u32;
        if self.exposure != Exposure::None {
            push(Body::Exposed(Exposed { level, session: 0 }));
        }
        for session in &self.writers {
            push(Body::Exposed(Exposed { level, session: *session }));
        }
        records
    }
}

/// The checksums of all chunks in a map, in runs of neighbours.
pub(crate) fn pieces_bodies(chunks: &ChunkMap) -> Vec<Body> {
    let mut bodies: Vec<Pieces> = Vec::new();
    for (number, chunk) in chunks.iter() {
        let (hole, crcs) = match chunk {
            Chunk::Hole => (true, &[][..]),
            Chunk::Data(pieces) => (false, pieces.kept()),
        };
        match bodies.last_mut() {
            Some(last)
                if last.hole == hole
                    && last.first_chunk + last.count == number
                    && (hole || last.count < CHUNKS_PER_RECORD as u64) =>
            {
                last.count += 1;
                last.crcs.extend_from_slice(crcs);
            }
            _ => bodies.push(Pieces { first_chunk: number, count: 1, hole, crcs: crcs.to_vec() }),
        }
    }
    bodies.into_iter().map(Body::Pieces).collect()
}

/// The state of a tier directory as its log tells it.
#[derive(Default)]
pub(crate) struct Replay {
    /// Boxed, so that the table of millions is small and grows quickly.
    pub contents: FastMap<ContentKey, Box<Known>>,
    /// Boot of the last store that was opened.
    pub boot_id: Option<String>,
    /// The last store was closed in order.
    pub closed: bool,
}

impl Replay {
    /// Takes one record into account. One that makes no sense for its content is ignored: it can only follow from
    /// records that were lost, and what is not known stays absent.
    pub fn apply(&mut self, record: &Record) {
        let Some(body) = &record.body else { return };
        let key = ContentKey::new(record.inode, record.generation);
        match body {
            Body::Boot(id) => {
                self.boot_id = Some(id.clone());
                self.closed = false;
                return;
            }
            Body::Closed(_) => {
                self.closed = true;
                return;
            }
            Body::Create(create) => {
                self.contents.insert(key, Box::new(Known::new(create)));
                return;
            }
            Body::Delete(_) => {
                self.contents.remove(&key);
                return;
            }
            Body::Lost(_) => {
                self.contents.insert(key, Box::new(Known::lost()));
                return;
            }
            Body::Live(_)
            | Body::Synced(_)
            | Body::Pieces(_)
            | Body::Sealed(_)
            | Body::Absent(_)
            | Body::Exposed(_)
            | Body::Stamped(_) => {}
        }
        let Some(known) = self.contents.get_mut(&key) else { return };
        match body {
            Body::Live(live) => {
                known.kind = ContentKind::Live;
                known.version = live.version;
                known.epoch = live.epoch;
                known.placed = None;
                known.chunks = ChunkMap::default();
            }
            Body::Stamped(stamped) => {
                known.mtime = Timestamp { sec: stamped.mtime_sec, nsec: stamped.mtime_nsec };
                known.placed = None;
            }
            Body::Synced(synced) => known.synced = Some(synced.size),
            Body::Pieces(pieces) => known.chunks.install(pieces.first_chunk, pieces.count, pieces.hole, &pieces.crcs),
            Body::Sealed(sealed) => {
                known.kind = ContentKind::Sealed;
                known.version = sealed.version;
                known.epoch = sealed.epoch;
                known.size = sealed.size;
                known.mtime = Timestamp { sec: sealed.mtime_sec, nsec: sealed.mtime_nsec };
                known.placed = None;
                known.synced = Some(sealed.size);
                known.blocks = sealed.blocks;
                known.exposure = known.exposure.min(Exposure::Read);
                known.writers.clear();
            }
            Body::Exposed(exposed) => {
                if exposed.level == 0 {
                    known.exposure = Exposure::None;
                    known.writers.clear();
                } else {
                    known.placed = None;
                    known.exposure = known.exposure.max(Exposure::of(exposed.level));
                    known.writers.extend(Some(exposed.session).filter(|session| *session != 0));
                }
            }
            Body::Absent(absent) => {
                for number in absent.first_chunk..absent.first_chunk.saturating_add(absent.count.min(1 << 24)) {
                    known.chunks.remove(number);
                }
            }
            Body::Create(_) | Body::Delete(_) | Body::Lost(_) | Body::Boot(_) | Body::Closed(_) => {}
        }
    }
}
