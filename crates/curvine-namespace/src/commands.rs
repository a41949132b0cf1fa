//! The commands of the log, one topic a file. Each is a method of `State` that checks everything and then changes it.

mod acls;
mod attributes;
mod cluster;
mod content;
mod grants;
mod jobs;
mod locks;
mod mounts;
mod moves;
mod names;
mod observe;
mod pins;
mod quota;
mod reap;
mod rename;
mod sessions;
mod stored;
mod tasks;
mod trash;
mod tree_moves;
mod ttl;
mod xattrs;

pub use tasks::{has_ended, is_task};
pub use trash::moved_name;

use curvine_proto::Outcome;
use curvine_proto::command::Body;
use curvine_types::{ErrorKind, Result, SessionId};

use crate::state::{State, fail};

impl State {
    /// Executes the body of a command for a session that may.
    pub fn execute(&mut self, session: SessionId, body: &Body) -> Result<Outcome> {
        match body {
            Body::InitCluster(command) => self.init_cluster(command),
            Body::RaiseFeatureLevel(command) => self.raise_feature_level(command),
            Body::RegisterWorker(command) => self.register_worker(command),
            Body::OpenSession(command) => self.open_session(command),
            Body::ExpireSession(command) => self.expire_session(command.session),
            Body::Create(command) => self.create(session, command),
            Body::Link(command) => self.link(command),
            Body::Unlink(command) => self.unlink(command),
            Body::Rename(command) => self.rename(command),
            Body::SetAttr(command) => self.set_attr(command),
            Body::SetXattr(command) => self.set_xattr(command),
            Body::RemoveXattr(command) => self.remove_xattr(command),
            Body::SetLock(command) => self.set_lock(session, command),
            Body::GrantWrite(command) => self.grant_write(session, command.inode),
            Body::ReleaseWrite(command) => self.release_write(session, command.inode),
            Body::WriteInline(command) => self.write_inline(command),
            Body::PlaceBlocks(command) => self.place_blocks(command),
            Body::SetLive(command) => self.set_live(command),
            Body::CommitSize(command) => self.commit_size(command),
            Body::DropOrphan(command) => self.drop_orphan(session, command),
            Body::ForgetGarbage(command) => self.forget_garbage(command),
            Body::MountUfs(command) => self.mount_ufs(command),
            Body::UmountUfs(command) => self.umount_ufs(command),
            Body::UfsObserved(command) => self.ufs_observed(command),
            Body::UfsChanged(command) => self.ufs_changed(command),
            Body::UfsAdopt(command) => self.ufs_adopt(command),
            Body::UfsStored(command) => self.ufs_stored(command),
            Body::SetJob(command) => self.set_job(command),
            Body::SetWorkerState(command) => self.set_worker_state(command),
            Body::MoveBlocks(command) => self.move_blocks(command),
            Body::Reap(command) => Ok(self.reap(command)),
            Body::SubmitJob(command) => self.submit_job(command),
            Body::NoteJob(command) => self.note_job(command),
            Body::ControlJob(command) => self.control_job(command),
            Body::SetQuota(command) => self.set_quota(command),
            Body::SetPin(command) => self.set_pin(command),
            Body::CountQuotas(command) => self.count_quotas(command),
            Body::EditTrash(command) => self.edit_trash(command),
            Body::SetTtl(command) => self.set_ttl(command),
            Body::NoteTreeMove(command) => self.note_tree_move(command),
        }
    }
}

/// A session that is not the master itself, for commands that something is held for.
fn need_session(session: SessionId) -> Result<()> {
    match session {
        0 => Err(fail(ErrorKind::InvalidArgument, "this command needs a session")),
        _ => Ok(()),
    }
}
