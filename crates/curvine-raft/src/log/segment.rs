//! The format of a segment file: a header, then records without gaps.
//!
//! ```text
//! header   0 magic "CVlog\r\n\x1a"   8 version u32   12 cluster [16]   28 flags u32 (1 begins, 2 has previous)
//!         32 first index u64   40 previous term u64   48 node u64   56 index u64   64 CRC-32C u32 of 0..64   68 zero u32
//! record   0 len u32 of the payload   4 CRC-32C u32 of len and payload   8 payload: an encoded entry
//! ```
//!
//! `previous` is the log id before the first. *Begins* says that the log starts with this file whatever lies before it (after a
//! snapshot of another replica was installed). A record carries how much of its file was already on stable storage when it was
//! written: that tells a torn tail, whose bytes nobody ever acknowledged, from damage to acknowledged data. Behind the last record of the
//! last segment there may be zeroes: room for the next ones.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use curvine_types::{ClusterId, Result};

use crate::entry::{ENTRY_MAX, Entry, FIXED_LEN, LogId, RecordInfo, decode_entry, decode_fixed, encode_entry, log_id};
use crate::format::{Fields, check_preamble, corrupt, crc32c, put_preamble};

const MAGIC: &[u8; 8] = b"CVlog\r\n\x1a";
/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 72;
const RECORD_HEADER: usize = 8;
const FLAG_BEGINS: u32 = 1;
const FLAG_PREVIOUS: u32 = 2;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub cluster: ClusterId,
    pub first: u64,
    pub begins: bool,
    pub previous: Option<LogId>,
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        put_preamble(&mut out, MAGIC, self.cluster);
        let flags = u32::from(self.begins) * FLAG_BEGINS + u32::from(self.previous.is_some()) * FLAG_PREVIOUS;
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        let previous = self.previous.unwrap_or_default();
        out.extend_from_slice(&previous.leader_id.term.to_le_bytes());
        out.extend_from_slice(&previous.leader_id.node_id.to_le_bytes());
        out.extend_from_slice(&previous.index.to_le_bytes());
        out.extend_from_slice(&crc32c(&[&out]).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out
    }

    pub fn decode(bytes: &[u8], path: &Path, cluster: ClusterId) -> Result<Self> {
        let short = || corrupt(path, 0, "the segment is shorter than its header");
        let mut fields = Fields(bytes);
        check_preamble(&mut fields, path, MAGIC, Some(cluster))?;
        let flags = fields.u32().ok_or_else(short)?;
        let first = fields.u64().ok_or_else(short)?;
        let previous =
            log_id(fields.u64().ok_or_else(short)?, fields.u64().ok_or_else(short)?, fields.u64().ok_or_else(short)?);
        let covered = bytes.len() - fields.0.len();
        let sum = fields.u32().ok_or_else(short)?;
        if sum != crc32c(&[&bytes[..covered]]) || fields.array::<4>().ok_or_else(short)? != [0; 4] {
            return Err(corrupt(path, 0, "checksum of the segment's header differs"));
        }
        let previous = (flags & FLAG_PREVIOUS != 0).then_some(previous);
        Ok(Self { cluster, first, begins: flags & FLAG_BEGINS != 0, previous })
    }
}

/// `log-<first index, 20 digits>.seg`.
pub(crate) fn file_name(first: u64) -> PathBuf {
    format!("log-{first:020}.seg").into()
}

/// The first index in a segment's name; `None` for other files.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Appends one record.
pub(crate) fn put_record(entry: &Entry, info: RecordInfo, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER]);
    encode_entry(entry, info, out);
    let payload = start + RECORD_HEADER;
    let length = ((out.len() - payload) as u32).to_le_bytes();
    let sum = crc32c(&[&length, &out[payload..]]).to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..payload].copy_from_slice(&sum);
}

/// The verified payload at the front of `bytes`.
fn check_record(bytes: &[u8]) -> std::result::Result<&[u8], &'static str> {
    let mut fields = Fields(bytes);
    let (Some(length), Some(sum)) = (fields.u32(), fields.u32()) else {
        return Err("a record is incomplete");
    };
    if !(FIXED_LEN..=ENTRY_MAX).contains(&(length as usize)) {
        return Err("a record has an impossible length");
    }
    let payload = fields.bytes(length as usize).ok_or("a record is incomplete")?;
    if sum != crc32c(&[&length.to_le_bytes(), payload]) {
        return Err("checksum of a record differs");
    }
    Ok(payload)
}

/// Reads the entry of a whole record.
pub(crate) fn read_record(record: &Bytes, path: &Path, offset: u64) -> Result<Entry> {
    let payload = check_record(record).map_err(|what| corrupt(path, offset, what))?;
    decode_entry(&record.slice_ref(payload)).map_err(|error| error.with("file", path.display()).with("offset", offset))
}

/// The records of a segment, as far as they are good.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Where each record ends.
    pub ends: Vec<u32>,
    pub last: Option<LogId>,
    /// The `committed` of the last record.
    pub committed: u64,
    /// Where the first record that is not good starts, and what is wrong with it.
    pub bad: Option<(u64, &'static str)>,
    /// There is nothing but zeroes from there on.
    pub room: bool,
}

/// Walks the records of a whole segment file whose header has been checked.
pub(crate) fn scan(bytes: &[u8], first: u64) -> Scan {
    let mut scan = Scan::default();
    let mut offset = HEADER_LEN;
    while offset < bytes.len() {
        let payload = match check_record(&bytes[offset..]) {
            Ok(payload) => payload,
            Err(what) => {
                scan.bad = Some((offset as u64, what));
                scan.room = bytes[offset..].iter().all(|byte| *byte == 0);
                break;
            }
        };
        let expected = first + scan.ends.len() as u64;
        let Some((id, info)) = decode_fixed(payload).filter(|(id, _)| id.index == expected) else {
            scan.bad = Some((offset as u64, "a record is not the next entry of the log"));
            break;
        };
        offset += RECORD_HEADER + payload.len();
        scan.ends.push(offset as u32);
        scan.last = Some(id);
        scan.committed = info.committed;
    }
    scan
}

/// Looks behind a bad record for a good one which proves that the bad one had been on stable storage. Returns its offset.
pub(crate) fn proof_of_damage(bytes: &[u8], bad: u64, next_index: u64) -> Option<u64> {
    let from = bad as usize + 1;
    (from..bytes.len().saturating_sub(RECORD_HEADER + FIXED_LEN)).find_map(|offset| {
        // Cheap tests first: this runs over every byte.
        let (id, info) = decode_fixed(&bytes[offset + RECORD_HEADER..])?;
        let proves = id.index >= next_index && u64::from(info.durable) > bad && info.durable as usize <= offset;
        (proves && check_record(&bytes[offset..]).is_ok()).then_some(offset as u64)
    })
}
