//! A file system in memory that a test can hang, change behind the mount's back, and count the calls of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use curvine_client::{DirItem, DirPage, Entry, Lookup, NewFile, NewNode, OpenFlags, Seek, WriteDone};
use curvine_fuse::Backend;
use curvine_proto::{Attr, DataMode, FileKind, LockHolder, LockType, SetAttr, SetLock, StatFsReply, Time};
use curvine_types::{Cookie, Error, ErrorKind, InodeId, Name, Result};
use tokio::sync::{Notify, watch};

const ROOT: InodeId = 1;

#[derive(Default)]
struct Node {
    attr: Attr,
    data: Vec<u8>,
    names: BTreeMap<Cookie, (Vec<u8>, InodeId)>,
    xattrs: BTreeMap<Vec<u8>, Bytes>,
    locks: Vec<SetLock>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<InodeId, Node>,
    next_inode: InodeId,
    next_cookie: Cookie,
    clock: u32,
}

/// The shared part.
#[derive(Default)]
pub struct Inner {
    state: Mutex<State>,
    /// How long the kernel may believe things.
    pub ttl: Mutex<Duration>,
    pub mode: Mutex<Option<DataMode>>,
    pub keep_cache: AtomicBool,
    /// Appends land this much further on than the kernel believes.
    pub append_skew: AtomicU64,
    /// Reads of these inodes never end.
    pub hanging: Mutex<HashSet<InodeId>>,
    /// Nobody answers any more.
    pub down: watch::Sender<bool>,
    pub hung: Notify,
    pub unlocked: Notify,
    pub reads: AtomicU64,
    pub lookups: AtomicU64,
    pub getattrs: AtomicU64,
    pub releases: AtomicU64,
    pub owners_released: AtomicU64,
    /// The next write waits until `held` is false.
    pub hold_write: AtomicBool,
    pub held: watch::Sender<bool>,
    pub flush_hangs: AtomicBool,
    pub flushed: AtomicU64,
}

#[derive(Clone)]
pub struct MemFs(pub Arc<Inner>);

#[derive(Clone)]
pub struct MemHandle {
    inode: InodeId,
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "no such file")
}

impl State {
    fn node(&mut self, inode: InodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&inode).ok_or_else(missing)
    }

    fn now(&mut self) -> Time {
        self.clock += 1;
        Time::new(1_700_000_000 + i64::from(self.clock), 0)
    }

    fn find(&mut self, parent: InodeId, name: &[u8]) -> Result<Option<(Cookie, InodeId)>> {
        let names = &self.node(parent)?.names;
        Ok(names.iter().find(|(_, (have, _))| have == name).map(|(cookie, (_, inode))| (*cookie, *inode)))
    }

    fn add(&mut self, parent: InodeId, name: &[u8], inode: InodeId) -> Result<()> {
        if self.find(parent, name)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "exists"));
        }
        self.next_cookie += 1;
        let cookie = self.next_cookie;
        self.node(parent)?.names.insert(cookie, (name.to_vec(), inode));
        Ok(())
    }

    fn make(&mut self, parent: InodeId, name: &[u8], kind: FileKind, new: NewNode) -> Result<InodeId> {
        self.next_inode += 1;
        let (inode, now) = (self.next_inode, Some(self.now()));
        let attr = Attr {
            inode,
            kind: kind.into(),
            mode: new.mode,
            nlink: 1,
            uid: new.uid,
            gid: new.gid,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        };
        self.add(parent, name, inode)?;
        self.nodes.insert(inode, Node { attr, ..Node::default() });
        Ok(inode)
    }
}

impl MemFs {
    /// An empty root; the kernel may believe things for 10 s.
    pub fn new() -> Self {
        let fs = Self(Arc::default());
        *fs.0.ttl.lock().unwrap() = Duration::from_secs(10);
        let mut state = fs.state();
        (state.next_inode, state.next_cookie) = (ROOT, 10);
        let attr = Attr { inode: ROOT, kind: FileKind::Directory.into(), mode: 0o755, nlink: 2, ..Attr::default() };
        state.nodes.insert(ROOT, Node { attr, ..Node::default() });
        drop(state);
        fs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn ttl(&self) -> Duration {
        *self.0.ttl.lock().unwrap()
    }

    /// As another mount would: a file with this content, made or replaced.
    pub fn put(&self, name: &str, content: &[u8]) -> InodeId {
        let mut state = self.state();
        let inode = match state.find(ROOT, name.as_bytes()).unwrap() {
            Some((_, inode)) => inode,
            None => {
                let new = NewNode { mode: 0o644, umask: 0, uid: 0, gid: 0 };
                state.make(ROOT, name.as_bytes(), FileKind::File, new).unwrap()
            }
        };
        let now = state.now();
        let node = state.node(inode).unwrap();
        node.data = content.to_vec();
        node.attr.size = content.len() as u64;
        node.attr.mtime = Some(now);
        inode
    }

    /// As another mount would.
    pub fn rename_behind(&self, old: &str, new: &str) {
        let mut state = self.state();
        let (cookie, inode) = state.find(ROOT, old.as_bytes()).unwrap().unwrap();
        state.node(ROOT).unwrap().names.remove(&cookie);
        state.add(ROOT, new.as_bytes(), inode).unwrap();
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        let mut state = self.state();
        let (_, inode) = state.find(ROOT, name.as_bytes()).unwrap().unwrap();
        state.node(inode).unwrap().data.clone()
    }

    pub fn lock_count(&self, name: &str) -> usize {
        let mut state = self.state();
        let (_, inode) = state.find(ROOT, name.as_bytes()).unwrap().unwrap();
        state.node(inode).unwrap().locks.len()
    }

    /// Waits for as long as the cluster is down.
    async fn reach(&self) {
        let mut down = self.0.down.subscribe();
        let _ = down.wait_for(|down| !*down).await;
    }

    fn entry(&self, inode: InodeId) -> Result<Entry> {
        let attr = self.state().node(inode)?.attr;
        Ok(Entry { attr, entry_ttl: self.ttl(), attr_ttl: self.ttl() })
    }

    async fn make(&self, parent: InodeId, name: &Name, kind: FileKind, node: NewNode) -> Result<Entry> {
        self.reach().await;
        let inode = self.state().make(parent, name.as_bytes(), kind, node)?;
        self.entry(inode)
    }
}

impl Backend for MemFs {
    type Handle = MemHandle;

    fn mode(&self, _: &MemHandle) -> DataMode {
        self.0.mode.lock().unwrap().unwrap_or(DataMode::ReadShared)
    }

    fn keep_cache(&self, _: &MemHandle) -> bool {
        self.0.keep_cache.load(SeqCst)
    }

    fn tenure(&self, _: InodeId) -> Option<u64> {
        Some(1)
    }

    fn try_getattr(&self, _: InodeId) -> Option<(Attr, Duration)> {
        None
    }

    fn try_lookup(&self, _: InodeId, _: &Name) -> Option<Lookup> {
        None
    }

    fn release(&self, _: MemHandle) {
        self.0.releases.fetch_add(1, SeqCst);
    }

    async fn create(&self, parent: InodeId, name: &Name, new: NewFile) -> Result<(Entry, Option<MemHandle>)> {
        let node = NewNode { mode: new.mode, umask: 0, uid: new.uid, gid: new.gid };
        let entry = self.make(parent, name, FileKind::File, node).await?;
        Ok((entry.clone(), new.open.map(|_| MemHandle { inode: entry.attr.inode })))
    }

    async fn open(&self, inode: InodeId, flags: OpenFlags) -> Result<MemHandle> {
        self.reach().await;
        if flags.truncate {
            self.setattr(inode, SetAttr { size: Some(0), ..SetAttr::default() }).await?;
        }
        Ok(MemHandle { inode })
    }

    async fn flush(&self, _: &MemHandle) -> Result<()> {
        if self.0.flush_hangs.load(SeqCst) {
            self.0.hung.notify_one();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        self.0.flushed.fetch_add(1, SeqCst);
        Ok(())
    }

    async fn fsync(&self, _: &MemHandle, _: bool) -> Result<()> {
        Ok(())
    }

    async fn read(&self, handle: &MemHandle, offset: u64, length: usize) -> Result<Vec<Bytes>> {
        self.reach().await;
        self.0.reads.fetch_add(1, SeqCst);
        if self.0.hanging.lock().unwrap().contains(&handle.inode) {
            self.0.hung.notify_one();
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        let data = &state.node(handle.inode)?.data;
        let rest = data.get(offset as usize..).unwrap_or_default();
        let rest = &rest[..rest.len().min(length)];
        let (first, second) = rest.split_at(rest.len() / 3);
        Ok(vec![Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)])
    }

    async fn write(
        &self,
        handle: &MemHandle,
        offset: u64,
        data: Bytes,
        append: bool,
        kill_privileges: bool,
    ) -> Result<WriteDone> {
        self.reach().await;
        if self.0.hold_write.swap(false, SeqCst) {
            self.0.hung.notify_one();
            let mut held = self.0.held.subscribe();
            let _ = held.wait_for(|held| !*held).await;
        }
        let skew = self.0.append_skew.swap(0, SeqCst);
        let mut state = self.state();
        let now = state.now();
        let node = state.node(handle.inode)?;
        let offset = if append { node.data.len() as u64 + skew } else { offset };
        let end = offset as usize + data.len();
        if node.data.len() < end {
            node.data.resize(end, b'.');
        }
        node.data[offset as usize..end].copy_from_slice(&data);
        node.attr.size = node.data.len() as u64;
        node.attr.mtime = Some(now);
        if kill_privileges {
            node.attr.mode &= !0o6000;
        }
        Ok(WriteDone { offset, length: data.len() as u64 })
    }

    async fn fallocate(&self, _: &MemHandle, _: u64, _: u64, _: u32) -> Result<()> {
        Err(Error::new(ErrorKind::NotSupported, "not here"))
    }

    async fn seek(&self, handle: &MemHandle, offset: u64, what: Seek) -> Result<u64> {
        let size = self.state().node(handle.inode)?.attr.size;
        match what {
            _ if offset >= size => Err(Error::new(ErrorKind::NoDevice, "beyond the end")),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    async fn lookup(&self, parent: InodeId, name: &Name) -> Result<Lookup> {
        self.reach().await;
        self.0.lookups.fetch_add(1, SeqCst);
        let found = self.state().find(parent, name.as_bytes())?;
        let entry = found.map(|(_, inode)| self.entry(inode)).transpose()?;
        Ok(Lookup { entry, negative_ttl: self.ttl() })
    }

    async fn getattr(&self, inode: InodeId) -> Result<(Attr, Duration)> {
        self.reach().await;
        self.0.getattrs.fetch_add(1, SeqCst);
        Ok((self.state().node(inode)?.attr, self.ttl()))
    }

    async fn setattr(&self, inode: InodeId, change: SetAttr) -> Result<(Attr, Duration)> {
        self.reach().await;
        let mut state = self.state();
        let now = state.now();
        let node = state.node(inode)?;
        if let Some(size) = change.size {
            node.data.resize(size as usize, 0);
            node.attr.size = size;
        }
        if change.kill_privileges {
            node.attr.mode &= !0o6000;
        }
        node.attr.mode = change.mode.unwrap_or(node.attr.mode);
        node.attr.uid = change.uid.unwrap_or(node.attr.uid);
        node.attr.mtime = Some(now);
        Ok((node.attr, self.ttl()))
    }

    async fn mkdir(&self, parent: InodeId, name: &Name, node: NewNode) -> Result<Entry> {
        self.make(parent, name, FileKind::Directory, node).await
    }

    async fn mknod(&self, parent: InodeId, name: &Name, node: NewNode, kind: FileKind, rdev: u32) -> Result<Entry> {
        let entry = self.make(parent, name, kind, node).await?;
        self.state().node(entry.attr.inode)?.attr.rdev = rdev;
        self.entry(entry.attr.inode)
    }

    async fn symlink(&self, parent: InodeId, name: &Name, target: &[u8], node: NewNode) -> Result<Entry> {
        let entry = self.make(parent, name, FileKind::Symlink, node).await?;
        let mut state = self.state();
        let node = state.node(entry.attr.inode)?;
        node.data = target.to_vec();
        node.attr.size = target.len() as u64;
        Ok(entry)
    }

    async fn link(&self, inode: InodeId, parent: InodeId, name: &Name) -> Result<Entry> {
        let mut state = self.state();
        state.add(parent, name.as_bytes(), inode)?;
        state.node(inode)?.attr.nlink += 1;
        drop(state);
        self.entry(inode)
    }

    async fn unlink(&self, parent: InodeId, name: &Name) -> Result<()> {
        let mut state = self.state();
        let (cookie, inode) = state.find(parent, name.as_bytes())?.ok_or_else(missing)?;
        state.node(parent)?.names.remove(&cookie);
        state.node(inode)?.attr.nlink -= 1;
        Ok(())
    }

    async fn rmdir(&self, parent: InodeId, name: &Name) -> Result<()> {
        {
            let mut state = self.state();
            let (_, inode) = state.find(parent, name.as_bytes())?.ok_or_else(missing)?;
            if !state.node(inode)?.names.is_empty() {
                return Err(Error::new(ErrorKind::DirectoryNotEmpty, "not empty"));
            }
        }
        self.unlink(parent, name).await
    }

    async fn rename(&self, parent: InodeId, name: &Name, to: InodeId, new: &Name, flags: u32) -> Result<()> {
        let mut state = self.state();
        let (cookie, inode) = state.find(parent, name.as_bytes())?.ok_or_else(missing)?;
        if let Some((replaced, _)) = state.find(to, new.as_bytes())? {
            if flags != 0 {
                return Err(Error::new(ErrorKind::AlreadyExists, "exists"));
            }
            state.node(to)?.names.remove(&replaced);
        }
        state.node(parent)?.names.remove(&cookie);
        state.add(to, new.as_bytes(), inode)
    }

    async fn readlink(&self, inode: InodeId) -> Result<Bytes> {
        Ok(self.state().node(inode)?.data.clone().into())
    }

    async fn readdir(&self, dir: InodeId, cookie: Cookie, limit: u32, _: bool) -> Result<DirPage> {
        self.reach().await;
        // Pages of our own size, smaller than what is asked for.
        let limit = limit.min(100) as usize;
        let names: Vec<_> = {
            let mut state = self.state();
            let names = state.node(dir)?.names.range(cookie + 1..).take(limit + 1);
            names.map(|(cookie, (name, inode))| (*cookie, name.clone(), *inode)).collect()
        };
        let end = names.len() <= limit;
        let items = names.into_iter().take(limit).map(|(cookie, name, inode)| {
            let entry = self.entry(inode)?;
            Ok(DirItem { cookie, name, inode, kind: entry.attr.kind(), entry })
        });
        Ok(DirPage { items: items.collect::<Result<_>>()?, end })
    }

    async fn statfs(&self, _: InodeId) -> Result<StatFsReply> {
        self.reach().await;
        Ok(StatFsReply { capacity: 8 << 30, available: 4 << 30, inodes: 7, free_files: None })
    }

    async fn set_xattr_with(&self, inode: InodeId, name: &[u8], value: Bytes, _: u32, _: bool) -> Result<()> {
        self.state().node(inode)?.xattrs.insert(name.to_vec(), value);
        Ok(())
    }

    async fn get_xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        let none = || Error::new(ErrorKind::NoAttribute, "no such attribute");
        self.state().node(inode)?.xattrs.get(name).cloned().ok_or_else(none)
    }

    async fn list_xattr(&self, inode: InodeId) -> Result<Vec<Bytes>> {
        Ok(self.state().node(inode)?.xattrs.keys().map(|name| name.clone().into()).collect())
    }

    async fn remove_xattr(&self, inode: InodeId, name: &[u8]) -> Result<()> {
        self.state().node(inode)?.xattrs.remove(name);
        Ok(())
    }

    async fn getlk(&self, inode: InodeId, lock: SetLock) -> Result<Option<LockHolder>> {
        let mut state = self.state();
        let other = state.node(inode)?.locks.iter().find(|have| have.owner != lock.owner);
        Ok(other.map(|other| LockHolder {
            r#type: other.r#type,
            start: other.start,
            end: other.end,
            pid: other.pid,
            ..LockHolder::default()
        }))
    }

    /// Locks are whole files and exclusive.
    async fn setlk(&self, inode: InodeId, lock: SetLock, wait: bool) -> Result<()> {
        loop {
            {
                let mut state = self.state();
                let locks = &mut state.node(inode)?.locks;
                if lock.r#type() == LockType::Unlock {
                    locks.retain(|have| have.owner != lock.owner);
                    self.0.unlocked.notify_waiters();
                    return Ok(());
                }
                if locks.iter().all(|have| have.owner == lock.owner) {
                    locks.clear();
                    locks.push(lock);
                    return Ok(());
                }
            }
            if !wait {
                return Err(Error::new(ErrorKind::WouldBlock, "locked"));
            }
            self.0.hung.notify_one();
            self.0.unlocked.notified().await;
        }
    }

    async fn release_owner(&self, inode: InodeId, owner: u64) -> Result<()> {
        self.0.owners_released.fetch_add(1, SeqCst);
        self.state().node(inode)?.locks.retain(|have| have.owner != owner);
        Ok(())
    }

    async fn resolve(&self, path: &[u8]) -> Result<Entry> {
        let mut inode = ROOT;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            inode = self.state().find(inode, name)?.ok_or_else(missing)?.1;
        }
        self.entry(inode)
    }
}
