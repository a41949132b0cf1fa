//! Attributes.

use curvine_fuse_abi::kernel::SetattrIn;
use curvine_fuse_abi::reply::{attr_out, statx_out};

use super::Call;
use crate::answer::{Answer, Outcome};
use crate::backend::Backend;
use crate::convert;

impl<B: Backend> Call<'_, B> {
    pub(super) async fn getattr(&self) -> Outcome {
        let (attr, ttl) = self.fresh_attr().await?;
        let attr = convert::attr(&attr, self.server.node(attr.inode));
        Ok(Answer::value(&attr_out(&attr, self.server.cap(ttl))))
    }

    pub(super) async fn statx(&self) -> Outcome {
        let (attr, ttl) = self.fresh_attr().await?;
        let birth = attr.btime.as_ref().map(|time| (time.sec, time.nsec));
        let attr = convert::attr(&attr, self.server.node(attr.inode));
        Ok(Answer::value(&statx_out(&attr, birth, self.server.cap(ttl))))
    }

    pub(super) async fn setattr(&self, args: &SetattrIn) -> Outcome {
        let (attr, ttl) = self.server.backend.setattr(self.inode, convert::setattr(args)).await?;
        let attr = convert::attr(&attr, self.server.node(attr.inode));
        Ok(Answer::value(&attr_out(&attr, self.server.cap(ttl))))
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
