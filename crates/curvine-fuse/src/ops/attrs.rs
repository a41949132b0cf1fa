//! Attributes.

use curvine_fuse_abi::kernel::{SetattrIn, fattr};
use curvine_fuse_abi::reply::{attr_out, statx_out};

use super::Call;
use crate::answer::{Answer, Outcome};
use crate::backend::Backend;
use crate::convert;

impl<B: Backend> Call<'_, B> {
    pub(super) async fn getattr(&self) -> Outcome {
        let (attr, ttl) = self.fresh_attr().await?;
        let (attr, ttl) = self.attr_now(&attr, ttl);
        Ok(Answer::value(&attr_out(&attr, ttl)))
    }

    pub(super) async fn statx(&self) -> Outcome {
        let (attr, ttl) = self.fresh_attr().await?;
        let birth = attr.btime.as_ref().map(|time| (time.sec, time.nsec));
        let (attr, ttl) = self.attr_now(&attr, ttl);
        Ok(Answer::value(&statx_out(&attr, birth, ttl)))
    }

    pub(super) async fn setattr(&self, args: &SetattrIn) -> Outcome {
        let server = self.server;
        let tenure = server.backend.tenure(self.inode);
        let truncates = args.valid & fattr::SIZE != 0;
        let written = truncates.then(|| server.modes.written(self.inode)).flatten();
        let cut = written.as_ref().map(|backing| backing.cut());
        let (attr, ttl) = server.backend.setattr(self.inode, convert::setattr(args)).await?;
        if let Some(cut) = cut {
            cut.ended();
        }
        let unbroken = tenure.is_some() && tenure == server.backend.tenure(self.inode);
        if !unbroken && server.modes.is_cached(self.inode) {
            self.drop_pages(truncates).await;
        }
        if truncates {
            server.modes.grew(self.inode, args.size);
        }
        let (attr, ttl) = self.attr_now(&attr, ttl);
        Ok(Answer::value(&attr_out(&attr, ttl)))
    }

    /// Of all replies with attributes it is only after that to SETATTR that the kernel does not drop the pages that are older than
    /// the mtime: it would take those that others have made stale for the newest ones. A truncation keeps mapped pages from being
    /// written until it is answered, and so from being dropped; most of them go with its size.
    async fn drop_pages(&self, truncates: bool) {
        let (pages, node) = (&self.server.pages, self.server.node(self.inode));
        if truncates {
            pages.invalidate_later(node, None);
        } else {
            pages.invalidate_aside(node).await;
        }
    }

    async fn fresh_attr(&self) -> curvine_types::Result<(curvine_proto::Attr, std::time::Duration)> {
        let server = self.server;
        if self.inode == server.root {
            return Ok(server.memory.root_attr(&server.backend, server.root, server.root_timeout).await);
        }
        match server.backend.try_getattr(self.inode) {
            Some(known) => Ok(known),
            None => server.backend.getattr(self.inode).await,
        }
    }
}
