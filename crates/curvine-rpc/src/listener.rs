//! The sockets that a server listens on.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::socket::{ReadHalf, WriteHalf, describe_unix, split_tcp, split_unix};

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// `Busy` if somebody else listens there.
    pub(crate) async fn tcp(address: &str) -> Result<TcpListener> {
        TcpListener::bind(address).await.map_err(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return Error::new(ErrorKind::Busy, "another process listens on this address").with("address", address);
            }
            Error::from_io(error, "cannot listen").with("address", address)
        })
    }

    /// The next connection and where it comes from.
    pub(crate) async fn accept(&self) -> Result<(ReadHalf, WriteHalf, String)> {
        let failed = |error| Error::from_io(error, "cannot accept a connection");
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await.map_err(failed)?;
                let (read, write) = split_tcp(stream)?;
                Ok((read, write, from.to_string()))
            }
            Listener::Unix(listener, path) => {
                let (stream, _unnamed) = listener.accept().await.map_err(failed)?;
                let (read, write) = split_unix(stream);
                Ok((read, write, describe_unix(path)))
            }
        }
    }
}

/// The file of a Unix socket; removed when dropped, unless it has become somebody else's.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens on `path`: its directory is made, a stale socket replaced. `Busy` if somebody listens there.
    pub(crate) async fn listen(path: &Path) -> Result<(UnixListener, SocketFile)> {
        let failed =
            |error: io::Error| Error::from_io(error, "cannot listen on a unix socket").with("file", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        check_stale(path).await?;
        // Made under another name, so that nobody can connect before the mode is set, and the stale one is replaced at once.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let settle = || {
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
            let metadata = std::fs::metadata(&fresh)?;
            std::fs::rename(&fresh, path)?;
            Ok((metadata.dev(), metadata.ino()))
        };
        let identity = settle().map_err(|error| {
            let _ = std::fs::remove_file(&fresh);
            failed(error)
        })?;
        Ok((listener, SocketFile { path: path.to_path_buf(), identity }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether `path` is free, or a socket on which nobody listens.
async fn check_stale(path: &Path) -> Result<()> {
    let error = |kind, message: &str| Err(Error::new(kind, message).with("file", path.display()));
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return error(ErrorKind::AlreadyExists, "the path of the unix socket is another file");
        }
        Ok(_) => {}
    }
    let probe = tokio::time::timeout(Duration::from_secs(1), UnixStream::connect(path)).await;
    match probe {
        Ok(Err(refused)) if matches!(refused.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Ok(Err(other)) if other.kind() == io::ErrorKind::PermissionDenied => {
            error(ErrorKind::PermissionDenied, "the unix socket belongs to another user")
        }
        _ => error(ErrorKind::Busy, "another process listens on this unix socket"),
    }
}
