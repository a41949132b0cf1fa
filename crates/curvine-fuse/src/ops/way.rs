//! How the kernel does the I/O of a file that is being opened.
//!
//! Always: the open is counted with its mode before it is answered. All opens of an inode by passthrough have one registration; one that
//! must not do as the others (the content is another one by now, or O_DIRECT is wanted) says DIRECT_IO as well, so that its reads and
//! writes come here.

use std::sync::Arc;

use curvine_client::{LocalUse, NotLocal, OpenFlags};
use curvine_types::InodeId;

use super::Call;
use crate::answer::Failure;
use crate::backend::Backend;
use crate::backing::Backing;
use crate::handover::RecordedWay;
use crate::io_mode::{IoMode, Way};

/// How often an open begins again because others opened or closed the file meanwhile.
const ATTEMPTS: usize = 16;

/// What was decided about one open.
pub(super) enum Taken {
    Plain(IoMode),
    /// `through_us`: DIRECT_IO as well.
    Passthrough {
        backing: Arc<Backing>,
        through_us: bool,
    },
}

impl Taken {
    /// As a successor of this process finds it.
    pub(super) fn recorded(&self) -> RecordedWay {
        match self {
            Taken::Plain(mode) => RecordedWay::Plain(*mode),
            Taken::Passthrough { backing, .. } => {
                RecordedWay::Passthrough { id: backing.id, content: backing.content, worker: backing.worker }
            }
        }
    }
}

impl<B: Backend> Call<'_, B> {
    /// Counts an open and decides. `new_in`: the directory in which the file was made just now.
    pub(super) async fn take_way(
        &self,
        inode: InodeId,
        handle: &B::Handle,
        wanted: OpenFlags,
        new_in: Option<InodeId>,
    ) -> Result<Taken, Failure> {
        let server = self.server;
        let plain = |why| Way::Plain(IoMode::suited(server.backend.mode(handle)), why);
        if let Some(why) = server.passthrough.off() {
            return Ok(Taken::Plain(server.modes.join(inode, plain(why)).mode()));
        }
        for _ in 0..ATTEMPTS {
            let way = match server.modes.way(inode) {
                Some(Way::Passthrough(backing)) => {
                    let through_us = !self.may_do_as(&backing, handle, wanted).await? || wanted.direct;
                    if server.modes.join_backing(inode, &backing) {
                        return Ok(Taken::Passthrough { backing, through_us });
                    }
                    continue;
                }
                // Whatever it is by then, if it is plain: `join` goes by what is there.
                Some(other) => other,
                // The local file system wants aligned memory and offsets, which this mount does not ask for.
                None if wanted.direct => plain("it was opened with O_DIRECT"),
                None => match self.local_way(handle, wanted, new_in).await {
                    Ok(backing) => Way::Passthrough(backing),
                    Err(why) => {
                        server.passthrough.count_refused(why);
                        plain(why.reason())
                    }
                },
            };
            let ours = if let Way::Passthrough(backing) = &way { Some(backing.clone()) } else { None };
            match (server.modes.join(inode, way), ours) {
                (Way::Plain(mode, _), _) => return Ok(Taken::Plain(mode)),
                (Way::Passthrough(backing), Some(ours)) if Arc::ptr_eq(&backing, &ours) => {
                    server.passthrough.count_taken();
                    return Ok(Taken::Passthrough { backing, through_us: false });
                }
                // Somebody else was first, and this one has not been asked whether it may do as that one does.
                (Way::Passthrough(_), _) => self.server.left(inode),
            }
        }
        tracing::warn!(inode, "an inode is opened and closed too often to join the others");
        Err(Failure::Errno(libc::EBUSY))
    }

    /// The file for a first open.
    async fn local_way(
        &self,
        handle: &B::Handle,
        wanted: OpenFlags,
        new_in: Option<InodeId>,
    ) -> Result<Arc<Backing>, NotLocal> {
        let passthrough = &self.server.passthrough;
        let wish = if wanted.write {
            if !passthrough.writes() {
                return Err(NotLocal::NotNew);
            }
            let place = new_in.is_some_and(|parent| passthrough.expects_large(parent));
            LocalUse::Write { place, least: passthrough.min_size, most: passthrough.rewrite_max }
        } else {
            LocalUse::Read { least: passthrough.min_size }
        };
        let local = self.server.backend.local_file(handle, wish).await?;
        Backing::register(&passthrough.device, &passthrough.keeper, local, wanted.write).map_err(|error| {
            tracing::debug!(%error, "not by passthrough");
            NotLocal::FileSystem
        })
    }

    /// Whether a further open may do as the earlier ones. A writer must be known to the worker first, since it may map the file whatever
    /// is answered.
    async fn may_do_as(&self, backing: &Backing, handle: &B::Handle, wanted: OpenFlags) -> Result<bool, Failure> {
        let backend = &self.server.backend;
        if !wanted.write {
            return Ok(backing.suits(backend.local_content(handle), backend.session()));
        }
        match backend.local_file(handle, LocalUse::Join).await {
            Ok(local) if backing.suits(Some(local.content), local.session) => {
                backing.set_written();
                Ok(true)
            }
            other => {
                tracing::debug!(?other, "a writer does not do as the readers");
                if backing.content.version == 0 {
                    backend.spoil_copy(handle, backing.content, backing.worker).await?;
                } else if matches!(other, Err(NotLocal::Failed)) {
                    // Its mapping could write to a file that the worker takes for unwritten.
                    return Err(Failure::Errno(libc::EBUSY));
                }
                Ok(false)
            }
        }
    }
}
