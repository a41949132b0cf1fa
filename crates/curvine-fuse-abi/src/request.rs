//! A request as the kernel wrote it, checked and typed.
//!
//! Always: nothing in here panics, reads out of bounds or depends on alignment, whatever the bytes are; names never
//! contain NUL. Fixed arguments are copied, names and data are borrowed.

use curvine_types::{Error, ErrorKind, Result};
use zerocopy::FromBytes;

use crate::kernel::*;

/// What a request asks for, borrowing names and data from the buffer that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        nlookup: u64,
    },
    BatchForget {
        items: ForgetItems<'a>,
    },
    Getattr {
        fh: Option<u64>,
    },
    Statx {
        fh: Option<u64>,
        flags: u32,
        mask: u32,
    },
    Setattr(SetattrIn),
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    Mkdir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    /// Makes `name` in the header's node another name of `inode`.
    Link {
        inode: u64,
        name: &'a [u8],
    },
    Open {
        flags: u32,
        kill_privileges: bool,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        umask: u32,
        kill_privileges: bool,
    },
    Tmpfile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read(ReadIn),
    /// `data` starts at `data_offset` of the buffer that was parsed.
    Write {
        args: WriteIn,
        data: &'a [u8],
        data_offset: usize,
    },
    Statfs,
    Release(ReleaseIn),
    Flush {
        fh: u64,
        lock_owner: u64,
    },
    Fsync {
        fh: u64,
        datasync: bool,
    },
    Setxattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        /// An access ACL is set by somebody outside the file's group.
        kill_setgid: bool,
    },
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Opendir {
        flags: u32,
    },
    Readdir(ReadIn),
    Readdirplus(ReadIn),
    Releasedir(ReleaseIn),
    Fsyncdir {
        fh: u64,
        datasync: bool,
    },
    Getlk(LkIn),
    Setlk(LkIn),
    /// As `Setlk`, but waits.
    Setlkw(LkIn),
    Access {
        mask: u32,
    },
    Interrupt {
        unique: u64,
    },
    Init(InitRequest),
    Destroy,
    Fallocate(FallocateIn),
    Lseek {
        fh: u64,
        offset: u64,
        whence: u32,
    },
    /// `wide`: answered with 64 bits (COPY_FILE_RANGE_64).
    CopyFileRange {
        args: CopyFileRangeIn,
        wide: bool,
    },
    Syncfs,
    Ioctl(IoctlIn),
    Poll(PollIn),
    Bmap(BmapIn),
    /// Known, but never asked for with what INIT negotiates: SETUPMAPPING, REMOVEMAPPING, NOTIFY_REPLY.
    Unserved(Opcode),
    /// An opcode of a newer kernel.
    Unknown(u32),
}

/// The items of BATCH_FORGET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForgetItems<'a>(&'a [u8]);

impl<'a> ForgetItems<'a> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = ForgetOne> + use<'a> {
        self.0.chunks_exact(size_of::<ForgetOne>()).filter_map(|item| ForgetOne::read_from_bytes(item).ok())
    }
}

/// The kernel's side of the negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitRequest {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    /// Both halves, see [`init_flags`].
    pub flags: u64,
}

/// A header with its operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    pub header: InHeader,
    pub operation: Operation<'a>,
}

/// Parses one request; `InvalidArgument` for what is truncated or inconsistent.
///
/// A header that is itself complete can be had from [`header`] even then, so that the request can be refused.
pub fn parse(bytes: &[u8]) -> Result<Request<'_>> {
    let header = header(bytes)?;
    let mut body = Body { bytes: bytes.get(size_of::<InHeader>()..header.len as usize).unwrap_or_default(), header };
    // Extensions stand behind the arguments; none is negotiated, so they are skipped.
    let extensions = usize::from(header.total_extlen) * 8;
    let arguments = body.bytes.len().checked_sub(extensions).ok_or_else(|| body.invalid("extensions are longer"))?;
    body.bytes = body.bytes.get(..arguments).unwrap_or_default();
    let operation = operation(&mut body)?;
    Ok(Request { header, operation })
}

/// The header alone; `InvalidArgument` if the bytes are fewer than it says.
pub fn header(bytes: &[u8]) -> Result<InHeader> {
    let invalid = |message| Error::new(ErrorKind::InvalidArgument, message).with("length", bytes.len());
    let (header, _) = InHeader::read_from_prefix(bytes).map_err(|_| invalid("a request is shorter than its header"))?;
    let length = header.len as usize;
    if length < size_of::<InHeader>() || length > bytes.len() {
        return Err(invalid("a request has another length than its header says").with("want", length));
    }
    Ok(header)
}

fn operation<'a>(body: &mut Body<'a>) -> Result<Operation<'a>> {
    use Operation as Op;
    let Some(opcode) = Opcode::from_number(body.header.opcode) else {
        return Ok(Op::Unknown(body.header.opcode));
    };
    Ok(match opcode {
        Opcode::Lookup => Op::Lookup { name: body.name()? },
        Opcode::Forget => Op::Forget { nlookup: body.take::<ForgetIn>()?.nlookup },
        Opcode::BatchForget => {
            let count = body.take::<BatchForgetIn>()?.count as usize;
            let bytes = count.checked_mul(size_of::<ForgetOne>()).and_then(|length| body.bytes.get(..length));
            let items = ForgetItems(bytes.ok_or_else(|| body.invalid("fewer nodes to forget than announced"))?);
            Op::BatchForget { items }
        }
        Opcode::Getattr => {
            let args: GetattrIn = body.take()?;
            Op::Getattr { fh: (args.flags & GETATTR_FH != 0).then_some(args.fh) }
        }
        Opcode::Statx => {
            let args: StatxIn = body.take()?;
            let fh = (args.getattr_flags & GETATTR_FH != 0).then_some(args.fh);
            Op::Statx { fh, flags: args.sx_flags, mask: args.sx_mask }
        }
        Opcode::Setattr => Op::Setattr(body.take()?),
        Opcode::Readlink => Op::Readlink,
        Opcode::Symlink => Op::Symlink { name: body.name()?, target: body.string()? },
        Opcode::Mknod => {
            let args: MknodIn = body.take()?;
            Op::Mknod { name: body.name()?, mode: args.mode, rdev: args.rdev, umask: args.umask }
        }
        Opcode::Mkdir => {
            let args: MkdirIn = body.take()?;
            Op::Mkdir { name: body.name()?, mode: args.mode, umask: args.umask }
        }
        Opcode::Unlink => Op::Unlink { name: body.name()? },
        Opcode::Rmdir => Op::Rmdir { name: body.name()? },
        Opcode::Rename => {
            let args: RenameIn = body.take()?;
            Op::Rename { name: body.name()?, new_parent: args.newdir, new_name: body.name()?, flags: 0 }
        }
        Opcode::Rename2 => {
            let args: Rename2In = body.take()?;
            Op::Rename { name: body.name()?, new_parent: args.newdir, new_name: body.name()?, flags: args.flags }
        }
        Opcode::Link => Op::Link { inode: body.take::<LinkIn>()?.oldnodeid, name: body.name()? },
        Opcode::Open => {
            let args: OpenIn = body.take()?;
            Op::Open { flags: args.flags, kill_privileges: args.open_flags & OPEN_KILL_SUIDGID != 0 }
        }
        Opcode::Create => {
            let args: CreateIn = body.take()?;
            Op::Create {
                name: body.name()?,
                flags: args.flags,
                mode: args.mode,
                umask: args.umask,
                kill_privileges: args.open_flags & OPEN_KILL_SUIDGID != 0,
            }
        }
        Opcode::Tmpfile => {
            let args: CreateIn = body.take()?;
            Op::Tmpfile { flags: args.flags, mode: args.mode, umask: args.umask }
        }
        Opcode::Read => Op::Read(body.take()?),
        Opcode::Write => {
            let args: WriteIn = body.take()?;
            let data = body.exactly(args.size)?;
            Op::Write { args, data, data_offset: size_of::<InHeader>() + size_of::<WriteIn>() }
        }
        Opcode::Statfs => Op::Statfs,
        Opcode::Release => Op::Release(body.take()?),
        Opcode::Flush => {
            let args: FlushIn = body.take()?;
            Op::Flush { fh: args.fh, lock_owner: args.lock_owner }
        }
        Opcode::Fsync => {
            let args: FsyncIn = body.take()?;
            Op::Fsync { fh: args.fh, datasync: args.flags & FSYNC_FDATASYNC != 0 }
        }
        Opcode::Fsyncdir => {
            let args: FsyncIn = body.take()?;
            Op::Fsyncdir { fh: args.fh, datasync: args.flags & FSYNC_FDATASYNC != 0 }
        }
        Opcode::Setxattr => {
            let args: SetxattrIn = body.take()?;
            let kill_setgid = body.setxattr_ext(args.size)? & SETXATTR_ACL_KILL_SGID != 0;
            let name = body.name()?;
            Op::Setxattr { name, value: body.exactly(args.size)?, flags: args.flags, kill_setgid }
        }
        Opcode::Getxattr => {
            let size = body.take::<GetxattrIn>()?.size;
            Op::Getxattr { name: body.name()?, size }
        }
        Opcode::Listxattr => Op::Listxattr { size: body.take::<GetxattrIn>()?.size },
        Opcode::Removexattr => Op::Removexattr { name: body.name()? },
        Opcode::Opendir => Op::Opendir { flags: body.take::<OpenIn>()?.flags },
        Opcode::Readdir => Op::Readdir(body.take()?),
        Opcode::Readdirplus => Op::Readdirplus(body.take()?),
        Opcode::Releasedir => Op::Releasedir(body.take()?),
        Opcode::Getlk => Op::Getlk(body.take()?),
        Opcode::Setlk => Op::Setlk(body.take()?),
        Opcode::Setlkw => Op::Setlkw(body.take()?),
        Opcode::Access => Op::Access { mask: body.take::<AccessIn>()?.mask },
        Opcode::Interrupt => Op::Interrupt { unique: body.take::<InterruptIn>()?.unique },
        Opcode::Init => Op::Init(body.init()?),
        Opcode::Destroy => Op::Destroy,
        Opcode::Fallocate => Op::Fallocate(body.take()?),
        Opcode::Lseek => {
            let args: LseekIn = body.take()?;
            Op::Lseek { fh: args.fh, offset: args.offset, whence: args.whence }
        }
        Opcode::CopyFileRange | Opcode::CopyFileRange64 => {
            Op::CopyFileRange { args: body.take()?, wide: opcode == Opcode::CopyFileRange64 }
        }
        Opcode::Syncfs => Op::Syncfs,
        Opcode::Ioctl => Op::Ioctl(body.take()?),
        Opcode::Poll => Op::Poll(body.take()?),
        Opcode::Bmap => Op::Bmap(body.take()?),
        Opcode::SetupMapping | Opcode::RemoveMapping | Opcode::NotifyReply => Op::Unserved(opcode),
    })
}

/// What has not been consumed of a request's arguments.
struct Body<'a> {
    bytes: &'a [u8],
    header: InHeader,
}

impl<'a> Body<'a> {
    fn invalid(&self, message: &str) -> Error {
        Error::new(ErrorKind::InvalidArgument, message)
            .with("opcode", self.header.opcode)
            .with("length", self.header.len)
    }

    /// The next fixed-size argument.
    fn take<T: FromBytes>(&mut self) -> Result<T> {
        let (value, rest) =
            T::read_from_prefix(self.bytes).map_err(|_| self.invalid("arguments of a request are truncated"))?;
        self.bytes = rest;
        Ok(value)
    }

    /// The bytes up to the next NUL, which is consumed too.
    fn string(&mut self) -> Result<&'a [u8]> {
        let end = self.bytes.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| self.invalid("a string in a request does not end"))?;
        let (string, rest) = self.bytes.split_at(end);
        self.bytes = rest.get(1..).unwrap_or_default();
        Ok(string)
    }

    /// A string that is not empty.
    fn name(&mut self) -> Result<&'a [u8]> {
        let name = self.string()?;
        if name.is_empty() { Err(self.invalid("a name in a request is empty")) } else { Ok(name) }
    }

    /// The flags of `SetxattrExt`, where it is: then the bytes are not just a name and a value.
    fn setxattr_ext(&mut self, size: u32) -> Result<u32> {
        let name = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(self.bytes.len());
        if name > 0 && self.bytes.len() == name + 1 + size as usize {
            return Ok(0);
        }
        Ok(self.take::<SetxattrExt>()?.flags)
    }

    /// The next `size` bytes.
    fn exactly(&mut self, size: u32) -> Result<&'a [u8]> {
        let (data, rest) = self
            .bytes
            .split_at_checked(size as usize)
            .ok_or_else(|| self.invalid("the data of a request is truncated"))?;
        self.bytes = rest;
        Ok(data)
    }

    fn init(&mut self) -> Result<InitRequest> {
        let args: InitIn = self.take()?;
        let mut flags = u64::from(args.flags);
        if flags & init_flags::INIT_EXT != 0
            && let Ok((flags2, _)) = u32::read_from_prefix(self.bytes)
        {
            flags |= u64::from(flags2) << 32;
        }
        Ok(InitRequest { major: args.major, minor: args.minor, max_readahead: args.max_readahead, flags })
    }
}

#[cfg(test)]
#[path = "request_test.rs"]
mod tests;
