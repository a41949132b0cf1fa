//! Names of under file systems: looked at by workers, applied by compare-and-set.
//!
//! What has been looked at lately is soft state: a new leader looks again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::UfsDir;
use curvine_proto::Method;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    Attr, MountInfo, UfsChanged, UfsEntry, UfsListReply, UfsListRequest, UfsObject, UfsObserved, UfsStatReply,
    UfsStatRequest,
};
use curvine_types::limits::{OBSERVED_ENTRIES_MAX, STORE_TTL_DEFAULT_MS};
use curvine_types::{Error, ErrorKind, InodeId, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::sessions::boot_clock;
use crate::trash::TRASH_DIR;

/// How long a look counts where Curvine is the authority; a new leader looks into its log instead of into the store.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the store is waited for when there is something older to answer with: one name, a whole directory.
const PATIENCE: Duration = Duration::from_secs(5);
const LISTING_PATIENCE: Duration = Duration::from_secs(20);
/// How long a store that did not answer is left alone.
const RETRY: Duration = Duration::from_secs(5);
/// Attempts of an observation whose directory changes under it.
const ATTEMPTS: usize = 8;
/// Most names whose last look is remembered; then all are forgotten, which costs looks and nothing else.
const SEEN_MAX: usize = 1 << 20;
/// Files that are remembered in one hold of the lock.
const PIECE: usize = 1024;
/// Entries of a listing that are applied with one command, so that none takes long.
const OBSERVED_AT_ONCE: usize = 128;

/// What was looked at when.
#[derive(Default)]
pub struct UfsSeen {
    inner: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    listed: HashMap<InodeId, Validity>,
    names: HashMap<(InodeId, Bytes), Validity>,
    files: HashMap<InodeId, Validity>,
    /// What was seen in these directories until then counts no more.
    forgotten: HashMap<InodeId, Duration>,
}

impl Seen {
    fn is_valid(&self, dir: InodeId, validity: Option<&Validity>) -> bool {
        let forgotten = self.forgotten.get(&dir).copied();
        validity.is_some_and(|seen| !seen.left().is_zero() && forgotten.is_none_or(|until| seen.since > until))
    }
}

#[derive(Clone, Copy)]
struct Validity {
    since: Duration,
    until: Duration,
}

impl Validity {
    fn new(ttl: Duration) -> Self {
        let since = boot_clock();
        Self { since, until: since + ttl }
    }

    fn left(self) -> Duration {
        self.until.saturating_sub(boot_clock())
    }
}

impl UfsSeen {
    fn bound(seen: &mut Seen) {
        if seen.names.len() + seen.files.len() + seen.listed.len() + seen.forgotten.len() > SEEN_MAX {
            *seen = Seen::default();
        }
    }

    fn saw_listing(&self, dir: InodeId, files: &[InodeId], ttl: Duration) {
        let validity = Validity::new(ttl);
        for files in files.chunks(PIECE) {
            let mut seen = self.inner.lock();
            Self::bound(&mut seen);
            seen.files.extend(files.iter().map(|file| (*file, validity)));
        }
        self.inner.lock().listed.insert(dir, validity);
    }

    fn saw_name(&self, dir: InodeId, name: &Bytes, file: Option<InodeId>, ttl: Duration) {
        let mut seen = self.inner.lock();
        Self::bound(&mut seen);
        let validity = Validity::new(ttl);
        seen.names.insert((dir, name.clone()), validity);
        seen.files.extend(file.map(|file| (file, validity)));
    }

    fn knows_listing(&self, dir: InodeId) -> bool {
        let seen = self.inner.lock();
        seen.is_valid(dir, seen.listed.get(&dir))
    }

    fn knows_name(&self, dir: InodeId, name: &Bytes) -> bool {
        let seen = self.inner.lock();
        seen.is_valid(dir, seen.listed.get(&dir)) || seen.is_valid(dir, seen.names.get(&(dir, name.clone())))
    }

    fn knows_file(&self, inode: InodeId) -> bool {
        self.inner.lock().files.get(&inode).is_some_and(|validity| !validity.left().is_zero())
    }

    /// How long a lease on an inode of an under file system may last; `None`: not at all.
    pub fn valid_ms(&self, attr: &Attr) -> Option<u64> {
        let seen = self.inner.lock();
        let validity = seen.files.get(&attr.inode).or_else(|| seen.listed.get(&attr.inode))?;
        let left = validity.left().as_millis() as u64;
        (left > 0).then_some(left)
    }

    /// Since a file was looked at, if that look still counts.
    pub fn age_of(&self, file: InodeId) -> Option<Duration> {
        let seen = self.inner.lock();
        let validity = seen.files.get(&file).filter(|validity| !validity.left().is_zero())?;
        Some(boot_clock().saturating_sub(validity.since))
    }

    /// Entries remembered.
    pub fn len(&self) -> usize {
        let seen = self.inner.lock();
        seen.listed.len() + seen.names.len() + seen.files.len()
    }

    pub(crate) fn forget(&self) {
        *self.inner.lock() = Seen::default();
    }

    /// A name, or a file, is as it was made or stored from here just now.
    pub(crate) fn made(&self, dir: InodeId, name: &Bytes, inode: InodeId, mount: &MountInfo) {
        self.saw_name(dir, name, Some(inode), ttl_of(mount));
    }

    /// The file is as it was stored from here just now.
    pub(crate) fn stored(&self, file: InodeId, mount: &MountInfo) {
        let mut seen = self.inner.lock();
        Self::bound(&mut seen);
        seen.files.insert(file, Validity::new(ttl_of(mount)));
    }

    /// The store is to be asked again for the names of a directory.
    pub(crate) fn forget_listing(&self, dir: InodeId) {
        let mut seen = self.inner.lock();
        Self::bound(&mut seen);
        seen.listed.remove(&dir);
        seen.forgotten.insert(dir, boot_clock());
    }
}

/// Whether Curvine is the authority for a mount, and its store a copy: what Curvine knows is not compared with it unless somebody asks.
pub(crate) fn is_own(mount: &MountInfo) -> bool {
    mount.settings.as_ref().is_some_and(|settings| settings.write_type == "fs_mode")
}

/// Whether the store, or the way to it, failed: not an answer about the object.
fn is_store_trouble(error: &Error) -> bool {
    use ErrorKind::*;
    matches!(error.kind(), Ufs | TimedOut | Unavailable | ConnectionLost | Io)
}

pub(crate) fn ttl_of(mount: &MountInfo) -> Duration {
    if is_own(mount) {
        return FOREVER;
    }
    Duration::from_millis(match mount.settings.as_ref().map_or(0, |settings| settings.ttl_ms) {
        0 => STORE_TTL_DEFAULT_MS,
        millis => millis,
    })
}

fn entry_of(object: UfsObject, prefix: &str) -> Option<(Bytes, UfsEntry)> {
    let name = object.key.strip_prefix(prefix)?.trim_end_matches('/').to_string();
    if name.is_empty() || name.contains('/') || prefix.is_empty() && name == TRASH_DIR {
        return None;
    }
    let name = Bytes::from(name.into_bytes());
    // Keys that are no file names ("..", over 255 bytes) stay out of the tree.
    curvine_types::Name::new(&name).ok()?;
    let UfsObject { key, directory, size, mtime, etag } = object;
    Some((name.clone(), UfsEntry { name, directory, size, mtime, etag, key }))
}

/// The length of parts of a list, none much shorter than the others: a single entry would be taken for all that there is of its name.
fn in_equal_parts(length: usize, most: usize) -> usize {
    length.div_ceil(length.div_ceil(most).max(1)).max(1)
}

impl Leader {
    fn ufs_dir(&self, dir: InodeId) -> Result<(UfsDir, MountInfo, Attr)> {
        let state = self.replica.state().read();
        let attr = state.0.attr(dir)?;
        let bound = state.0.ufs_dir(dir).ok_or_else(|| {
            Error::new(ErrorKind::Stale, "the directory no longer belongs to an under file system").with("inode", dir)
        })?;
        let mount = state.0.mount(bound.mount).ok_or_else(|| {
            Error::new(ErrorKind::Stale, "the under file system has been unmounted").with("mount", bound.mount)
        })?;
        Ok((bound, mount, attr))
    }

    fn is_own_dir(&self, dir: InodeId) -> bool {
        self.ufs_dir(dir).is_ok_and(|(_, mount, _)| is_own(&mount))
    }

    /// Has the name looked up in the store, unless that was done lately.
    pub(crate) async fn fault_in_name(&self, dir: &Attr, name: &Bytes, deadline: Instant) -> Result<()> {
        if matches!(name.as_ref(), b"." | b"..") || curvine_types::Name::new(name).is_err() {
            return Ok(());
        }
        if self.ufs.knows_name(dir.inode, name) {
            return Ok(());
        }
        if self.is_own_dir(dir.inode) {
            // The first look into a directory takes all of it over.
            return self.fault_in_listing(dir, deadline).await;
        }
        self.look_at_name(dir, name, false, deadline).await
    }

    /// Has the name looked up in the store. `again`: also if that was done lately.
    pub(crate) async fn look_at_name(&self, dir: &Attr, name: &Bytes, again: bool, deadline: Instant) -> Result<()> {
        let _look = self.ufs_gates.look(dir.inode, deadline).await?;
        if !again && self.ufs.knows_name(dir.inode, name) {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let (bound, mount, attr) = self.ufs_dir(dir.inode)?;
            let Ok(text) = std::str::from_utf8(name) else { return Ok(()) };
            let key = format!("{}{text}", bound.prefix);
            let (known, began) = {
                let state = self.replica.state().read();
                let known = state.0.lookup(dir.inode, name)?;
                if known.as_ref().is_some_and(|known| state.0.upload_of(known.inode).is_some()) {
                    // The store has nothing to say about it.
                    return Ok(());
                }
                (known, state.0.stores())
            };
            let patience = if known.is_some() { deadline.min(Instant::now() + PATIENCE) } else { deadline };
            let object = match (self.stat_in_store(&mount, key, patience).await, known) {
                (Ok(object), _) => object,
                (Err(error), Some(known)) if is_store_trouble(&error) => {
                    tracing::warn!(mount = mount.id, %error, "the store does not answer: names are as last seen");
                    self.ufs.saw_name(dir.inode, name, Some(known.inode), RETRY);
                    return Ok(());
                }
                (Err(error), _) => return Err(error),
            };
            let entry = object.and_then(|object| entry_of(object, &bound.prefix)).filter(|(found, _)| found == name);
            let mut observed =
                UfsObserved { dir: dir.inode, observed_change: attr.change, began, ..Default::default() };
            match entry {
                Some((_, entry)) => observed.entries.push(entry),
                None => observed.absent.push(name.clone()),
            }
            if self.observe(observed, deadline).await?.is_none() {
                continue;
            }
            let child = self.replica.state().read().0.lookup(dir.inode, name)?;
            self.ufs.saw_name(dir.inode, name, child.map(|child| child.inode), ttl_of(&mount));
            return Ok(());
        }
        Err(Error::new(ErrorKind::Overloaded, "the directory changes too often").with("inode", dir.inode))
    }

    pub(crate) async fn stat_in_store(
        &self,
        mount: &MountInfo,
        key: String,
        deadline: Instant,
    ) -> Result<Option<UfsObject>> {
        let request = UfsStatRequest { mount: mount.id, mount_change: mount.change, key };
        let worker = self.any_worker()?;
        let reply: UfsStatReply = self.workers.call(worker, Method::UfsStat, &request, Bytes::new(), deadline).await?;
        Ok(reply.entry.filter(|_| reply.found))
    }

    /// Has the directory listed in the store, unless that was done lately.
    pub(crate) async fn fault_in_listing(&self, dir: &Attr, deadline: Instant) -> Result<()> {
        if self.ufs.knows_listing(dir.inode) {
            return Ok(());
        }
        let _look = self.ufs_gates.look(dir.inode, deadline).await?;
        if self.ufs.knows_listing(dir.inode) {
            return Ok(());
        }
        if self.is_own_dir(dir.inode) && self.ufs_dir(dir.inode)?.0.complete_at.is_some() {
            self.ufs.saw_listing(dir.inode, &[], FOREVER);
            return Ok(());
        }
        let seen_before = self.replica.state().read().0.ufs_dir(dir.inode).is_some_and(|dir| dir.complete_at.is_some());
        for _ in 0..ATTEMPTS {
            let patience = if seen_before { deadline.min(Instant::now() + LISTING_PATIENCE) } else { deadline };
            match self.observe_listing(dir.inode, patience).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if seen_before && is_store_trouble(&error) => {
                    tracing::warn!(inode = dir.inode, %error, "the store does not answer: the listing is as last seen");
                    self.ufs.saw_listing(dir.inode, &[], RETRY);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Overloaded, "the directory changes too often to be listed").with("inode", dir.inode))
    }

    /// Has the directory listed in the store, whenever that was done last.
    pub(crate) async fn list_again(&self, dir: InodeId, deadline: Instant) -> Result<()> {
        let _look = self.ufs_gates.look(dir, deadline).await?;
        for _ in 0..ATTEMPTS {
            if self.observe_listing(dir, deadline).await? {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Overloaded, "the directory changes too often to be listed").with("inode", dir))
    }

    /// One whole listing. `Ok(false)`: the directory changed under it.
    async fn observe_listing(&self, dir: InodeId, deadline: Instant) -> Result<bool> {
        let (bound, mount, attr) = self.ufs_dir(dir)?;
        let began = self.replica.state().read().0.stores();
        let mut change = attr.change;
        let mut seen: HashSet<Bytes> = HashSet::new();
        let mut start_after = String::new();
        loop {
            let request = UfsListRequest {
                mount: mount.id,
                mount_change: mount.change,
                prefix: bound.prefix.clone(),
                start_after,
                limit: OBSERVED_ENTRIES_MAX as u32,
            };
            let worker = self.any_worker()?;
            let page: Result<UfsListReply> =
                self.workers.call(worker, Method::UfsList, &request, Bytes::new(), deadline).await;
            let page = match page {
                // Nothing is in it. Whether it is there itself is seen in the directory above.
                Err(error) if error.kind() == ErrorKind::NotFound && !bound.prefix.is_empty() => {
                    let above = self.replica.state().read().0.parent(dir)?;
                    self.ufs.forget_listing(above);
                    UfsListReply::default()
                }
                page => page?,
            };
            let found: Vec<(Bytes, UfsEntry)> =
                page.entries.into_iter().filter_map(|object| entry_of(object, &bound.prefix)).collect();
            let (names, entries): (Vec<Bytes>, Vec<UfsEntry>) = found.into_iter().unzip();
            seen.extend(names);
            for entries in entries.chunks(in_equal_parts(entries.len(), OBSERVED_AT_ONCE)) {
                let entries = entries.to_vec();
                let observed = UfsObserved { dir, observed_change: change, entries, began, ..Default::default() };
                let Some(after) = self.observe(observed, deadline).await? else { return Ok(false) };
                change = after.change;
            }
            if page.next.is_empty() {
                break;
            }
            start_after = page.next;
        }
        let (absent, files) = self.absent_names(dir, &seen)?;
        let mut parts = absent.chunks(OBSERVED_AT_ONCE).map(<[Bytes]>::to_vec).collect::<Vec<_>>();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let last = parts.len() - 1;
        for (position, absent) in parts.into_iter().enumerate() {
            let complete = position == last;
            let observed = UfsObserved { dir, observed_change: change, absent, complete, began, ..Default::default() };
            let Some(after) = self.observe(observed, deadline).await? else { return Ok(false) };
            change = after.change;
        }
        self.ufs.saw_listing(dir, &files, ttl_of(&mount));
        Ok(true)
    }

    /// Names of the directory that the listing has not shown, and the inodes of those it has.
    fn absent_names(&self, dir: InodeId, seen: &HashSet<Bytes>) -> Result<(Vec<Bytes>, Vec<InodeId>)> {
        const STEP: usize = 1000;
        let (mut absent, mut files, mut after) = (Vec::new(), Vec::new(), 0);
        loop {
            let (names, end) = self.replica.state().read().0.ufs_names(dir, after, STEP)?;
            for name in names {
                after = name.cookie;
                if seen.contains(&name.name) {
                    files.push(name.inode);
                } else {
                    absent.push(name.name);
                }
            }
            if end {
                return Ok((absent, files));
            }
        }
    }

    /// Applies an observation, as the change that it is. `None`: the directory was changed meanwhile.
    async fn observe(&self, observed: UfsObserved, deadline: Instant) -> Result<Option<Attr>> {
        let dir = observed.dir;
        let mut changed = vec![dir];
        {
            let state = self.replica.state().read();
            let names = observed.entries.iter().map(|entry| &entry.name).chain(&observed.absent);
            for name in names {
                if let Ok(Some(child)) = state.0.lookup(dir, name) {
                    changed.push(child.inode);
                }
            }
        }
        let _change = self.begin_change(0, &changed, &[], deadline).await?;
        match self.internal(CommandBody::UfsObserved(observed), deadline).await {
            Ok(attr) => Ok(Some(attr.unwrap_or_default())),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// At open: compares a file with its object, unless that was done lately.
    pub(crate) async fn revalidate_file(&self, attr: &Attr, deadline: Instant) -> Result<()> {
        if self.ufs.knows_file(attr.inode) || !crate::reads::is_file(attr) {
            return Ok(());
        }
        let (mount, layout) = {
            let state = self.replica.state().read();
            (state.0.mount(attr.mount), state.0.layout(attr.inode, false)?)
        };
        let (Some(mount), Some(curvine_proto::layout::Kind::Ufs(ufs))) = (mount, layout.kind) else { return Ok(()) };
        if is_own(&mount) {
            self.ufs.stored(attr.inode, &mount);
            return Ok(());
        }
        let found = match self.stat_in_store(&mount, ufs.key.clone(), deadline).await {
            Ok(found) => found.filter(|object| !object.directory),
            // The store does not answer: what is cached stays readable.
            Err(error) => {
                tracing::warn!(inode = attr.inode, mount = mount.id, %error, "cannot compare a file with the store");
                return Ok(());
            }
        };
        let same = found.as_ref().is_some_and(|object| {
            object.size == ufs.size && object.etag == ufs.etag && (!ufs.etag.is_empty() || object.mtime == ufs.mtime)
        });
        if !same {
            let entry = found.map(|UfsObject { key, directory, size, mtime, etag }| UfsEntry {
                name: Bytes::new(),
                directory,
                size,
                mtime,
                etag,
                key,
            });
            self.ufs_changed(
                UfsChanged { inode: attr.inode, generation: attr.generation, gone: entry.is_none(), entry },
                deadline,
            )
            .await?;
        }
        self.ufs.inner.lock().files.insert(attr.inode, Validity::new(ttl_of(&mount)));
        Ok(())
    }

    /// A file's object is another one, or gone.
    pub(crate) async fn ufs_changed(&self, changed: UfsChanged, deadline: Instant) -> Result<()> {
        let _change = self.begin_change(0, &[changed.inode], &[], deadline).await?;
        match self.internal(CommandBody::UfsChanged(changed), deadline).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
