//! Messages with descriptors between processes of one machine, over a pair of sockets.
//!
//! Always: a message arrives whole or not at all, its descriptors with it; the end of the other side is told apart from silence.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most bytes of one message.
pub const MESSAGE_MAX: usize = 64 << 10;
/// Most descriptors that the kernel sends with one message.
pub const DESCRIPTORS_MAX: usize = 253;

/// One end.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

/// What came over a link.
#[derive(Debug, Default)]
pub struct Received {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl Link {
    /// Two ends that belong together.
    pub fn pair() -> Result<(Self, Self)> {
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (one, other) = pair.map_err(|errno| Error::from_io(errno.into(), "cannot make a pair of sockets"))?;
        Ok((Self { fd: one }, Self { fd: other }))
    }

    /// Sends a message; waits while the other side has not read earlier ones.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        if bytes.is_empty() || bytes.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a message for another process")
                .with("length", bytes.len())
                .with("descriptors", descriptors.len()));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Error::new(ErrorKind::Internal, "descriptors do not fit into a message"));
        }
        loop {
            return match rustix::net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno @ (Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN)) => {
                    Err(Error::new(ErrorKind::ConnectionLost, "the other process is gone").caused_by(errno))
                }
                Err(errno) => Err(Error::from_io(errno.into(), "cannot send to the other process")),
            };
        }
    }

    /// The next message; `None` when the other side is closed.
    pub fn receive(&self) -> Result<Option<Received>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.fd, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(Error::from_io(errno.into(), "cannot receive from the other process")),
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Error::new(ErrorKind::Corrupt, "a message of the other process was cut off")
                .with("descriptors", descriptors.len()));
        }
        bytes.truncate(got.bytes);
        Ok(Some(Received { bytes, descriptors }))
    }

    /// Waits for a message or the end of the other side; false after `timeout`.
    pub fn wait_readable(&self, timeout: Duration) -> Result<bool> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(Error::from_io(errno.into(), "cannot poll a socket")),
        }
    }
}

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.fd
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn a_message_brings_its_descriptors_and_the_end_is_noticed() {
        let (one, other) = Link::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        one.send(b"first", &[file.as_fd(), file.as_fd()]).unwrap();
        one.send(b"second", &[]).unwrap();
        let first = other.receive().unwrap().unwrap();
        assert_eq!((&first.bytes[..], first.descriptors.len()), (&b"first"[..], 2));
        let mut copy = std::fs::File::from(first.descriptors.into_iter().next().unwrap());
        copy.rewind().unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!(other.receive().unwrap().unwrap().bytes, b"second");
        assert!(!other.wait_readable(Duration::ZERO).unwrap());
        drop(one);
        assert!(other.wait_readable(Duration::from_secs(5)).unwrap());
        assert!(other.receive().unwrap().is_none());
        assert_eq!(other.send(b"x", &[]).unwrap_err().kind(), ErrorKind::ConnectionLost);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (one, _other) = Link::pair().unwrap();
        assert!(one.send(&vec![0; MESSAGE_MAX + 1], &[]).is_err());
        assert!(one.send(b"", &[]).is_err());
        let many = vec![one.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(one.send(b"x", &many).is_err());
    }
}
