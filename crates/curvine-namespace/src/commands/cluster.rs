//! The cluster's identity, its feature level and its workers.

use curvine_proto::{FileKind, InitCluster, Outcome, RaiseFeatureLevel, RegisterWorker, WorkerState};
use curvine_types::{ClusterId, ErrorKind, ROOT_INODE, Result};

use crate::api::WorkerRecord;
use crate::memory::Memory;
use crate::record::Inode;
use crate::state::{State, fail};
use crate::store::Store;

/// Mode of the root directory if the command says none.
const ROOT_MODE: u32 = 0o755;

impl State {
    pub(super) fn init_cluster(&mut self, command: &InitCluster) -> Result<Outcome> {
        if self.meta.cluster.is_some() {
            return Err(fail(ErrorKind::AlreadyExists, "the cluster is already initialised"));
        }
        let cluster = ClusterId::from_slice(&command.cluster)?;
        if cluster.is_nil() {
            return Err(fail(ErrorKind::InvalidArgument, "a cluster id is not all zeroes"));
        }
        let mode = if command.root_mode == 0 { ROOT_MODE } else { command.root_mode };
        let mut root = Inode::new(FileKind::Directory, mode, command.root_uid, command.root_gid, self.meta.now);
        root.nlink = 2;
        root.content = ROOT_INODE;
        self.store = Memory::new(cluster.0);
        self.store.put_inode(ROOT_INODE, root);
        self.meta.tally.count(&root, true);
        self.meta.cluster = Some(cluster);
        self.meta.feature_level = 1;
        Ok(Outcome { attr: self.attr(ROOT_INODE), created: true, ..Outcome::default() })
    }

    pub(super) fn raise_feature_level(&mut self, command: &RaiseFeatureLevel) -> Result<Outcome> {
        if command.level < self.meta.feature_level {
            return Err(fail(ErrorKind::InvalidArgument, "the feature level is only raised")
                .with("have", self.meta.feature_level)
                .with("want", command.level));
        }
        self.meta.feature_level = command.level;
        Ok(Outcome { id: command.level.into(), ..Outcome::default() })
    }

    pub(super) fn register_worker(&mut self, command: &RegisterWorker) -> Result<Outcome> {
        let uuid = command.uuid.as_ref().try_into().map_err(|_| {
            fail(ErrorKind::InvalidArgument, "a worker's uuid has 16 bytes").with("length", command.uuid.len())
        })?;
        let known = self.workers.iter().find(|(_, worker)| worker.uuid == uuid);
        let known = known.map(|(id, worker)| (*id, worker.state));
        let (id, state) = known.unwrap_or((self.meta.next_worker, WorkerState::InService));
        self.meta.next_worker += u64::from(known.is_none());
        let record = WorkerRecord {
            id,
            uuid,
            hostname: command.hostname.clone(),
            rpc_port: command.rpc_port,
            socket: command.socket.clone(),
            state,
        };
        self.workers.insert(id, record);
        Ok(Outcome { id, created: known.is_none(), ..Outcome::default() })
    }
}
