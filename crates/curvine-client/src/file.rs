//! What all handles of an open inode share: where its content is, and since when what was read of it is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use bytes::Bytes;
use curvine_proto::layout::Kind;
use curvine_proto::{Attr, ContentId, DataMode, Extent, GetLayoutReply, GetLayoutRequest, Layout, Method, UfsLayout};
use curvine_types::{Error, ErrorKind, Generation, GrantEpoch, InodeId, Result, WorkerId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::boot_time;
use crate::core::Core;

pub(crate) struct File {
    pub inode: InodeId,
    placed: Mutex<Option<Arc<Placed>>>,
    mode: AtomicI32,
    /// Rises when an own write ended: what was read before is out of date.
    data_epoch: AtomicU64,
    /// It is of an under file system.
    mounted: AtomicBool,
    /// The moment of the last own write that the store is known to have.
    stored_epoch: AtomicU64,
    /// A POSIX lock was taken through this open file.
    pub locked: AtomicBool,
    /// One asks for the layout, the others wait for its answer.
    pub asking: tokio::sync::Mutex<()>,
}

/// Where the content is.
pub(crate) struct Placed {
    pub generation: Generation,
    pub epoch: GrantEpoch,
    /// As of when the layout was asked for.
    pub size: u64,
    pub place: Place,
    /// What was read with it, inline data, is right as long as this is.
    stamp: Option<Stamp>,
}

pub(crate) enum Place {
    Inline(Bytes),
    Blocks { block_size: u64, extents: Vec<Extent>, live: bool },
    Ufs(UfsLayout),
}

/// Data read under it is right as long as the lease is unbroken and no own write ended since.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    tenure: u64,
    data_epoch: u64,
}

impl Placed {
    fn new(layout: Option<Layout>, size: u64, epoch: u64, stamp: Option<Stamp>) -> Result<Self> {
        let layout = layout.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a file without a layout"))?;
        let place = match layout.kind {
            Some(Kind::Inline(inline)) => Place::Inline(inline.data),
            Some(Kind::Blocks(blocks)) => {
                Place::Blocks { block_size: blocks.block_size.max(1), extents: blocks.extents, live: blocks.live }
            }
            Some(Kind::Ufs(ufs)) => Place::Ufs(ufs),
            None => {
                return Err(Error::new(ErrorKind::NotSupported, "a layout of a newer version; upgrade this client"));
            }
        };
        Ok(Self { generation: layout.generation, epoch, size, place, stamp })
    }

    /// The content of a block for requests to workers, and its replicas, the primary first.
    pub(crate) fn block(&self, inode: InodeId, block: u64) -> Result<(ContentId, &[WorkerId])> {
        let Place::Blocks { extents, .. } = &self.place else {
            return Err(
                Error::new(ErrorKind::Internal, "a layout without blocks was asked for one").with("inode", inode)
            );
        };
        let holds = |extent: &&Extent| {
            extent.first_block <= block && (extent.block_count == 0 || block - extent.first_block < extent.block_count)
        };
        let extent = extents.iter().find(holds).ok_or_else(|| {
            Error::new(ErrorKind::DataLoss, "no worker holds this part of the file").with("inode", inode)
        })?;
        Ok((ContentId { inode, generation: self.generation, version: extent.version }, &extent.workers))
    }

    /// Where writes go, if the file is live.
    pub(crate) fn primary(&self, inode: InodeId) -> Result<Option<(ContentId, WorkerId)>> {
        match &self.place {
            Place::Blocks { live: true, .. } => {
                let (content, workers) = self.block(inode, 0)?;
                let primary = workers.first().copied().ok_or_else(|| {
                    Error::new(ErrorKind::DataLoss, "the file has no primary worker").with("inode", inode)
                })?;
                Ok(Some((content, primary)))
            }
            _ => Ok(None),
        }
    }
}

impl File {
    pub(crate) fn new(inode: InodeId, data_epoch: u64) -> Self {
        Self {
            inode,
            placed: Mutex::new(None),
            mode: AtomicI32::new(DataMode::WriteShared as i32),
            data_epoch: AtomicU64::new(data_epoch),
            mounted: AtomicBool::new(false),
            stored_epoch: AtomicU64::new(data_epoch),
            locked: AtomicBool::new(false),
            asking: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn mode(&self) -> DataMode {
        DataMode::try_from(self.mode.load(Ordering::SeqCst)).unwrap_or(DataMode::WriteShared)
    }

    pub(crate) fn set_mode(&self, mode: DataMode) {
        if mode != DataMode::Unknown {
            self.mode.store(mode as i32, Ordering::SeqCst);
        }
    }

    /// Somebody else may change the file.
    pub(crate) fn forget(&self, mode: DataMode) {
        self.set_mode(mode);
        *self.placed.lock() = None;
    }

    /// Where the content is has changed.
    pub(crate) fn drop_layout(&self) {
        *self.placed.lock() = None;
    }

    /// The moment of the last own write, or an earlier one of a file that was open before.
    pub(crate) fn data_epoch(&self) -> u64 {
        self.data_epoch.load(Ordering::SeqCst)
    }

    /// The mount that its attributes name.
    pub(crate) fn belongs_to(&self, mount: u32) {
        self.mounted.store(mount != 0, Ordering::SeqCst);
    }

    pub(crate) fn is_mounted(&self) -> bool {
        self.mounted.load(Ordering::SeqCst)
    }

    /// The moment of the last own write, if there is a store that may not have it.
    pub(crate) fn unstored(&self) -> Option<u64> {
        let written = self.data_epoch();
        let stored = self.stored_epoch.load(Ordering::SeqCst);
        (self.is_mounted() && written > stored).then_some(written)
    }

    /// The store has what was written up to this moment.
    pub(crate) fn stored(&self, written: u64) {
        self.stored_epoch.fetch_max(written, Ordering::SeqCst);
    }

    /// An own write ended: data that was read before it is not right any more.
    pub(crate) fn written(&self, core: &Core) {
        self.data_epoch.fetch_max(core.opens.next_epoch(), Ordering::SeqCst);
    }

    /// For data that is about to be asked for; `None` without a lease.
    pub(crate) fn stamp(&self, core: &Core) -> Option<Stamp> {
        let data_epoch = self.data_epoch.load(Ordering::SeqCst);
        let tenure = core.cache.tenure(self.inode, boot_time())?;
        Some(Stamp { tenure, data_epoch })
    }

    /// The layout as last seen, if attributes that came later do not contradict it.
    pub(crate) fn known_layout(&self) -> Option<Arc<Placed>> {
        self.placed.lock().clone()
    }

    /// Attributes of another generation were seen: the layout is of old content.
    pub(crate) fn saw(&self, attr: &Attr) {
        let mut placed = self.placed.lock();
        if placed.as_ref().is_some_and(|placed| placed.generation != attr.generation) {
            *placed = None;
        }
    }

    /// Inline data that may be served without asking.
    pub(crate) fn inline_data(&self, core: &Core, placed: &Placed) -> Option<Bytes> {
        match &placed.place {
            Place::Inline(data) if placed.stamp.is_some() && placed.stamp == self.stamp(core) => Some(data.clone()),
            _ => None,
        }
    }

    /// Takes the layout of a reply to an open that was sent at `epoch_sent`.
    pub(crate) fn opened(
        &self,
        core: &Core,
        layout: Option<Layout>,
        attr: &Attr,
        epoch: u64,
        epoch_sent: u64,
    ) -> Result<()> {
        // A write that ended since the open was sent is perhaps not in its inline data.
        let stamp = self.stamp(core).filter(|stamp| stamp.data_epoch <= epoch_sent);
        self.set(Placed::new(layout, attr.size, epoch, stamp)?);
        Ok(())
    }

    fn set(&self, placed: Placed) -> Arc<Placed> {
        let placed = Arc::new(placed);
        let mut known = self.placed.lock();
        // A reply that was overtaken by that of a later generation or epoch.
        let older =
            known.as_ref().is_some_and(|known| (placed.generation, placed.epoch) < (known.generation, known.epoch));
        if !older {
            *known = Some(placed.clone());
        }
        placed
    }

    /// The layout, asked for if it is not known.
    pub(crate) async fn layout(&self, core: &Core, deadline: Instant) -> Result<Arc<Placed>> {
        if let Some(placed) = self.known_layout() {
            return Ok(placed);
        }
        self.fresh_layout(core, deadline).await
    }

    /// The layout as the master has it now, inline data included.
    pub(crate) async fn fresh_layout(&self, core: &Core, deadline: Instant) -> Result<Arc<Placed>> {
        let stamp = self.stamp(core);
        let inode = self.inode;
        let request = |session| GetLayoutRequest { session, inode };
        let (reply, ticket) = core.ask::<_, GetLayoutReply>(Method::GetLayout, request, deadline).await?;
        self.took(core, reply, &ticket, stamp)
    }

    /// Takes a reply with a layout.
    pub(crate) fn took(
        &self,
        core: &Core,
        reply: GetLayoutReply,
        ticket: &crate::cache::Ticket,
        stamp: Option<Stamp>,
    ) -> Result<Arc<Placed>> {
        self.set_mode(reply.mode());
        let attr = reply.attr.unwrap_or_default();
        let placed = Placed::new(reply.layout, attr.size, reply.epoch, stamp)?;
        if attr.inode == self.inode {
            core.cache.settle_attr(ticket, attr, boot_time());
        }
        Ok(self.set(placed))
    }
}
