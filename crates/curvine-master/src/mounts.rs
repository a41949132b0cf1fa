//! Names of under file systems: looked at by workers, applied by compare-and-set.
//!
//! What has been looked at lately is soft state: a new leader looks again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::UfsDir;
use curvine_proto::Method;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{Attr, MountInfo, UfsChanged, UfsEntry, UfsObject, UfsObserved, UfsStatReply, UfsStatRequest};
use curvine_types::limits::STORE_TTL_DEFAULT_MS;
use curvine_types::{Error, ErrorKind, InodeId, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::sessions::boot_clock;
use crate::trash::TRASH_DIR;

/// How long a look counts where Curvine is the authority; a new leader looks into its log instead of into the store.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the store is waited for when there is something older to answer with.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a store that did not answer is left alone.
pub(crate) const RETRY: Duration = Duration::from_secs(5);
/// Attempts of an observation whose directory changes under it.
const ATTEMPTS: usize = 8;
/// Most names whose last look is remembered; then all are forgotten, which costs looks and nothing else.
const SEEN_MAX: usize = 1 << 20;
/// Files that are remembered in one hold of the lock.
const PIECE: usize = 1024;
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
    /// The same of all directories.
    all_forgotten: Duration,
}

impl Seen {
    fn is_valid(&self, dir: InodeId, validity: Option<&Validity>) -> bool {
        let forgotten = self.forgotten.get(&dir).copied();
        let forgotten = forgotten.unwrap_or_default().max(self.all_forgotten);
        validity.is_some_and(|seen| !seen.left().is_zero() && seen.since > forgotten)
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
            *seen = Seen { all_forgotten: seen.all_forgotten, ..Seen::default() };
        }
    }

    /// A listing that began at `since` has ended, and counts for `ttl` from now on, unless it was asked for anew meanwhile.
    pub(crate) fn saw_listing(&self, dir: InodeId, files: &[InodeId], since: Duration, ttl: Duration) {
        let validity = Validity { since, ..Validity::new(ttl) };
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

    pub(crate) fn knows_listing(&self, dir: InodeId) -> bool {
        let seen = self.inner.lock();
        seen.is_valid(dir, seen.listed.get(&dir))
    }

    fn knows_name(&self, dir: InodeId, name: &Bytes) -> bool {
        let seen = self.inner.lock();
        seen.is_valid(dir, seen.listed.get(&dir)) || seen.is_valid(dir, seen.names.get(&(dir, name.clone())))
    }

    /// Whether the name was looked at, or made, since then.
    pub(crate) fn saw_name_since(&self, dir: InodeId, name: &Bytes, since: Duration) -> bool {
        let seen = self.inner.lock();
        seen.names.get(&(dir, name.clone())).is_some_and(|validity| validity.since >= since)
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

    /// The stores are to be asked again for all names.
    pub(crate) fn forget(&self) {
        *self.inner.lock() = Seen { all_forgotten: boot_clock(), ..Seen::default() };
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
pub(crate) fn is_store_trouble(error: &Error) -> bool {
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

pub(crate) fn entry_of(object: UfsObject, prefix: &str) -> Option<(Bytes, UfsEntry)> {
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

impl Leader {
    pub(crate) fn ufs_dir(&self, dir: InodeId) -> Result<(UfsDir, MountInfo, Attr)> {
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

    pub(crate) fn is_own_dir(&self, dir: InodeId) -> bool {
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

    /// Applies an observation, as the change that it is. `None`: the directory was changed meanwhile.
    pub(crate) async fn observe(&self, observed: UfsObserved, deadline: Instant) -> Result<Option<Attr>> {
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
