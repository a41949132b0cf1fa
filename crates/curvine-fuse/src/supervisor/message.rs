//! What supervisor and serving process say to each other: JSON, with descriptors beside it.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use curvine_fuse_abi::{Link, MountPoint};
use curvine_types::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Where the session is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Bytes: a path need not be text.
    path: Vec<u8>,
    minor: u32,
    /// The last descriptor of the session is that of the requests that are kept.
    #[serde(default)]
    inbox: bool,
}

impl From<Place> for MountPoint {
    fn from(place: Place) -> Self {
        MountPoint::of(PathBuf::from(OsString::from_vec(place.path)), place.minor)
    }
}

impl Place {
    pub fn new(mount_point: &MountPoint, inbox: bool) -> Self {
        Self { path: mount_point.path().as_os_str().as_bytes().to_vec(), minor: mount_point.device_minor(), inbox }
    }

    /// Whether requests are kept.
    pub fn has_inbox(&self) -> bool {
        self.inbox
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.path))
    }
}

/// From the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToChild {
    /// The first message. Descriptors: config, table; with `mounted` also those of the session.
    Begin {
        /// A process that served this path before is known to be dead.
        replace: bool,
        /// A predecessor has served this session; without it nothing is mounted yet.
        mounted: Option<Place>,
        /// So many registered files come in the next messages.
        kept: usize,
    },
    /// Registered files. Descriptors: one for each number.
    Kept { ids: Vec<i32> },
    /// It is mounted. Descriptors: those of the session.
    Serve(Place),
    /// Unmount and end.
    Stop,
    /// End without unmounting: a successor takes over.
    HandOver,
}

/// What is answered from memory, as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// To STATFS.
    pub statfs: Vec<u8>,
    /// To GETATTR of the root.
    pub root: Vec<u8>,
    /// To STATX of the root.
    pub root_statx: Vec<u8>,
}

/// From the serving process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// There is a session with the master; mount now.
    Connected,
    Serving,
    /// It cannot go on, and ends.
    Failed {
        kind: u32,
        text: String,
    },
    /// What the predecessor left cannot be used.
    Damaged {
        text: String,
    },
    /// It has unmounted, and ends.
    Stopped,
    /// Hold this file for a successor. Descriptor: the file.
    Keep {
        id: i32,
    },
    /// It is not needed any more.
    Forget {
        id: i32,
    },
    /// What may be answered while no process serves.
    Known(Known),
}

/// Sends a message.
pub fn send<M: Serialize>(link: &Link, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = serde_json::to_vec(message)
        .map_err(|source| Error::new(ErrorKind::Internal, "a message cannot be written").caused_by(source))?;
    link.send(&bytes, descriptors)
}

/// Reads a message.
pub fn read<M: DeserializeOwned>(bytes: &[u8]) -> Result<M> {
    serde_json::from_slice(bytes).map_err(|source| {
        Error::new(ErrorKind::Corrupt, "the other process of the mount sent something that this version does not know")
            .caused_by(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_that_is_no_text_arrives_as_it_was() {
        let path = PathBuf::from(OsString::from_vec(b"/mnt/\xff\"x".to_vec()));
        let place = Place::new(&MountPoint::of(path.clone(), 77), true);
        assert_eq!(place.path(), path);
        let (one, other) = Link::pair().unwrap();
        send(&one, &ToChild::Serve(place.clone()), &[]).unwrap();
        let received = other.receive().unwrap().unwrap();
        assert_eq!(read::<ToChild>(&received.bytes).unwrap(), ToChild::Serve(place.clone()));
        assert!(place.has_inbox());
        assert_eq!(MountPoint::from(place).device_minor(), 77);
        assert!(read::<ToChild>(b"{\"Dance\":1}").is_err());
    }
}
