//! The mount table of under file systems: what is bound where, changed, and taken off.
//!
//! Always: what is in the table could be listed when it came there, or when it was changed last.

use std::sync::Arc;

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    CheckKeysRequest, CheckMountReply, CheckMountRequest, CheckStoreRequest, Empty, Method, MountInfo, MountUfs,
    MutateReply, SurveyReply, SurveyRequest, UfsListReply, UfsListRequest, UmountUfs,
};
use curvine_types::{Error, ErrorKind, InodeId, MountId, ROOT_INODE, Result};
use tokio::time::Instant;

use crate::change::Numbered;
use crate::leader::Leader;

fn names_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

impl Leader {
    /// The deepest directory that exists on the way to a path.
    fn deepest(&self, path: &[u8]) -> InodeId {
        let state = self.replica.state().read();
        let mut inode = ROOT_INODE;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match state.0.lookup(inode, name) {
                Ok(Some(child)) => inode = child.inode,
                _ => break,
            }
        }
        inode
    }

    /// Adds a mount and has a worker look into it; one that cannot be listed is taken back.
    pub(crate) async fn mount_ufs(
        self: &Arc<Self>,
        numbered: Numbered,
        mount: MountUfs,
        deadline: Instant,
    ) -> Result<MutateReply> {
        self.any_worker()?;
        let mount = self.completed(mount)?;
        let path = mount.path.clone();
        let before = self.mount_at(&path);
        let inode = self.deepest(&path);
        let change = self.begin_change(0, &[inode], &[], deadline).await?;
        let command = numbered.command(CommandBody::MountUfs(mount));
        let outcome = self.replica.propose(command).await?;
        drop(change);
        if outcome.error.is_none() {
            let id = outcome.id as MountId;
            if let Err(error) = self.try_mount(id, deadline).await {
                // As it was before: with other options, or not there.
                let undo = match before {
                    Some(MountInfo { path, url, options, secrets, settings, .. }) => {
                        CommandBody::MountUfs(MountUfs { path, url, options, secrets, settings, update: false })
                    }
                    None => CommandBody::UmountUfs(UmountUfs { path, force: true }),
                };
                self.internal(undo, deadline).await?;
                return Err(error);
            }
        }
        Ok(MutateReply { outcome: Some(outcome), ..Default::default() })
    }

    /// The mount whose root is at a path.
    fn mount_at(&self, path: &[u8]) -> Option<MountInfo> {
        let mounts = self.replica.state().read().0.mounts();
        mounts.into_iter().find(|mount| names_of(&mount.path).eq(names_of(path)))
    }

    /// An update with all that the mount has and the update does not name.
    fn completed(&self, update: MountUfs) -> Result<MountUfs> {
        if !update.update {
            return Ok(update);
        }
        let there = self.mount_at(&update.path).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "nothing is mounted here")
                .with("path", String::from_utf8_lossy(&update.path))
        })?;
        let mut mount = MountUfs { update: false, ..update };
        if mount.url.is_empty() {
            mount.url = there.url;
        }
        for (name, value) in there.options {
            mount.options.entry(name).or_insert(value);
        }
        for (name, value) in there.secrets {
            mount.secrets.entry(name).or_insert(value);
        }
        mount.options.retain(|_, value| !value.is_empty());
        mount.secrets.retain(|_, value| !value.is_empty());
        mount.settings = mount.settings.or(there.settings);
        Ok(mount)
    }

    /// Has a worker look into a store that is to be mounted.
    pub(crate) async fn check_mount(&self, request: CheckMountRequest, deadline: Instant) -> Result<CheckMountReply> {
        self.sessions.check(request.session)?;
        let mount =
            request.mount.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the request names no mount"))?;
        let MountUfs { url, options, secrets, .. } = self.completed(mount)?;
        let request = CheckStoreRequest { url, options, secrets };
        let worker = self.any_worker()?;
        self.workers.call::<_, Empty>(worker, Method::CheckStore, &request, Bytes::new(), deadline).await?;
        Ok(CheckMountReply {})
    }

    /// Has a worker look for keys that cannot be shown.
    pub(crate) async fn check_keys(&self, request: CheckKeysRequest, deadline: Instant) -> Result<SurveyReply> {
        let CheckKeysRequest { session, path, after, files, limit } = request;
        self.sessions.check(session)?;
        let (dir, mount) = {
            let state = self.replica.state().read();
            let mut inode = Some(ROOT_INODE);
            for name in names_of(&path) {
                inode = inode.and_then(|dir| state.0.lookup(dir, name).ok().flatten()).map(|child| child.inode);
            }
            let dir = inode.and_then(|inode| state.0.ufs_dir(inode));
            let mount = dir.as_ref().and_then(|dir| state.0.mount(dir.mount));
            (dir, mount)
        };
        let (Some(dir), Some(mount)) = (dir, mount) else {
            return Err(Error::new(ErrorKind::NotFound, "no known directory of a mount is there, see cv mount")
                .with("path", String::from_utf8_lossy(&path)));
        };
        let request =
            SurveyRequest { mount: mount.id, mount_change: mount.change, prefix: dir.prefix, after, files, limit };
        self.workers.call(self.any_worker()?, Method::Survey, &request, Bytes::new(), deadline).await
    }

    async fn try_mount(&self, id: MountId, deadline: Instant) -> Result<()> {
        let mount = self.replica.state().read().0.mount(id);
        let mount =
            mount.ok_or_else(|| Error::new(ErrorKind::Internal, "the mount is not in the table").with("mount", id))?;
        let request = UfsListRequest { mount: id, mount_change: mount.change, limit: 1, ..Default::default() };
        let worker = self.any_worker()?;
        self.workers.call::<_, UfsListReply>(worker, Method::UfsList, &request, Bytes::new(), deadline).await?;
        Ok(())
    }

    /// Takes a mount out of the tree.
    pub(crate) async fn umount_ufs(
        &self,
        numbered: Numbered,
        umount: UmountUfs,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let inode = self.deepest(&umount.path);
        let parent = self.replica.state().read().0.parent(inode).unwrap_or(ROOT_INODE);
        let mount = self.replica.state().read().0.ufs_dir(inode).map(|dir| dir.mount);
        if let Some(mount) = mount.filter(|_| !umount.force) {
            self.purge_held(mount, deadline).await?;
        }
        let _change = self.begin_change(0, &[inode, parent], &[], deadline).await?;
        let command = numbered.command(CommandBody::UmountUfs(umount));
        let outcome = self.replica.propose(command).await?;
        self.ufs.forget();
        Ok(MutateReply { outcome: Some(outcome), ..Default::default() })
    }
}
