//! What kinds of commands there are, by name.

use crate::v1::command::Body;
use crate::{Command, TrashEntry};

impl Command {
    /// The kind of the command, for gauges and messages.
    pub fn kind_name(&self) -> &'static str {
        let Some(body) = &self.body else { return "unknown" };
        match body {
            Body::InitCluster(_) => "init_cluster",
            Body::OpenSession(_) => "open_session",
            Body::ExpireSession(_) => "expire_session",
            Body::Create(_) => "create",
            Body::Link(_) => "link",
            Body::Unlink(_) => "unlink",
            Body::Rename(_) => "rename",
            Body::SetAttr(_) => "set_attr",
            Body::SetXattr(_) => "set_xattr",
            Body::RemoveXattr(_) => "remove_xattr",
            Body::SetLock(_) => "set_lock",
            Body::GrantWrite(_) => "grant_write",
            Body::ReleaseWrite(_) => "release_write",
            Body::WriteInline(_) => "write_inline",
            Body::PlaceBlocks(_) => "place_blocks",
            Body::CommitSize(_) => "commit_size",
            Body::DropOrphan(_) => "drop_orphan",
            Body::RegisterWorker(_) => "register_worker",
            Body::ForgetGarbage(_) => "forget_garbage",
            Body::MountUfs(_) => "mount_ufs",
            Body::UmountUfs(_) => "umount_ufs",
            Body::UfsObserved(_) => "ufs_observed",
            Body::UfsChanged(_) => "ufs_changed",
            Body::RaiseFeatureLevel(_) => "raise_feature_level",
            Body::SetLive(_) => "set_live",
            Body::UfsAdopt(_) => "ufs_adopt",
            Body::UfsStored(_) => "ufs_stored",
            Body::SetJob(_) => "set_job",
            Body::SetWorkerState(_) => "set_worker_state",
            Body::MoveBlocks(_) => "move_blocks",
            Body::Reap(_) => "reap",
            Body::SubmitJob(_) => "submit_job",
            Body::NoteJob(_) => "note_job",
            Body::ControlJob(_) => "control_job",
            Body::SetQuota(_) => "set_quota",
            Body::CountQuotas(_) => "count_quotas",
            Body::SetPin(_) => "set_pin",
            Body::EditTrash(_) => "edit_trash",
            Body::SetTtl(_) => "set_ttl",
            Body::NoteTreeMove(_) => "note_tree_move",
        }
    }
}

impl TrashEntry {
    /// Whether it was a directory, of which a store has nothing but what is in it.
    pub fn directory(&self) -> bool {
        self.object.is_none()
    }
}
