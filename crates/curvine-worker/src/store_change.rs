//! Changes of names in a store, on the master's order.
//!
//! Always: one change of a key at a time; no order of a leader is obeyed after one of a later leader has come; an order ends by its
//! deadline, whatever the store does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use curvine_proto::{StoreChangeKind, StoreChangeReply, StoreChangeRequest, UfsObject};
use curvine_types::{Error, ErrorKind, MountId, Result};
use curvine_ufs::Expect;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};

use crate::engine::Engine;
use crate::service::{ufs_object, within};
use crate::store_object::give_up;

type Keys = HashMap<(MountId, String), Arc<tokio::sync::Mutex<()>>>;

/// Whose orders are obeyed, and which keys are being changed.
#[derive(Default)]
pub(crate) struct Orders {
    latest: Mutex<u64>,
    keys: Arc<Mutex<Keys>>,
}

/// A key is being changed until this is dropped.
pub(crate) struct Busy {
    keys: Arc<Mutex<Keys>>,
    key: (MountId, String),
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.guard = None;
        let mut keys = self.keys.lock();
        if keys.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&self.key);
        }
    }
}

impl Orders {
    /// `Conflict` for the order of a leader that has been followed by another one.
    pub fn obey(&self, incarnation: u64) -> Result<()> {
        let mut latest = self.latest.lock();
        if incarnation < *latest {
            return Err(Error::new(ErrorKind::Conflict, "a later leader has given orders")
                .with("have", *latest)
                .with("want", incarnation));
        }
        *latest = incarnation;
        Ok(())
    }

    /// Waits for the key's turn.
    pub async fn turn(&self, mount: MountId, key: &str, deadline: Instant) -> Result<Busy> {
        let key = (mount, key.to_string());
        let lock = self.keys.lock().entry(key.clone()).or_default().clone();
        let guard = timeout_at(deadline, lock.lock_owned()).await;
        let busy = Busy { keys: self.keys.clone(), key, guard: guard.ok() };
        if busy.guard.is_none() {
            return Err(Error::new(ErrorKind::Overloaded, "an earlier change of the key is not finished")
                .with("key", &busy.key.1));
        }
        Ok(busy)
    }
}

/// The version of an object as the master named it.
pub(crate) fn expect(object: &UfsObject) -> Expect {
    Expect { etag: object.etag.clone(), size: object.size, mtime: object.mtime.map(SystemTime::from) }
}

pub(crate) async fn change(
    engine: &Arc<Engine>,
    request: StoreChangeRequest,
    deadline: Instant,
) -> Result<StoreChangeReply> {
    engine.orders.obey(request.incarnation)?;
    let kind = request.kind();
    let StoreChangeRequest { mount, mount_change, key, to, source, limit, abort, incarnation, .. } = request;
    let _turn = engine.orders.turn(mount, &key, deadline).await?;
    // A later leader may have been told meanwhile that nobody is at the key.
    engine.orders.obey(incarnation)?;
    let ufs = engine.sources.mount(mount, mount_change, deadline).await?;
    give_up(&ufs, &key, &abort, deadline).await?;
    let mut reply = StoreChangeReply { entry: None, objects: 1 };
    match kind {
        StoreChangeKind::MakeDirectory => within(deadline, ufs.make_directory(&key)).await?,
        StoreChangeKind::RemoveDirectory => within(deadline, ufs.remove_directory(&key)).await?,
        StoreChangeKind::Delete => within(deadline, ufs.delete(&key)).await?,
        StoreChangeKind::Move => {
            let source = source.as_ref().map(expect).unwrap_or_default();
            reply.entry = Some(ufs_object(within(deadline, ufs.rename(&key, &to, &source)).await?));
        }
        StoreChangeKind::MoveDirectory => {
            reply.objects = within(deadline, ufs.rename_directory(&key, &to, limit.into())).await?;
        }
        StoreChangeKind::Wait => {}
        StoreChangeKind::Unknown => {
            return Err(Error::new(ErrorKind::NotSupported, "a worker does not know this change of a store"));
        }
    }
    Ok(reply)
}
