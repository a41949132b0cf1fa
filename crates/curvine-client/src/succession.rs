//! A client that goes on with the session of a process that died.
//!
//! Always: what a successor needs is told to the journal before anybody else can learn of it. A successor has no caches, but its
//! kernel does: their leases stay with the session, and while they do, every recall is passed on to the kernel, known or not.

use std::sync::Arc;

use curvine_types::{ClusterId, Generation, InodeId, SessionId};

use crate::OpenFlags;

/// Remembers outside of this process what a successor needs to know of the session.
pub trait Journal: Send + Sync + 'static {
    /// The session that is used from now on, and the leader (`incarnation`) that leases come from.
    fn session(&self, session: SessionId, cluster: ClusterId, incarnation: u64);

    /// Numbers below `next` may have been used.
    fn numbered(&self, next: u64);
}

/// How a client follows another one.
pub struct Succession {
    pub journal: Arc<dyn Journal>,
    /// Which process of the mount this is, counted from 1.
    pub instance: u64,
    /// `None`: this is the first one.
    pub predecessor: Option<Predecessor>,
}

/// What a process that died left behind.
#[derive(Clone, Debug, Default)]
pub struct Predecessor {
    pub session: SessionId,
    pub cluster: ClusterId,
    pub incarnation: u64,
    /// The first number that was certainly not used.
    pub next: u64,
    /// Numbers that requests will ask for again, or that must be given up (`FileSystem::abandon`).
    pub unacked: Vec<u64>,
    pub opens: Vec<Inherited>,
}

/// An open file of a predecessor.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    pub inode: InodeId,
    pub flags: OpenFlags,
    /// The session that it was opened under; one that is over leaves a handle that cannot be written through.
    pub session: SessionId,
    pub generation: Generation,
}
