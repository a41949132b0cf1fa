//! The frame header: 32 bytes before each message, little endian.
//!
//! ```text
//! 0  magic   "CVn1"        4  kind u8   5  flags u8   6  method u16
//! 8  stream  u32          12  deadline_ms u32 (time left when sent; 0 in replies)
//! 16 meta_len u32         20  data_len u32
//! 24 meta_crc u32 (CRC-32C of the meta part)          28 header_crc u32 (CRC-32C of bytes 0..28)
//! ```
//!
//! The meta part is a protobuf message; the data part is raw and has its own checksums in the message. Streams opened by
//! the dialer are odd, by the acceptor even; a reply has its request's stream.

use curvine_types::limits::{IO_MAX, META_MAX, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, Result};

/// Bytes of a header.
pub const HEADER_LEN: usize = 32;
/// First bytes of every frame: the protocol's first version.
pub const MAGIC: [u8; 4] = *b"CVn1";
/// Flag: a descriptor comes with the first byte of this frame (SCM_RIGHTS; Unix sockets only).
pub const FLAG_DESCRIPTOR: u8 = 1;
/// Longest data part: IO_MAX widened to pieces at both ends.
pub const DATA_MAX: usize = IO_MAX + 2 * PIECE_SIZE as usize;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Request = 1,
    Reply = 2,
    /// A reply whose meta is an `ErrorBody`.
    Error = 3,
    /// The requester no longer waits; no parts.
    Cancel = 4,
    /// `Hello`, `Challenge`, `Proof` and `Welcome`.
    Handshake = 5,
}

/// A frame's header without magic and checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: FrameKind,
    pub flags: u8,
    pub method: u16,
    pub stream: u32,
    pub deadline_ms: u32,
    pub meta_len: u32,
    pub data_len: u32,
    pub meta_crc: u32,
}

impl Header {
    /// The bytes on the wire; `crc32c` is the checksum function.
    pub fn encode(&self, crc32c: impl Fn(&[u8]) -> u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.method.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.stream.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.deadline_ms.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.data_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.meta_crc.to_le_bytes());
        let crc = crc32c(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `Corrupt` for what no peer of ours sends, before any length in it is believed.
    pub fn decode(bytes: &[u8; HEADER_LEN], crc32c: impl Fn(&[u8]) -> u32) -> Result<Self> {
        let corrupt = |message: &str| Error::new(ErrorKind::Corrupt, message);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[0..4] != MAGIC {
            return Err(corrupt("not a curvine frame; is the port of another service?"));
        }
        if word(28) != crc32c(&bytes[..28]) {
            return Err(corrupt("checksum of a frame header differs"));
        }
        let kind = match bytes[4] {
            1 => FrameKind::Request,
            2 => FrameKind::Reply,
            3 => FrameKind::Error,
            4 => FrameKind::Cancel,
            5 => FrameKind::Handshake,
            _ => return Err(corrupt("unknown kind of frame")),
        };
        let header = Self {
            kind,
            flags: bytes[5],
            method: u16::from_le_bytes([bytes[6], bytes[7]]),
            stream: word(8),
            deadline_ms: word(12),
            meta_len: word(16),
            data_len: word(20),
            meta_crc: word(24),
        };
        if header.meta_len as usize > META_MAX || header.data_len as usize > DATA_MAX {
            return Err(corrupt("a frame is larger than the protocol allows")
                .with("length", u64::from(header.meta_len) + u64::from(header.data_len)));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u32 {
        bytes.iter().fold(1, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
    }

    fn header() -> Header {
        Header {
            kind: FrameKind::Request,
            flags: 0,
            method: 100,
            stream: 7,
            deadline_ms: 5000,
            meta_len: 12,
            data_len: 1 << 20,
            meta_crc: 42,
        }
    }

    #[test]
    fn a_header_survives_the_wire() {
        assert_eq!(Header::decode(&header().encode(sum), sum).unwrap(), header());
    }

    #[test]
    fn a_damaged_or_oversized_header_is_refused() {
        let good = header().encode(sum);
        for position in 0..HEADER_LEN {
            let mut bad = good;
            bad[position] ^= 0x10;
            assert_eq!(Header::decode(&bad, sum).unwrap_err().kind(), ErrorKind::Corrupt, "byte {position}");
        }
        let huge = Header { data_len: u32::MAX, ..header() };
        assert!(Header::decode(&huge.encode(sum), sum).is_err());
    }
}
