//! Cuts what a socket delivers into frames.
//!
//! Always: a part is allocated only after its header was checked against the protocol's limits; large parts are read from
//! the socket straight into their own buffer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curvine_proto::frame::{FLAG_DESCRIPTOR, HEADER_LEN, Header};
use curvine_types::{Error, ErrorKind, Result};

use crate::crc32c;
use crate::socket::ReadHalf;

/// Read at once; what of it belongs to a large part is copied once more.
const BUFFER: usize = 16 << 10;
/// Descriptors that may come before the header that announces them.
const DESCRIPTORS: usize = 16;

/// The receiving end of a connection.
pub(crate) struct Inbox {
    half: ReadHalf,
    buffer: BytesMut,
    /// Received and not yet taken, in the order of their frames.
    descriptors: VecDeque<OwnedFd>,
}

impl Inbox {
    pub(crate) fn new(half: ReadHalf) -> Self {
        Self { half, buffer: BytesMut::with_capacity(BUFFER), descriptors: VecDeque::new() }
    }

    /// Whether the next header is here already.
    pub(crate) fn has_header(&self) -> bool {
        self.buffer.len() >= HEADER_LEN
    }

    /// Bytes that are here already.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame's header; `None`: the other side has ended the connection between two frames.
    pub(crate) async fn header(&mut self, received: &AtomicU64) -> Result<Option<Header>> {
        while self.buffer.len() < HEADER_LEN {
            self.buffer.reserve(BUFFER - self.buffer.len().min(BUFFER));
            let count = self.fill_buffer().await?;
            received.fetch_add(count as u64, Ordering::Relaxed);
            if count == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(lost(io::ErrorKind::UnexpectedEof.into())) };
            }
        }
        let Some(bytes) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = Header::decode(bytes, crc32c)?;
        self.buffer.advance(HEADER_LEN);
        Ok(Some(header))
    }

    /// Reads what is there, beyond the current frame too.
    async fn fill_buffer(&mut self) -> Result<usize> {
        let read = self.half.read_frames(&mut self.buffer, BUFFER, &mut self.descriptors).await.map_err(lost)?;
        if self.descriptors.len() > DESCRIPTORS {
            return Err(Error::new(ErrorKind::Corrupt, "the peer sends descriptors that belong to no frame"));
        }
        Ok(read)
    }

    /// The descriptor that came with a frame, if its header says so.
    pub(crate) fn descriptor(&mut self, header: &Header) -> Result<Option<OwnedFd>> {
        if header.flags & FLAG_DESCRIPTOR == 0 {
            return Ok(None);
        }
        let missing = || Error::new(ErrorKind::Corrupt, "a frame came without the descriptor that it announces");
        self.descriptors.pop_front().map(Some).ok_or_else(missing)
    }

    /// The meta part, checked.
    pub(crate) async fn meta(&mut self, header: &Header, received: &AtomicU64) -> Result<Bytes> {
        let length = header.meta_len as usize;
        let meta = self.part(length, BytesMut::with_capacity(length), received).await?;
        if crc32c(&meta) != header.meta_crc {
            return Err(Error::new(ErrorKind::Corrupt, "checksum of a message differs").with("length", meta.len()));
        }
        Ok(meta.freeze())
    }

    /// The next `length` bytes, in an empty buffer that has room for them.
    pub(crate) async fn part(&mut self, length: usize, mut part: BytesMut, received: &AtomicU64) -> Result<BytesMut> {
        let have = length.min(self.buffer.len());
        part.extend_from_slice(self.buffer.get(..have).unwrap_or_default());
        self.buffer.advance(have);
        while part.len() < length {
            let missing = length - part.len();
            let count = self.half.read(&mut (&mut part).limit(missing)).await.map_err(lost)?;
            received.fetch_add(count as u64, Ordering::Relaxed);
            if count == 0 {
                return Err(lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(part)
    }

    /// Drops the next `length` bytes.
    pub(crate) async fn skip(&mut self, mut length: usize, received: &AtomicU64) -> Result<()> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.buffer.reserve(BUFFER);
                let count = self.fill_buffer().await?;
                received.fetch_add(count as u64, Ordering::Relaxed);
                if count == 0 {
                    return Err(lost(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            let have = length.min(self.buffer.len());
            self.buffer.advance(have);
            length -= have;
        }
        Ok(())
    }
}

fn lost(error: io::Error) -> Error {
    Error::new(ErrorKind::ConnectionLost, "the connection broke").caused_by(error)
}
