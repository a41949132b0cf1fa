//! Where cached content comes from: objects and mounts as the master resolves them, and open handles on the stores.
//!
//! What always holds: a handle is as new as the newest `mount_change` that anybody has named; credentials stay in the handle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use curvine_blockstore::ContentKey;
use curvine_proto::{
    Method, NoteUploadRequest, ReportChangedRequest, ResolveContentReply, ResolveContentRequest, ResolveMountReply,
    ResolveMountRequest, UfsEntry,
};
use curvine_rpc::{Body, Channel};
use curvine_types::{Error, ErrorKind, FastMap, MountId, Result, Secret};
use curvine_ufs::{Expect, Policy, Ufs};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::per_mount::PerMount;

/// Contents resolved at once only to know whose they are.
const NAMING: usize = 2;
/// Objects remembered; beyond it all are asked for again.
const OBJECTS_MAX: usize = 64 << 10;

/// The object behind a cached content.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub mount: MountId,
    pub mount_change: u64,
    /// Relative to the mount's URL.
    pub key: String,
    /// The version that belongs to the content's generation.
    pub expect: Expect,
    /// By which the homes of its parts are found.
    pub block_size: u64,
    /// What is cached of it stays.
    pub pinned: bool,
}

pub(crate) struct Sources {
    master: Channel,
    worker: AtomicU64,
    policy: Policy,
    timeout: Duration,
    objects: Mutex<FastMap<ContentKey, Arc<Object>>>,
    mounts: tokio::sync::Mutex<FastMap<MountId, Handle>>,
    pub per_mount: PerMount,
    /// Contents that are being resolved only to know whose they are.
    naming: Semaphore,
}

#[derive(Clone)]
struct Handle {
    change: u64,
    ufs: Arc<dyn Ufs>,
}

impl Sources {
    pub fn new(master: Channel, policy: Policy, timeout: Duration) -> Self {
        Self {
            master,
            worker: AtomicU64::new(0),
            policy,
            timeout,
            objects: Mutex::default(),
            mounts: tokio::sync::Mutex::default(),
            per_mount: PerMount::default(),
            naming: Semaphore::new(NAMING),
        }
    }

    /// Deadlines and limits of stores here.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The number that the master gave this worker.
    pub fn registered(&self, worker: u64) {
        self.worker.store(worker, Relaxed);
    }

    /// The number of this worker; 0: none yet.
    pub fn worker(&self) -> u64 {
        self.worker.load(Relaxed)
    }

    /// The object of a content: remembered, or asked for. `VersionMismatch` if the file has another generation by now.
    pub async fn object(&self, key: ContentKey, deadline: Instant) -> Result<Arc<Object>> {
        if let Some(object) = self.objects.lock().get(&key) {
            return Ok(object.clone());
        }
        let request =
            ResolveContentRequest { worker: self.worker.load(Relaxed), inode: key.inode, generation: key.generation };
        let (reply, _): (ResolveContentReply, _) =
            self.master.call(Method::ResolveContent, &request, Body::Empty, self.master_deadline(deadline)).await?;
        let layout =
            reply.ufs.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the master resolved a content to nothing"))?;
        let object = Arc::new(Object {
            mount: layout.mount,
            mount_change: reply.mount_change,
            block_size: layout.block_size,
            pinned: reply.pinned,
            key: layout.key,
            expect: Expect { etag: layout.etag, size: layout.size, mtime: layout.mtime.map(SystemTime::from) },
        });
        let mut objects = self.objects.lock();
        if objects.len() >= OBJECTS_MAX {
            objects.clear();
        }
        objects.insert(key, object.clone());
        Ok(object)
    }

    /// What is remembered of a content may be wrong: ask next time.
    pub fn forget(&self, key: ContentKey) {
        self.objects.lock().remove(&key);
    }

    /// All that is remembered may be wrong.
    pub fn forget_all(&self) {
        self.objects.lock().clear();
    }

    /// A handle on a mount's store that is at least as new as `change`.
    pub async fn mount(&self, mount: MountId, change: u64, deadline: Instant) -> Result<Arc<dyn Ufs>> {
        // Held while the master is asked, so that it is asked once.
        let mut mounts = tokio::time::timeout_at(deadline, self.mounts.lock()).await.map_err(|_| {
            Error::new(ErrorKind::TimedOut, "the master does not say what a mount is").with("mount", mount)
        })?;
        if let Some(handle) = mounts.get(&mount)
            && handle.change >= change
        {
            return Ok(handle.ufs.clone());
        }
        let request = ResolveMountRequest { mount };
        let (reply, _): (ResolveMountReply, _) =
            self.master.call(Method::ResolveMount, &request, Body::Empty, self.master_deadline(deadline)).await?;
        let info = reply.mount.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such mount").with("mount", mount))?;
        let options: BTreeMap<String, String> = info.options.into_iter().collect();
        let secrets: BTreeMap<String, Secret> =
            info.secrets.into_iter().map(|(name, value)| (name, Secret::new(value.to_vec()))).collect();
        let ufs = curvine_ufs::open_with(&info.url, &options, &secrets, self.policy)?;
        tracing::info!(mount, url = info.url, change = info.change, "store opened");
        let known = curvine_proto::MountInfo { id: mount, url: info.url, path: info.path, ..Default::default() };
        self.per_mount.opened(&known, ufs.clone());
        mounts.insert(mount, Handle { change: info.change, ufs: ufs.clone() });
        Ok(ufs)
    }

    /// The mount that a content belongs to; 0 if that is not known here yet.
    pub fn mount_of(&self, key: ContentKey) -> MountId {
        self.objects.lock().get(&key).map_or(0, |object| object.mount)
    }

    /// Counts a read of a cached content. Whose it is, is asked once, in the background.
    pub fn count_read(self: &Arc<Self>, key: ContentKey, missed: bool, bytes: u64) {
        let mount = self.mount_of(key);
        self.per_mount.of(mount).read(missed, bytes);
        if mount == 0 && self.naming.available_permits() > 0 {
            let sources = self.clone();
            tokio::spawn(async move {
                let Ok(_permit) = sources.naming.try_acquire() else { return };
                let deadline = Instant::now() + sources.timeout;
                if let Ok(object) = sources.object(key, deadline).await {
                    // So that the mount has its name, too.
                    let _ = sources.mount(object.mount, object.mount_change, deadline).await;
                }
            });
        }
    }

    /// Has the log remember an upload that has begun.
    pub async fn note_upload(
        &self,
        job: u64,
        incarnation: u64,
        (upload, token): (&str, &str),
        deadline: Instant,
    ) -> Result<()> {
        let (upload, token) = (upload.to_string(), token.to_string());
        let request = NoteUploadRequest { job, incarnation, upload, token };
        let told = self.master.call(Method::NoteUpload, &request, Body::Empty, self.master_deadline(deadline)).await;
        told.map(|(_, _): (curvine_proto::Empty, _)| ())
    }

    /// Tells the master that the store has another object, or none, where this content came from.
    pub async fn report_changed(&self, key: ContentKey, object: &Object, ufs: &Arc<dyn Ufs>, deadline: Instant) {
        self.forget(key);
        let found = match ufs.stat(&object.key).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(content = %key, object = object.key, %error, "cannot look at a changed object");
                return;
            }
        };
        let file = found.filter(|found| !found.directory);
        let request = ReportChangedRequest {
            inode: key.inode,
            generation: key.generation,
            gone: file.is_none(),
            entry: file.map(|found| UfsEntry {
                name: name_of(&found.key).into(),
                directory: false,
                size: found.size,
                mtime: found.mtime.map(Into::into),
                etag: found.etag,
                key: found.key,
            }),
        };
        tracing::info!(content = %key, object = object.key, gone = request.gone, "an object of a store has changed");
        let told: Result<(curvine_proto::Empty, _)> =
            self.master.call(Method::ReportChanged, &request, Body::Empty, self.master_deadline(deadline)).await;
        if let Err(error) = told
            && error.kind() != ErrorKind::Conflict
        {
            tracing::warn!(content = %key, %error, "the master could not be told of a changed object");
        }
    }

    fn master_deadline(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.timeout)
    }
}

/// The last part of a key.
fn name_of(key: &str) -> Vec<u8> {
    key.rsplit('/').next().unwrap_or(key).as_bytes().to_vec()
}
