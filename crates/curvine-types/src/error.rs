//! The one error type: a kind, context as key=value, and the source.
//!
//! Always: the kind alone decides the errno (here, in one place) and whether a caller may try again.

use std::fmt;

/// What went wrong, as a caller must distinguish it. The number is part of the protocol: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorKind {
    NotFound = 1,
    AlreadyExists = 2,
    NotADirectory = 3,
    IsADirectory = 4,
    DirectoryNotEmpty = 5,
    PermissionDenied = 6,
    NotPermitted = 7,
    InvalidArgument = 8,
    NameTooLong = 9,
    FileTooLarge = 10,
    NoSpace = 11,
    ReadOnly = 12,
    CrossDevice = 13,
    TooManyLinks = 14,
    /// The extended attribute does not exist.
    NoAttribute = 15,
    /// The caller's buffer or a fixed limit is too small for the value.
    OutOfRange = 16,
    TooBig = 17,
    NotSupported = 18,
    /// A lock is held by somebody else and the caller would not wait.
    WouldBlock = 19,
    Deadlock = 20,
    /// The caller was interrupted while it waited.
    Interrupted = 21,
    /// The inode or content that was named is gone.
    Stale = 22,
    QuotaExceeded = 23,
    Busy = 24,
    NoDevice = 25,
    /// Nobody answered in time; the outcome of a mutation is unknown to the caller.
    TimedOut = 40,
    /// The peer cannot be reached or is not ready; nothing was executed.
    Unavailable = 41,
    /// This master is not the leader; the context may name who is.
    NotLeader = 42,
    /// The session ended; nothing of it is ever executed again.
    SessionExpired = 43,
    /// Generation, version or epoch differ from what the receiver holds; ask the master and try again.
    VersionMismatch = 44,
    /// A compare-and-set found another state; look again and retry.
    Conflict = 45,
    /// The peer could not prove that it belongs to the cluster, or may not do this.
    Unauthenticated = 46,
    /// A queue or budget is full for now.
    Overloaded = 47,
    /// The connection broke while a request was under way; whether it was executed is unknown to the caller.
    ConnectionLost = 48,
    /// The receiver works but its data is not usable: absent without a source, or a checksum differs.
    DataLoss = 60,
    /// Bytes on disk or on the wire are not what they must be.
    Corrupt = 61,
    Io = 62,
    /// A file or a peer of another cluster or of an unreadable format version.
    Foreign = 63,
    /// A mistake in configuration or command line.
    Config = 64,
    /// The under file system refused or failed.
    Ufs = 65,
    /// A broken invariant of our own.
    Internal = 66,
}

impl ErrorKind {
    const ALL: [ErrorKind; 41] = {
        use ErrorKind::*;
        [
            NotFound,
            AlreadyExists,
            NotADirectory,
            IsADirectory,
            DirectoryNotEmpty,
            PermissionDenied,
            NotPermitted,
            InvalidArgument,
            NameTooLong,
            FileTooLarge,
            NoSpace,
            ReadOnly,
            CrossDevice,
            TooManyLinks,
            NoAttribute,
            OutOfRange,
            TooBig,
            NotSupported,
            WouldBlock,
            Deadlock,
            Interrupted,
            Stale,
            QuotaExceeded,
            Busy,
            NoDevice,
            TimedOut,
            Unavailable,
            NotLeader,
            SessionExpired,
            VersionMismatch,
            Conflict,
            Unauthenticated,
            Overloaded,
            ConnectionLost,
            DataLoss,
            Corrupt,
            Io,
            Foreign,
            Config,
            Ufs,
            Internal,
        ]
    };

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The kind of a wire number; an unknown one, of a newer peer, is `Internal`.
    pub fn from_code(code: u32) -> Self {
        Self::ALL.into_iter().find(|kind| kind.code() == code).unwrap_or(ErrorKind::Internal)
    }

    /// The errno that an application sees.
    pub fn errno(self) -> i32 {
        use ErrorKind::*;
        match self {
            NotFound => libc::ENOENT,
            AlreadyExists => libc::EEXIST,
            NotADirectory => libc::ENOTDIR,
            IsADirectory => libc::EISDIR,
            DirectoryNotEmpty => libc::ENOTEMPTY,
            PermissionDenied => libc::EACCES,
            NotPermitted => libc::EPERM,
            InvalidArgument | Config => libc::EINVAL,
            NameTooLong => libc::ENAMETOOLONG,
            FileTooLarge => libc::EFBIG,
            NoSpace => libc::ENOSPC,
            ReadOnly => libc::EROFS,
            CrossDevice => libc::EXDEV,
            TooManyLinks => libc::EMLINK,
            NoAttribute => libc::ENODATA,
            OutOfRange => libc::ERANGE,
            TooBig => libc::E2BIG,
            NotSupported => libc::EOPNOTSUPP,
            WouldBlock => libc::EAGAIN,
            Deadlock => libc::EDEADLK,
            Interrupted => libc::EINTR,
            Stale => libc::ESTALE,
            QuotaExceeded => libc::EDQUOT,
            Busy => libc::EBUSY,
            NoDevice => libc::ENXIO,
            TimedOut => libc::ETIMEDOUT,
            Unauthenticated => libc::EACCES,
            Unavailable | NotLeader | SessionExpired | VersionMismatch | Conflict | Overloaded | ConnectionLost
            | DataLoss | Corrupt | Io | Foreign | Ufs | Internal => libc::EIO,
        }
    }

    /// Whether the same request may be sent again without harm: it was not executed.
    pub fn is_retryable(self) -> bool {
        use ErrorKind::*;
        matches!(self, Unavailable | NotLeader | VersionMismatch | Conflict | Overloaded)
    }
}

/// `Result` with the one error type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A kind, a message that names the thing and the way out, context, and the source.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// `message`: lowercase, no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    /// Adds context.
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without context and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The first value of a context key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(have, _)| *have == key).map(|(_, value)| value.as_str())
    }

    /// The errno that an application sees.
    pub fn errno(&self) -> i32 {
        self.0.kind.errno()
    }

    /// An operating system error, its kind taken from the errno.
    pub fn from_io(source: std::io::Error, message: impl Into<String>) -> Self {
        use std::io::ErrorKind as Os;
        let kind = match (source.raw_os_error(), source.kind()) {
            (Some(libc::ENOSPC), _) => ErrorKind::NoSpace,
            (Some(libc::EDQUOT), _) => ErrorKind::NoSpace,
            (Some(libc::EROFS), _) => ErrorKind::ReadOnly,
            (Some(libc::EFBIG), _) => ErrorKind::FileTooLarge,
            (Some(libc::EACCES), _) => ErrorKind::PermissionDenied,
            (Some(libc::EPERM), _) => ErrorKind::NotPermitted,
            (_, Os::NotFound) => ErrorKind::NotFound,
            (_, Os::AlreadyExists) => ErrorKind::AlreadyExists,
            (_, Os::TimedOut) => ErrorKind::TimedOut,
            (
                _,
                Os::ConnectionRefused | Os::ConnectionReset | Os::ConnectionAborted | Os::NotConnected | Os::BrokenPipe,
            ) => ErrorKind::Unavailable,
            _ => ErrorKind::Io,
        };
        Self::new(kind, message).caused_by(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (position, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}={value}", if position == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
            assert!(kind.errno() > 0);
        }
        assert_eq!(ErrorKind::from_code(9999), ErrorKind::Internal);
    }

    #[test]
    fn an_error_says_what_where_and_why() {
        let error = Error::from_io(std::io::Error::from_raw_os_error(libc::ENOSPC), "cannot append to the log")
            .with("file", "/data/x");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.errno(), libc::ENOSPC);
        assert!(error.to_string().starts_with("cannot append to the log (file=/data/x): No space left"));
    }
}
