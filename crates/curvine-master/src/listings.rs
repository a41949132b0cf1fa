//! Directories of under file systems are listed in the background, page by page, while readers take what is there already.
//!
//! Always: a page is read and applied with nobody else in the gate; between pages others look and change. So the end of a listing
//! takes only those names off that were there when it began, that it has not met, and that nobody has looked at since.
//! Always: one listing of a directory at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::UfsDir;
use curvine_proto::{
    Attr, ErrorBody, Method, MountInfo, UfsEntry, UfsListReply, UfsListRequest, UfsObject, UfsObserved,
};
use curvine_types::limits::OBSERVED_ENTRIES_MAX;
use curvine_types::{Error, ErrorKind, FastMap, InodeId, Result};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::leader::Leader;
use crate::mounts::{FOREVER, RETRY, entry_of, is_own, is_store_trouble, ttl_of};
use crate::sessions::boot_clock;

/// How long the store is waited for when there is an older listing to answer with.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one page may take.
const STEP: Duration = Duration::from_secs(60);
/// Attempts of a listing whose directory changes under it.
const ATTEMPTS: usize = 8;
/// Listings that are under way at once; more wait.
const AT_ONCE: usize = 64;
/// Entries of a listing that are applied with one command, so that none takes long.
const OBSERVED_AT_ONCE: usize = 128;

/// How a listing ended, once it has; whoever waits is also woken by each part that was applied.
type Progress = Option<std::result::Result<(), ErrorBody>>;

/// The listings that are under way.
pub(crate) struct Listings {
    running: Arc<Mutex<FastMap<InodeId, watch::Receiver<Progress>>>>,
    permits: Semaphore,
}

impl Default for Listings {
    fn default() -> Self {
        Self { running: Arc::default(), permits: Semaphore::new(AT_ONCE) }
    }
}

impl Listings {
    /// How many.
    pub fn count(&self) -> usize {
        self.running.lock().len()
    }
}

/// Takes a listing off the table, also if its task panics.
struct Running {
    table: Arc<Mutex<FastMap<InodeId, watch::Receiver<Progress>>>>,
    dir: InodeId,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.table.lock().remove(&self.dir);
    }
}

/// The length of parts of a list, none much shorter than the others: a single entry would be taken for all that there is of its name.
fn in_equal_parts(length: usize, most: usize) -> usize {
    length.div_ceil(length.div_ceil(most).max(1)).max(1)
}

fn gave_up() -> Error {
    Error::new(ErrorKind::Internal, "a listing was given up")
}

/// Waits for the end of a listing.
async fn ended(progress: &mut watch::Receiver<Progress>, deadline: Instant) -> Result<()> {
    match timeout_at(deadline, progress.wait_for(Option::is_some)).await {
        Ok(Ok(ended)) => ended.clone().map_or_else(|| Err(gave_up()), |ended| ended.map_err(Error::from)),
        Ok(Err(_)) => Err(gave_up()),
        Err(_) => Err(Error::new(ErrorKind::TimedOut, "the listing of a directory of a store takes too long")),
    }
}

impl Leader {
    /// Has the directory listed in the store, unless that was done lately.
    pub(crate) async fn fault_in_listing(&self, dir: &Attr, deadline: Instant) -> Result<()> {
        self.list_for(dir.inode, None, deadline).await.map(drop)
    }

    /// For a reader of the directory who goes on behind a cookie: false if more names may come, of which one at least is there.
    pub(crate) async fn fault_in_entries(&self, dir: &Attr, after: u64, deadline: Instant) -> Result<bool> {
        self.list_for(dir.inode, Some(after), deadline).await
    }

    async fn list_for(&self, dir: InodeId, after: Option<u64>, deadline: Instant) -> Result<bool> {
        if self.ufs.knows_listing(dir) {
            return Ok(true);
        }
        let (bound, mount, _) = self.ufs_dir(dir)?;
        let seen_before = bound.complete_at.is_some();
        if seen_before && is_own(&mount) {
            self.ufs.saw_listing(dir, &[], boot_clock(), FOREVER);
            return Ok(true);
        }
        if seen_before && after.is_some_and(|after| after > 0) {
            // It is the rest of what a reader has begun: only who begins must see what is new.
            return Ok(true);
        }
        let mut progress = self.begin_listing(dir);
        let listed = if seen_before {
            ended(&mut progress, deadline.min(Instant::now() + PATIENCE)).await
        } else if let Some(after) = after {
            return self.first_entries(dir, after, progress, deadline).await;
        } else {
            ended(&mut progress, deadline).await
        };
        match listed {
            Err(error) if seen_before && is_store_trouble(&error) => {
                tracing::warn!(inode = dir, %error, "the store does not answer: the listing is as last seen");
                self.ufs.saw_listing(dir, &[], boot_clock(), RETRY);
                Ok(true)
            }
            listed => listed.map(|()| true),
        }
    }

    /// Waits until the first listing of a directory has brought names behind a cookie, or has ended: then true.
    async fn first_entries(
        &self,
        dir: InodeId,
        after: u64,
        mut progress: watch::Receiver<Progress>,
        deadline: Instant,
    ) -> Result<bool> {
        loop {
            if progress.borrow_and_update().is_some() {
                return ended(&mut progress, deadline).await.map(|()| true);
            }
            if !self.replica.state().read().0.ufs_names(dir, after, 1)?.0.is_empty() {
                return Ok(false);
            }
            match timeout_at(deadline, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(gave_up()),
                Err(_) => {
                    return Err(
                        Error::new(ErrorKind::TimedOut, "a store does not list a directory in time").with("inode", dir)
                    );
                }
            }
        }
    }

    /// Has the directory listed in the store, whenever that was done last.
    pub(crate) async fn list_again(&self, dir: InodeId, deadline: Instant) -> Result<()> {
        let earlier = self.listings.running.lock().get(&dir).cloned();
        if let Some(mut earlier) = earlier {
            // It may have read already what has changed since.
            let _ = ended(&mut earlier, deadline).await;
        }
        ended(&mut self.begin_listing(dir), deadline).await
    }

    /// The listing of a directory that is under way, or a new one. It goes on whoever waits for it.
    fn begin_listing(&self, dir: InodeId) -> watch::Receiver<Progress> {
        let mut running = self.listings.running.lock();
        if let Some(progress) = running.get(&dir) {
            return progress.clone();
        }
        let (sender, progress) = watch::channel(None);
        // Without a leader there is nobody to list: who waits is told so by the end of the sender.
        let Some(leader) = self.me.upgrade() else { return progress };
        running.insert(dir, progress.clone());
        let entry = Running { table: self.listings.running.clone(), dir };
        tokio::spawn(async move {
            let listed = leader.list(dir, &sender).await;
            // In this order: who comes later begins a new one.
            drop(entry);
            sender.send_replace(Some(listed.map_err(|error| ErrorBody::from(&error))));
        });
        progress
    }

    async fn list(&self, dir: InodeId, progress: &watch::Sender<Progress>) -> Result<()> {
        let _permit = self.listings.permits.acquire().await.map_err(|_| gave_up())?;
        for _ in 0..ATTEMPTS {
            if self.observe_listing(dir, progress).await? {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Overloaded, "the directory changes too often to be listed").with("inode", dir))
    }

    /// One whole listing. `Ok(false)`: the directory is another one by now.
    async fn observe_listing(&self, dir: InodeId, progress: &watch::Sender<Progress>) -> Result<bool> {
        let (bound, mount, _) = self.ufs_dir(dir)?;
        let since = boot_clock();
        let (began, first_new) = {
            let state = self.replica.state().read();
            (state.0.stores(), state.0.next_cookie())
        };
        let mut seen: HashSet<Bytes> = HashSet::new();
        let mut start_after = String::new();
        loop {
            let deadline = Instant::now() + STEP;
            let _look = self.ufs_gates.look(dir, deadline).await?;
            if !self.is_still(dir, &bound, &mount)? {
                return Ok(false);
            }
            let page = self.list_page(dir, &bound, &mount, start_after, deadline).await?;
            let found: Vec<(Bytes, UfsEntry)> =
                page.entries.into_iter().filter_map(|object: UfsObject| entry_of(object, &bound.prefix)).collect();
            let (names, entries): (Vec<Bytes>, Vec<UfsEntry>) = found.into_iter().unzip();
            seen.extend(names);
            for entries in entries.chunks(in_equal_parts(entries.len(), OBSERVED_AT_ONCE)) {
                let observed = UfsObserved { dir, entries: entries.to_vec(), began, ..Default::default() };
                self.observe_now(observed, deadline).await?;
                progress.send_modify(|_| ());
            }
            if page.next.is_empty() {
                break;
            }
            start_after = page.next;
        }
        let deadline = Instant::now() + STEP;
        let _look = self.ufs_gates.look(dir, deadline).await?;
        if !self.is_still(dir, &bound, &mount)? {
            return Ok(false);
        }
        let (absent, files) = self.absent_names(dir, &seen, first_new, since)?;
        let mut parts = absent.chunks(OBSERVED_AT_ONCE).map(<[Bytes]>::to_vec).collect::<Vec<_>>();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let last = parts.len() - 1;
        for (position, absent) in parts.into_iter().enumerate() {
            let complete = position == last;
            let observed = UfsObserved { dir, absent, complete, began, ..Default::default() };
            self.observe_now(observed, Instant::now() + STEP).await?;
        }
        self.ufs.saw_listing(dir, &files, since, ttl_of(&mount));
        Ok(true)
    }

    /// Whether the directory still stands for the same keys of the same mount.
    fn is_still(&self, dir: InodeId, bound: &UfsDir, mount: &MountInfo) -> Result<bool> {
        let (now, mounted, _) = self.ufs_dir(dir)?;
        Ok(now.prefix == bound.prefix && now.mount == bound.mount && mounted.change == mount.change)
    }

    async fn list_page(
        &self,
        dir: InodeId,
        bound: &UfsDir,
        mount: &MountInfo,
        start_after: String,
        deadline: Instant,
    ) -> Result<UfsListReply> {
        let request = UfsListRequest {
            mount: mount.id,
            mount_change: mount.change,
            prefix: bound.prefix.clone(),
            start_after,
            limit: OBSERVED_ENTRIES_MAX as u32,
        };
        let worker = self.any_worker()?;
        match self.workers.call(worker, Method::UfsList, &request, Bytes::new(), deadline).await {
            // Nothing is in it. Whether it is there itself is seen in the directory above.
            Err(error) if error.kind() == ErrorKind::NotFound && !bound.prefix.is_empty() => {
                let above = self.replica.state().read().0.parent(dir)?;
                self.ufs.forget_listing(above);
                Ok(UfsListReply::default())
            }
            page => page,
        }
    }

    /// Applies what was seen just now, with nobody else in the gate, to the directory as it is.
    async fn observe_now(&self, observed: UfsObserved, deadline: Instant) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let (.., attr) = self.ufs_dir(observed.dir)?;
            let observed = UfsObserved { observed_change: attr.change, ..observed.clone() };
            if self.observe(observed, deadline).await?.is_some() {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Overloaded, "the directory changes too often to be listed")
            .with("inode", observed.dir))
    }

    /// Names of the directory that are gone from the store, and the inodes of those that the listing has met.
    fn absent_names(
        &self,
        dir: InodeId,
        seen: &HashSet<Bytes>,
        first_new: u64,
        since: Duration,
    ) -> Result<(Vec<Bytes>, Vec<InodeId>)> {
        const STEP: usize = 1000;
        let (mut absent, mut files, mut after) = (Vec::new(), Vec::new(), 0);
        loop {
            let (names, end) = self.replica.state().read().0.ufs_names(dir, after, STEP)?;
            for name in names {
                after = name.cookie;
                if seen.contains(&name.name) {
                    files.push(name.inode);
                } else if name.cookie < first_new && !self.ufs.saw_name_since(dir, &name.name, since) {
                    absent.push(name.name);
                }
            }
            if end {
                return Ok((absent, files));
            }
        }
    }
}
