//! What is open here, and what the master counts as open.
//!
//! Always: the master's counts for a connection are those of the last `snapshot` plus the opens and closes since, over that very
//! connection. So an open counts only if no snapshot was taken since it was sent, and a close is sent only over the connection
//! whose snapshot had the open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_proto::{CloseRequest, DataMode, Empty, Method, OpenInode};
use curvine_rpc::Body;
use curvine_types::{Error, ErrorKind, FastMap, InodeId, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::{Core, Pause};
use crate::file::File;

/// Most closes in one request.
const CLOSES_MAX: usize = 1024;

pub(crate) struct Opens {
    inner: Mutex<Inner>,
    closer: Notify,
    /// Numbers the moments at which own writes ended.
    epoch: AtomicU64,
    limit: usize,
}

#[derive(Default)]
struct Inner {
    files: FastMap<InodeId, Opened>,
    /// The connection of the last snapshot.
    serial: u64,
    handles: usize,
    closes: VecDeque<PendingClose>,
    /// Closes in a request that is on its way.
    closing: usize,
    /// Own writes to files that are no longer open ended at or before this moment.
    written_before: u64,
}

struct Opened {
    file: Arc<File>,
    readers: u32,
    writers: u32,
}

struct PendingClose {
    serial: u64,
    inode: InodeId,
    write: bool,
}

impl Opens {
    pub(crate) fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), closer: Notify::new(), epoch: AtomicU64::new(1), limit }
    }

    /// Names a moment, for `File::data_epoch`.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The newest moment that has a name.
    pub(crate) fn epoch_now(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// `Busy` if no more handles may be opened.
    pub(crate) fn check_limit(&self) -> Result<()> {
        if self.inner.lock().handles >= self.limit {
            return Err(Error::new(ErrorKind::Busy, "too many open files").with("limit", self.limit));
        }
        Ok(())
    }

    /// Registers an open that the master counted over connection `serial`; `None` if it does not count any more.
    pub(crate) fn register(&self, core: &Core, serial: u64, inode: InodeId, write: bool) -> Option<Arc<File>> {
        let mut inner = self.inner.lock();
        if inner.serial != serial {
            return None;
        }
        let written_before = inner.written_before;
        let opened = inner.files.entry(inode).or_insert_with(|| {
            core.cache.pin(inode);
            Opened { file: Arc::new(File::new(inode, written_before)), readers: 0, writers: 0 }
        });
        if write {
            opened.writers += 1;
        } else {
            opened.readers += 1;
        }
        let file = opened.file.clone();
        inner.handles += 1;
        Some(file)
    }

    /// An open of a predecessor, which the first declaration will name.
    pub(crate) fn adopt(&self, core: &Core, inode: InodeId, write: bool, dead: bool) -> Arc<File> {
        let mut inner = self.inner.lock();
        inner.handles += 1;
        if dead {
            return Arc::new(File::new(inode, 0));
        }
        let opened = inner.files.entry(inode).or_insert_with(|| {
            core.cache.pin(inode);
            Opened { file: Arc::new(File::new(inode, 0)), readers: 0, writers: 0 }
        });
        if write {
            opened.writers += 1;
        } else {
            opened.readers += 1;
        }
        // It may have taken one.
        opened.file.locked.store(true, Ordering::SeqCst);
        opened.file.clone()
    }

    /// Ends an open. `dead`: the master has forgotten it with its session.
    pub(crate) fn release(&self, core: &Core, inode: InodeId, write: bool, dead: bool) {
        let mut inner = self.inner.lock();
        inner.handles = inner.handles.saturating_sub(1);
        if dead {
            return;
        }
        let Some(opened) = inner.files.get_mut(&inode) else { return };
        let count = if write { &mut opened.writers } else { &mut opened.readers };
        *count = count.saturating_sub(1);
        if opened.readers + opened.writers == 0 {
            let written = opened.file.data_epoch();
            inner.files.remove(&inode);
            inner.written_before = inner.written_before.max(written);
            core.cache.unpin(inode);
        }
        let serial = inner.serial;
        inner.closes.push_back(PendingClose { serial, inode, write });
        drop(inner);
        self.closer.notify_one();
    }

    /// The opens to declare over a connection; from now on opens and closes count over it alone.
    pub(crate) fn snapshot(&self, serial: u64) -> Vec<OpenInode> {
        let mut inner = self.inner.lock();
        inner.serial = serial;
        inner.closes.clear();
        let times = |inode, write, count| std::iter::repeat_n(OpenInode { inode, write }, count as usize);
        let all = inner.files.iter().flat_map(|(inode, opened)| {
            times(*inode, false, opened.readers).chain(times(*inode, true, opened.writers))
        });
        all.collect()
    }

    /// The session is over: what was open for writing is dead; readers go on under the next session.
    pub(crate) fn expire(&self, core: &Core) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.closes.clear();
        inner.files.retain(|inode, opened| {
            opened.writers = 0;
            opened.file.forget(DataMode::WriteShared);
            if opened.readers == 0 {
                inner.written_before = inner.written_before.max(opened.file.data_epoch());
                core.cache.unpin(*inode);
            }
            opened.readers > 0
        });
    }

    /// The open ones among recalled inodes; what is known of them is forgotten.
    pub(crate) fn recalled(&self, inodes: &[InodeId]) -> Vec<InodeId> {
        let inner = self.inner.lock();
        let open = inodes.iter().filter_map(|inode| inner.files.get(inode));
        open.map(|opened| {
            opened.file.forget(DataMode::WriteShared);
            opened.file.inode
        })
        .collect()
    }

    /// An open file.
    pub(crate) fn get(&self, inode: InodeId) -> Option<Arc<File>> {
        self.inner.lock().files.get(&inode).map(|opened| opened.file.clone())
    }

    pub(crate) fn handles(&self) -> usize {
        self.inner.lock().handles
    }

    pub(crate) fn wake_closer(&self) {
        self.closer.notify_one();
    }

    /// Whether every close has reached the master.
    pub(crate) fn all_closed(&self) -> bool {
        let inner = self.inner.lock();
        inner.closes.is_empty() && inner.closing == 0
    }

    fn take_closes(&self) -> Option<(u64, Vec<OpenInode>)> {
        let mut inner = self.inner.lock();
        let serial = inner.closes.front()?.serial;
        let mut closes = Vec::new();
        while closes.len() < CLOSES_MAX
            && let Some(next) = inner.closes.pop_front_if(|next| next.serial == serial)
        {
            closes.push(OpenInode { inode: next.inode, write: next.write });
        }
        inner.closing = closes.len();
        Some((serial, closes))
    }
}

/// Sends closes to the master, many in one request.
pub(crate) async fn run_closer(core: Arc<Core>) {
    let mut closing = core.master.closing.subscribe();
    let work = async {
        loop {
            while let Some((serial, closes)) = core.opens.take_closes() {
                send_closes(&core, serial, closes).await;
                core.opens.inner.lock().closing = 0;
            }
            core.opens.closer.notified().await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

async fn send_closes(core: &Core, serial: u64, closes: Vec<OpenInode>) {
    let mut pause = Pause::new(core.deadline());
    loop {
        // A snapshot may have been taken whose declaration is still on its way.
        let Ok(conn) = core.master.declared(core.deadline()).await else { return };
        if conn.serial() != serial || core.opens.inner.lock().serial != serial {
            return;
        }
        let request = CloseRequest { session: conn.session, closes: closes.clone() };
        let closed = conn.peer.call::<_, Empty>(Method::Close, &request, Body::Empty, core.deadline()).await;
        let Err(error) = closed else { return };
        let again = core.master.recovers(&conn, &error) && error.kind() != ErrorKind::ConnectionLost;
        if !again || pause.wait(error).await.is_err() {
            if !conn.peer.is_closed() {
                // Whether the master still counts them is not known; a new declaration makes it certain.
                conn.peer.close();
            }
            return;
        }
    }
}
