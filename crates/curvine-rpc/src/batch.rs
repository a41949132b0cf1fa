//! Frames on their way into a socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use curvine_proto::frame::{FLAG_DESCRIPTOR, FrameKind, HEADER_LEN, Header};
use tokio::time::Instant;

use crate::handlers::Slot;
use crate::service::encode;
use crate::socket::WriteHalf;
use crate::{Body, crc32c};

/// Most pieces handed to the kernel in one call.
const PIECES: usize = 64;

/// A frame that waits to be sent.
pub(crate) struct OutFrame {
    kind: FrameKind,
    method: u16,
    stream: u32,
    /// Of a request.
    deadline: Option<Instant>,
    /// Room for the header, then the meta part.
    bytes: BytesMut,
    body: Body,
    /// Leaves with the first byte; only over a Unix socket.
    descriptor: Option<Arc<OwnedFd>>,
    /// Of a reply: counts as a request in work until it has left.
    _slot: Option<Slot>,
}

impl OutFrame {
    /// `bytes` as made by `encode`.
    pub(crate) fn request(method: u16, stream: u32, deadline: Instant, bytes: BytesMut, body: Body) -> Self {
        let kind = FrameKind::Request;
        Self { kind, method, stream, deadline: Some(deadline), bytes, body, descriptor: None, _slot: None }
    }

    /// `bytes` as made by `encode`; `kind`: Reply or Error.
    pub(crate) fn answer(kind: FrameKind, stream: u32, bytes: BytesMut, body: Body, slot: Option<Slot>) -> Self {
        Self { kind, method: 0, stream, deadline: None, bytes, body, descriptor: None, _slot: slot }
    }

    /// The frame with a descriptor.
    pub(crate) fn with_descriptor(self, descriptor: Option<Arc<OwnedFd>>) -> Self {
        Self { descriptor, ..self }
    }

    pub(crate) fn cancel(stream: u32) -> Self {
        let bytes = encode(&curvine_proto::Empty {});
        Self::answer(FrameKind::Cancel, stream, bytes, Body::Empty, None)
    }

    pub(crate) fn is_request(&self, stream: u32) -> bool {
        self.kind == FrameKind::Request && self.stream == stream
    }

    /// The stream, if this is a request.
    pub(crate) fn request_stream(&self) -> Option<u32> {
        (self.kind == FrameKind::Request).then_some(self.stream)
    }

    /// Writes the header; only now, because it tells the time left. False: there is none left, nobody waits any more.
    fn seal(&mut self) -> bool {
        let left = match self.deadline {
            None => Duration::ZERO,
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => left,
                _ => return false,
            },
        };
        let left_ms = left.as_nanos().div_ceil(1_000_000);
        let Some((room, meta)) = self.bytes.split_first_chunk_mut::<HEADER_LEN>() else {
            return false;
        };
        let header = Header {
            kind: self.kind,
            flags: if self.descriptor.is_some() { FLAG_DESCRIPTOR } else { 0 },
            method: self.method,
            stream: self.stream,
            deadline_ms: u32::try_from(left_ms).unwrap_or(u32::MAX),
            meta_len: meta.len() as u32,
            data_len: self.body.len() as u32,
            meta_crc: crc32c(meta),
        };
        *room = header.encode(crc32c);
        true
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64 + self.body.len()
    }
}

/// Frames that somebody is writing, in order; of the first one `done` bytes have left.
#[derive(Default)]
pub(crate) struct Batch {
    frames: VecDeque<OutFrame>,
    done: u64,
}

/// How far a flush has come.
pub(crate) enum Flush {
    Done,
    /// The socket takes no more for now.
    Blocked,
    /// A file range is next, of which `done` bytes have left.
    File {
        body: Body,
        done: u64,
    },
    Failed(io::Error),
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes frames from the queue, as many as one call can write.
    pub(crate) fn fill(&mut self, queue: &mut VecDeque<OutFrame>) {
        while self.frames.len() < PIECES / 2 {
            match queue.pop_front() {
                Some(mut frame) => {
                    if frame.seal() {
                        self.frames.push_back(frame);
                    }
                }
                None => break,
            }
        }
    }

    /// Writes as much as the socket takes.
    pub(crate) fn flush(&mut self, half: &WriteHalf, sent: &AtomicU64) -> Flush {
        loop {
            let Some(first) = self.frames.front() else {
                return Flush::Done;
            };
            if let (Body::File { .. }, Some(done)) = (&first.body, self.done.checked_sub(first.bytes.len() as u64)) {
                return Flush::File { body: first.body.clone(), done };
            }
            match self.write_pieces(half) {
                Ok(count) => {
                    sent.fetch_add(count as u64, Ordering::Relaxed);
                    self.advance(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flush::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Flush::Failed(error),
            }
        }
    }

    /// One call for all that is in memory up to the first file range.
    fn write_pieces(&self, half: &WriteHalf) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        let mut skip = usize::try_from(self.done).unwrap_or(usize::MAX);
        let mut add = |bytes| {
            let rest = <[u8]>::get(bytes, skip..).unwrap_or_default();
            skip = skip.saturating_sub(bytes.len());
            if let (false, Some(piece)) = (rest.is_empty(), pieces.get_mut(count)) {
                *piece = IoSlice::new(rest);
                count += 1;
            }
        };
        let mut file_follows = false;
        let descriptor = self.frames.front().filter(|_| self.done == 0).and_then(|first| first.descriptor.as_ref());
        for (number, frame) in self.frames.iter().enumerate() {
            if number > 0 && frame.descriptor.is_some() {
                // It must be at the front of a call of its own: the descriptor leaves with the first byte.
                break;
            }
            add(&frame.bytes);
            match &frame.body {
                Body::Empty => {}
                Body::Bytes(bytes) => add(bytes),
                Body::File { .. } => {
                    file_follows = true;
                    break;
                }
            }
        }
        half.try_write(pieces.get(..count).unwrap_or_default(), file_follows, descriptor.map(|fd| fd.as_fd()))
    }

    /// Notes that `count` more bytes have left; frames that have left as a whole are dropped.
    pub(crate) fn advance(&mut self, count: usize) {
        self.done += count as u64;
        while let Some(first) = self.frames.front() {
            if self.done < first.len() {
                break;
            }
            self.done -= first.len();
            self.frames.pop_front();
        }
    }

    /// The frames of which no byte has left.
    pub(crate) fn into_unsent(mut self) -> Vec<OutFrame> {
        if self.done > 0 {
            self.frames.pop_front();
        }
        self.frames.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::encode;

    fn requests(streams: &[u32], deadline: Instant) -> VecDeque<OutFrame> {
        let body = || Body::Bytes(vec![0; 100].into());
        let bytes = || encode(&curvine_proto::Empty {});
        streams.iter().map(|stream| OutFrame::request(1, *stream, deadline, bytes(), body())).collect()
    }

    fn unsent(batch: Batch) -> Vec<u32> {
        batch.into_unsent().iter().filter_map(OutFrame::request_stream).collect()
    }

    #[test]
    fn a_request_of_which_a_byte_has_left_is_not_unsent() {
        let deadline = Instant::now() + Duration::from_secs(60);
        let frame = HEADER_LEN + 100;
        for (sent, expected) in [(0, vec![1, 3, 5]), (1, vec![3, 5]), (frame, vec![3, 5]), (frame + 50, vec![5])] {
            let mut batch = Batch::default();
            batch.fill(&mut requests(&[1, 3, 5], deadline));
            batch.advance(sent);
            assert_eq!(unsent(batch), expected, "after {sent} bytes");
        }
    }

    #[test]
    fn a_request_whose_deadline_has_passed_is_not_sent_any_more() {
        let mut batch = Batch::default();
        let mut queue = requests(&[1], Instant::now());
        queue.extend(requests(&[3], Instant::now() + Duration::from_secs(60)));
        batch.fill(&mut queue);
        assert_eq!((unsent(batch), queue.len()), (vec![3], 0));
    }
}
