//! A stream socket, TCP or Unix, as a half that reads and a half that writes without ever blocking.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use bytes::{BufMut, BytesMut};
use curvine_types::{Error, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, sockopt,
};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// Buffers of a Unix socket, which the kernel does not tune by itself as it does those of TCP.
const UNIX_BUFFER: usize = 2 << 20;

/// The receiving half.
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// The sending half.
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

/// Sets the options of a TCP stream and splits it.
pub(crate) fn split_tcp(stream: TcpStream) -> Result<(ReadHalf, WriteHalf)> {
    stream.set_nodelay(true).map_err(|error| Error::from_io(error, "cannot set options of a socket"))?;
    let (read, write) = stream.into_split();
    Ok((ReadHalf::Tcp(read), WriteHalf::Tcp(write)))
}

/// Sets the options of a Unix stream and splits it.
pub(crate) fn split_unix(stream: UnixStream) -> (ReadHalf, WriteHalf) {
    // Smaller buffers cost speed, nothing else; above the system's limit only root gets them.
    if sockopt::set_socket_send_buffer_size_force(&stream, UNIX_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&stream, UNIX_BUFFER);
    }
    let (read, write) = stream.into_split();
    (ReadHalf::Unix(read), WriteHalf::Unix(write))
}

impl ReadHalf {
    /// Reads what is there into the room of `buffer`; 0: the other side has ended the stream.
    pub(crate) async fn read(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            ReadHalf::Tcp(half) => half.read_buf(buffer).await,
            ReadHalf::Unix(half) => half.read_buf(buffer).await,
        }
    }

    /// As `read`, up to `limit` bytes, of which the first of a frame may come with a descriptor.
    ///
    /// Only this takes descriptors: what `read` or `read_exact` meets the kernel closes.
    pub(crate) async fn read_frames(
        &mut self,
        buffer: &mut BytesMut,
        limit: usize,
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> io::Result<usize> {
        let half = match self {
            ReadHalf::Tcp(half) => return half.read_buf(&mut buffer.limit(limit)).await,
            ReadHalf::Unix(half) => half,
        };
        let stream: &UnixStream = half.as_ref();
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive(stream, buffer, limit, descriptors)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                outcome => return outcome,
            }
        }
    }

    /// Fills `buffer` to its end.
    pub(crate) async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            ReadHalf::Tcp(half) => half.read_exact(buffer).await?,
            ReadHalf::Unix(half) => half.read_exact(buffer).await?,
        };
        Ok(())
    }
}

impl WriteHalf {
    fn try_io<R>(&self, io: impl FnOnce(rustix::fd::BorrowedFd<'_>) -> rustix::io::Result<R>) -> io::Result<R> {
        use std::os::fd::AsFd;
        match self {
            WriteHalf::Tcp(half) => {
                let stream = half.as_ref();
                stream.try_io(Interest::WRITABLE, || Ok(io(stream.as_fd())?))
            }
            WriteHalf::Unix(half) => {
                let stream = half.as_ref();
                stream.try_io(Interest::WRITABLE, || Ok(io(stream.as_fd())?))
            }
        }
    }

    /// Whether the other side is a process of this machine, so that descriptors can be sent.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, WriteHalf::Unix(_))
    }

    /// Sends as much as fits; `more`: the rest of a frame follows at once. A descriptor leaves with the first byte.
    pub(crate) fn try_write(
        &self,
        slices: &[IoSlice<'_>],
        more: bool,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<usize> {
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let Some(descriptor) = descriptor else {
            return self
                .try_io(|socket| rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags));
        };
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        self.try_io(|socket| rustix::net::sendmsg(socket, slices, &mut ancillary, flags))
    }

    /// Has the kernel send as much of the file's range as fits; 0: the file ends before `offset`. May wait for the disk.
    pub(crate) fn try_send_file(&self, file: &File, mut offset: u64, count: usize) -> io::Result<usize> {
        self.try_io(|socket| rustix::fs::sendfile(socket, file, Some(&mut offset), count))
    }

    /// Waits until something may fit again, or the socket is broken.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            WriteHalf::Tcp(half) => half.writable().await,
            WriteHalf::Unix(half) => half.writable().await,
        }
    }

    /// Sends all of `bytes`.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(&[IoSlice::new(bytes)], false, None) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) {
        // Fails only if the other side was faster.
        let _ = match self {
            WriteHalf::Tcp(half) => rustix::net::shutdown(half.as_ref(), how),
            WriteHalf::Unix(half) => rustix::net::shutdown(half.as_ref(), how),
        };
    }

    /// Ends both directions, which wakes whoever waits for either.
    pub(crate) fn close(&self) {
        self.shutdown(Shutdown::Both);
    }

    /// Ends the sending direction; the other side reads all that was sent, then the end.
    pub(crate) fn finish(&self) {
        self.shutdown(Shutdown::Write);
    }
}

/// One `recvmsg`; the kernel ends it behind the bytes that came with a descriptor.
fn receive(
    stream: &UnixStream,
    buffer: &mut BytesMut,
    limit: usize,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    /// Memory that is at hand and initialised; what is read is copied once.
    const CHUNK: usize = 16 << 10;
    let mut chunk = [0; CHUNK];
    let room = limit.min(CHUNK).min(buffer.capacity() - buffer.len());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(chunk.get_mut(..room).unwrap_or_default())];
    let got = rustix::net::recvmsg(stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    buffer.put_slice(chunk.get(..got.bytes).unwrap_or_default());
    Ok(got.bytes)
}

/// The peer's address for messages.
pub(crate) fn describe_unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}
