//! The node's janitor: takes dead mounts of ours off the paths where clients of runtimes mount.
//!
//! If the first process of a client's container is killed, its mount stays, and the container runtime cannot start the next
//! container because it cannot look at the path. Always: a mount goes only if its daemon is gone for certain (the kernel says
//! so) in two rounds; one that does not answer stays, since it may come back; no check holds up another.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};

use curvine_fuse_abi::mount::FILESYSTEM_TYPE;
use curvine_fuse_abi::mountinfo::mounts;
use curvine_types::Result;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Most paths that are being asked at once; each may hang for as long as its daemon does.
const ASKING_MAX: usize = 256;

/// Looks after the mounts below a directory.
pub struct Janitor {
    root: PathBuf,
    asking: BTreeMap<PathBuf, Receiver<bool>>,
    suspects: BTreeSet<PathBuf>,
}

impl Janitor {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), asking: BTreeMap::new(), suspects: BTreeSet::new() }
    }

    /// Collects what the last round has asked, detaches what is dead for the second time, asks again. Returns what it has
    /// detached.
    pub fn round(&mut self) -> Result<Vec<PathBuf>> {
        let present: BTreeSet<PathBuf> = mounts()?
            .into_iter()
            .filter(|mount| mount.kind == FILESYSTEM_TYPE && mount.path.starts_with(&self.root))
            .map(|mount| mount.path)
            .collect();
        let mut detached = Vec::new();
        for (path, answer) in std::mem::take(&mut self.asking) {
            match answer.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.asking.insert(path, answer);
                }
                Ok(true) if present.contains(&path) => {
                    if self.suspects.remove(&path) {
                        if detach(&path) {
                            detached.push(path);
                        }
                    } else {
                        self.suspects.insert(path);
                    }
                }
                _ => {
                    self.suspects.remove(&path);
                }
            }
        }
        self.suspects.retain(|path| present.contains(path));
        for path in present {
            if self.asking.len() < ASKING_MAX && !self.asking.contains_key(&path) {
                self.asking.insert(path.clone(), ask(path));
            }
        }
        Ok(detached)
    }

    /// Paths whose mounts have not answered yet.
    pub fn silent(&self) -> impl Iterator<Item = &Path> {
        self.asking.keys().map(PathBuf::as_path)
    }
}

/// Whether the daemon behind the mount is gone.
fn ask(path: PathBuf) -> Receiver<bool> {
    let (sender, answer) = mpsc::channel();
    let asking = std::thread::Builder::new().name("janitor".into()).spawn(move || {
        let _ = sender.send(matches!(rustix::fs::statfs(&path), Err(Errno::NOTCONN | Errno::CONNABORTED)));
    });
    if let Err(error) = asking {
        tracing::warn!(%error, "cannot ask a mount");
    }
    answer
}

fn detach(path: &Path) -> bool {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => {
            tracing::info!(path = %path.display(), "detached a dead mount");
            true
        }
        Err(errno) => {
            let error = io::Error::from(errno);
            tracing::warn!(path = %path.display(), %error, "cannot detach a dead mount");
            false
        }
    }
}
