//! Local files of the workers of this machine, so that the kernel can read and write them without us.
//!
//! Always: a descriptor is the file of the content that it comes with, for as long as it is held; whether that is still the content
//! of the inode, the caller asks `content` before he lets somebody join.

use std::os::fd::OwnedFd;
use std::time::Duration;

use curvine_proto::{ContentId, DataMode, ExposeReply, ExposeRequest, Method};
use curvine_types::{Error, ErrorKind, Generation, SessionId, WorkerId};
use tokio::time::Instant;

use crate::core::Core;
use crate::file::{Place, Placed};
use crate::{FileSystem, Handle};

/// How long an open may wait for the descriptor; without it the file is read and written as well.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which content of an inode; version 0: a copy of what an under file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalContent {
    pub generation: Generation,
    pub version: u64,
}

/// A content's file on this machine.
#[derive(Debug)]
pub struct LocalFile {
    /// Open for reading only.
    pub file: OwnedFd,
    pub content: LocalContent,
    pub worker: WorkerId,
    /// Under which it was given.
    pub session: SessionId,
}

/// What a local file is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalUse {
    /// Only for files of at least so many bytes.
    Read { least: u64 },
    /// By its only writer. `place`: also if it is not on a worker yet; a sealed one if it has `least` to `most` bytes: when it is
    /// closed, all of it is read for its checksums.
    Write { place: bool, least: u64, most: u64 },
    /// The kernel has the file open for reading, and now a writer comes.
    Join,
}

/// Why the kernel cannot be given a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLocal {
    Inline,
    Small,
    Remote,
    Shared,
    Incomplete,
    Unverified,
    NotNew,
    Fenced,
    NoRoom,
    Leaving,
    FileSystem,
    Failed,
}

impl NotLocal {
    /// All that there are, in the order of their numbers.
    pub const ALL: [NotLocal; 12] = {
        use NotLocal::*;
        [Inline, Small, Remote, Shared, Incomplete, Unverified, NotNew, Fenced, NoRoom, Leaving, FileSystem, Failed]
    };

    /// For reports: goes on a sentence like "not by passthrough: ...".
    pub fn reason(self) -> &'static str {
        match self {
            NotLocal::Inline => "the file is kept in the metadata",
            NotLocal::Small => "the file is smaller than fuse.passthrough_min_size",
            NotLocal::Remote => "the file is not on a worker of this node",
            NotLocal::Shared => "somebody else writes the file, too",
            NotLocal::Incomplete => "not all of the file is on this node",
            NotLocal::Unverified => "the file is still to be compared with its checksums",
            NotLocal::NotNew => "files of this size or of an under file system are not rewritten so",
            NotLocal::Fenced => "the right to write has changed hands",
            NotLocal::NoRoom => "the worker has too little space left",
            NotLocal::Leaving => "the file is being sealed or deleted",
            NotLocal::FileSystem => "the worker's data directory is not on ext4, xfs or tmpfs",
            NotLocal::Failed => "the worker did not give the file",
        }
    }

    /// A word for metrics.
    pub fn name(self) -> &'static str {
        match self {
            NotLocal::Inline => "inline",
            NotLocal::Small => "small",
            NotLocal::Remote => "remote",
            NotLocal::Shared => "shared",
            NotLocal::Incomplete => "incomplete",
            NotLocal::Unverified => "unverified",
            NotLocal::NotNew => "not_new",
            NotLocal::Fenced => "fenced",
            NotLocal::NoRoom => "no_room",
            NotLocal::Leaving => "leaving",
            NotLocal::FileSystem => "file_system",
            NotLocal::Failed => "failed",
        }
    }

    fn of_refusal(number: u32) -> Self {
        match number {
            1 => NotLocal::Incomplete,
            2 => NotLocal::Unverified,
            3 => NotLocal::NotNew,
            4 => NotLocal::Fenced,
            5 => NotLocal::NoRoom,
            6 => NotLocal::Leaving,
            7 => NotLocal::FileSystem,
            _ => NotLocal::Failed,
        }
    }
}

/// An answer, or the error that says that the layout is old.
enum Asked {
    Given(Box<LocalFile>),
    Not(NotLocal),
    OldLayout,
}

impl FileSystem {
    /// The file of an open file's content, if a worker of this machine has it and can give it away.
    pub async fn local_file(&self, handle: &Handle, wanted: LocalUse) -> Result<LocalFile, NotLocal> {
        let writes = !matches!(wanted, LocalUse::Read { .. });
        if matches!(wanted, LocalUse::Write { .. }) && handle.mode() != DataMode::WriteExclusive {
            return Err(NotLocal::Shared);
        }
        if writes && handle.0.check_writable().is_err() {
            return Err(NotLocal::Fenced);
        }
        let deadline = Instant::now() + PATIENCE.min(self.core.options.rpc_timeout);
        for _ in 0..2 {
            match self.core.ask_local(handle, wanted, deadline).await {
                Ok(Asked::Given(file)) => return Ok(*file),
                Ok(Asked::Not(reason)) => return Err(reason),
                Ok(Asked::OldLayout) => handle.0.file.drop_layout(),
                Err(error) => {
                    tracing::debug!(inode = handle.inode(), %error, "no local file");
                    return Err(NotLocal::Failed);
                }
            }
        }
        Err(NotLocal::Leaving)
    }

    /// The content as last seen, without asking; `None`: not known, or not on workers.
    pub fn local_content(&self, handle: &Handle) -> Option<LocalContent> {
        let placed = handle.0.file.known_layout()?;
        let generation = placed.generation;
        match &placed.place {
            Place::Inline(_) => None,
            Place::Ufs(_) => Some(LocalContent { generation, version: 0 }),
            Place::Blocks { extents, .. } => {
                Some(LocalContent { generation, version: extents.first().map_or(0, |extent| extent.version) })
            }
        }
    }

    /// The worker must not count on a copy any more, because somebody here may write to it. Returns when it does not.
    pub async fn spoil_copy(
        &self,
        handle: &Handle,
        content: LocalContent,
        worker: WorkerId,
    ) -> curvine_types::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let LocalContent { generation, version } = content;
        let content = ContentId { inode: handle.inode(), generation, version };
        let request = ExposeRequest { content: Some(content), write: true, ..Default::default() };
        let channel = self.core.workers.local_channel(&self.core, worker, deadline).await?;
        let channel = channel.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the worker is not on this machine"))?;
        channel.call_for_descriptor::<_, ExposeReply>(Method::Expose, &request, deadline).await.map(|_| ())
    }

    /// Somebody wrote to the file without us: what is known of it is out of date.
    pub fn wrote_locally(&self, handle: &Handle) {
        handle.0.file.written(&self.core);
        self.core.cache.doubt(&[handle.inode()]);
    }

    /// The present session.
    pub fn session(&self) -> SessionId {
        self.core.window.session()
    }
}

/// Content and worker.
fn whole_file(placed: &Placed, inode: u64) -> Option<(ContentId, WorkerId)> {
    let Place::Blocks { extents, .. } = &placed.place else { return None };
    let [only] = extents.as_slice() else { return None };
    let whole = only.first_block == 0 && only.block_count == 0;
    let content = ContentId { inode, generation: placed.generation, version: only.version };
    only.workers.first().filter(|_| whole).map(|worker| (content, *worker))
}

impl Core {
    async fn ask_local(
        self: &std::sync::Arc<Self>,
        handle: &Handle,
        wanted: LocalUse,
        deadline: Instant,
    ) -> curvine_types::Result<Asked> {
        let (file, inode) = (&handle.0.file, handle.inode());
        let mut placed = file.layout(self, deadline).await?;
        // What waits for its store is sealed and uploaded while it is open: nobody writes it past the worker.
        if file.is_mounted() && (!matches!(wanted, LocalUse::Read { .. }) || !matches!(placed.place, Place::Ufs(_))) {
            return Ok(Asked::Not(NotLocal::NotNew));
        }
        let to_place = match (&placed.place, wanted) {
            (Place::Inline(_), LocalUse::Write { place, .. }) => place,
            (Place::Blocks { live: false, .. }, LocalUse::Write { least, most, .. }) => {
                if !(least..=most).contains(&placed.size) {
                    return Ok(Asked::Not(NotLocal::NotNew));
                }
                true
            }
            (Place::Inline(_) | Place::Blocks { .. }, LocalUse::Join) => true,
            _ => false,
        };
        if to_place {
            placed = self.writable_layout(file, None, deadline).await?;
        }
        let (content, worker) = match &placed.place {
            Place::Inline(_) => return Ok(Asked::Not(NotLocal::Inline)),
            Place::Blocks { .. } => match whole_file(&placed, inode) {
                None => return Ok(Asked::Not(NotLocal::Remote)),
                Some(found) => found,
            },
            Place::Ufs(_) if !matches!(wanted, LocalUse::Read { .. }) => return Ok(Asked::Not(NotLocal::NotNew)),
            Place::Ufs(_) => {
                let content = ContentId { inode, generation: placed.generation, version: 0 };
                (content, self.workers.local(self, deadline).await)
            }
        };
        let size = if let Place::Ufs(ufs) = &placed.place { ufs.size } else { placed.size };
        if matches!(wanted, LocalUse::Read { least } if size < least) {
            return Ok(Asked::Not(NotLocal::Small));
        }
        if worker == 0 {
            return Ok(Asked::Not(NotLocal::Remote));
        }
        let Some(channel) = self.workers.local_channel(self, worker, deadline).await? else {
            return Ok(Asked::Not(NotLocal::Remote));
        };
        let session = self.window.session();
        let request = ExposeRequest {
            content: Some(content),
            write: !matches!(wanted, LocalUse::Read { .. }),
            epoch: placed.epoch,
            session,
        };
        match channel.call_for_descriptor::<_, ExposeReply>(Method::Expose, &request, deadline).await {
            Ok((ExposeReply { refusal: 0, .. }, Some(file))) => {
                let content = LocalContent { generation: content.generation, version: content.version };
                Ok(Asked::Given(Box::new(LocalFile { file, content, worker, session })))
            }
            Ok((reply, _)) => Ok(Asked::Not(NotLocal::of_refusal(reply.refusal))),
            Err(error) if error.kind() == ErrorKind::VersionMismatch => Ok(Asked::OldLayout),
            Err(error) => Err(error),
        }
    }
}
