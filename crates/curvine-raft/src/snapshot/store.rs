//! The snapshot files of a replica: `snap-<term>-<index>.snap`, made whole under another name and then renamed.
//!
//! The newest few are kept, with the log behind the oldest of them, so that one damaged file costs nothing. A damaged newest snapshot
//! is passed over only if an older one and the log together still reach everything that it contained.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvine_proto::Time;
use curvine_types::{ClusterId, Error, ErrorKind, Result};
use openraft::{BasicNode, Snapshot};
use parking_lot::Mutex;

use super::SnapshotFile;
use super::file::{Reader, Writer};
use crate::disk::Disk;
use crate::entry::{LogId, Types, snapshot_meta_from_proto, snapshot_meta_to_proto};
use crate::format::{WAY_OUT, corrupt};
use crate::machine::SnapshotSource;
use crate::sweep;

pub(crate) type Meta = openraft::SnapshotMeta<u64, BasicNode>;

/// The directory's snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cluster: ClusterId,
    kept: usize,
    /// Oldest first.
    stored: Mutex<Vec<Stored>>,
}

#[derive(Clone, Debug)]
struct Stored {
    meta: Meta,
    data: SnapshotFile,
}

/// What a restored snapshot brings along.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restored {
    pub meta: Meta,
    pub now: Option<Time>,
}

fn index_of(meta: &Meta) -> u64 {
    meta.last_log_id.map_or(0, |id| id.index)
}

fn file_name(last: LogId) -> String {
    format!("snap-{:020}-{:020}.snap", last.leader_id.term, last.index)
}

/// Term and index in a snapshot's name.
pub(super) fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let (term, index) = name.strip_prefix("snap-")?.strip_suffix(".snap")?.split_once('-')?;
    Some((term.parse().ok()?, index.parse().ok()?))
}

impl SnapshotStore {
    /// Looks at the directory, removes leftovers and hands the newest snapshot that is good to `restore`.
    ///
    /// `log`: the ids before its first and of its last entry; together with the snapshot they must leave no gap.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        cluster: ClusterId,
        kept: usize,
        log: (Option<LogId>, Option<LogId>),
        restore: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
    ) -> Result<(Self, Restored)> {
        let store = Self { disk, dir: dir.to_path_buf(), cluster, kept: kept.max(1), stored: Mutex::default() };
        let mut names = store.list()?;
        let log_start = log.0.map(|id| id.index);
        let mut restored = Restored::default();
        let mut damage: Option<Error> = None;
        let mut must_reach = 0;
        while let Some((_, index, path)) = names.pop() {
            match store.check(&path) {
                Ok((found, data)) => {
                    let joined = log_start.is_none_or(|start| start <= index);
                    let reaches = must_reach <= index || log.1.is_some_and(|last| last.index >= must_reach);
                    if !joined || !reaches {
                        names.push((0, index, path));
                        break;
                    }
                    let (_, mut reader) = Reader::open(data.file.clone(), &path, cluster)?;
                    restore(&mut reader).map_err(|error| error.with("file", path.display()))?;
                    store.stored.lock().push(Stored { meta: found.meta.clone(), data });
                    restored = found;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::error!(file = %path.display(), %error, "a snapshot is damaged; trying the one before it");
                    must_reach = must_reach.max(index);
                    damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        let from_scratch = restored.meta.last_log_id.is_none();
        let whole_log = log_start.is_none() && (must_reach == 0 || log.1.is_some_and(|last| last.index >= must_reach));
        if from_scratch && !whole_log {
            let missing = damage.unwrap_or_else(|| {
                Error::new(ErrorKind::Corrupt, "the log does not reach back to any snapshot")
                    .with("path", dir.display())
            });
            return Err(missing.with("log starts after", log_start.unwrap_or(0)).with("way out", WAY_OUT));
        }
        store.set_damaged_aside(index_of(&restored.meta))?;
        // Older ones are kept unread until they are needed or pruned.
        for (_, _, path) in names.into_iter().rev() {
            if let Ok((found, data)) = store.header(&path) {
                store.stored.lock().insert(0, Stored { meta: found.meta, data });
            }
        }
        Ok((store, restored))
    }

    /// For a new directory, to write its first snapshot.
    pub fn fresh(disk: Arc<dyn Disk>, dir: &Path, cluster: ClusterId) -> Self {
        Self { disk, dir: dir.to_path_buf(), cluster, kept: 1, stored: Mutex::default() }
    }

    /// (term, index, path) of the snapshot files, oldest first; unfinished ones are removed.
    fn list(&self) -> Result<Vec<(u64, u64, PathBuf)>> {
        let failed = |source| Error::from_io(source, "cannot list the snapshots").with("path", self.dir.display());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((term, index)) = parse_file_name(&name) {
                names.push((term, index, entry.path()));
            } else if name.starts_with("snap-") && name.ends_with(".tmp") {
                self.disk.remove(&entry.path()).map_err(failed)?;
            }
        }
        names.sort();
        Ok(names)
    }

    /// Renames the snapshots above `index`, all damaged, so that they are kept for people but never counted again.
    fn set_damaged_aside(&self, index: u64) -> Result<()> {
        for (_, _, path) in self.list()?.into_iter().filter(|(_, found, _)| *found > index) {
            self.disk
                .rename(&path, &path.with_extension("damaged"))
                .map_err(|source| Error::from_io(source, "cannot set a snapshot aside").with("file", path.display()))?;
        }
        Ok(())
    }

    fn header(&self, path: &Path) -> Result<(Restored, SnapshotFile)> {
        let file = self
            .disk
            .open(path)
            .map_err(|source| Error::from_io(source, "cannot open a snapshot").with("file", path.display()))?;
        let (meta, _) = Reader::open(file.clone(), path, self.cluster)?;
        let restored = Restored { meta: snapshot_meta_from_proto(&meta), now: meta.now };
        Ok((restored, SnapshotFile { path: path.into(), file }))
    }

    /// Verifies a whole file.
    fn check(&self, path: &Path) -> Result<(Restored, SnapshotFile)> {
        let (restored, data) = self.header(path)?;
        let (_, reader) = Reader::open(data.file.clone(), path, self.cluster)?;
        reader.verify(path)?;
        if let Some((_, index)) = path.file_name().and_then(|name| parse_file_name(&name.to_string_lossy()))
            && index != index_of(&restored.meta)
        {
            return Err(corrupt(path, 0, "the snapshot's name and its content differ"));
        }
        Ok((restored, data))
    }

    /// Writes a snapshot; blocks.
    pub fn write(&self, meta: &Meta, now: Option<Time>, source: &dyn SnapshotSource) -> Result<()> {
        let temporary = self.temporary("new");
        let written = self.write_file(&temporary, meta, now, source).and_then(|()| self.adopt(&temporary));
        if written.is_err() {
            let _ = self.disk.remove(&temporary); // it may never have been made
        }
        written.map(|_| ())
    }

    fn write_file(&self, path: &Path, meta: &Meta, now: Option<Time>, source: &dyn SnapshotSource) -> Result<()> {
        let failed =
            |source: std::io::Error| Error::from_io(source, "cannot write a snapshot").with("file", path.display());
        let file = self.disk.create(path).map_err(failed)?;
        let mut writer =
            Writer::start(file.as_ref(), self.cluster, &snapshot_meta_to_proto(meta, now)).map_err(failed)?;
        source.write_to(&mut writer).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(())
    }

    /// Gives a durable, complete file its name; from here on it counts.
    fn adopt(&self, temporary: &Path) -> Result<Restored> {
        let (restored, data) = self.header(temporary)?;
        let last = restored.meta.last_log_id.unwrap_or_default();
        let path = self.dir.join(file_name(last));
        self.disk
            .rename(temporary, &path)
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|source| Error::from_io(source, "cannot keep a snapshot").with("file", path.display()))?;
        let mut stored = self.stored.lock();
        stored.retain(|other| other.meta.last_log_id != restored.meta.last_log_id);
        let data = SnapshotFile { path: path.into(), file: data.file };
        stored.push(Stored { meta: restored.meta.clone(), data });
        stored.sort_by_key(|one| one.meta.last_log_id);
        Ok(restored)
    }

    /// A name for a file that is not complete yet.
    fn temporary(&self, purpose: &str) -> PathBuf {
        self.dir.join(format!("snap-{purpose}-{:016x}.tmp", rand::random::<u64>()))
    }

    /// An empty file to receive a snapshot into.
    pub fn begin_receiving(&self) -> Result<SnapshotFile> {
        let path = self.temporary("received");
        let file = self
            .disk
            .create(&path)
            .map_err(|source| Error::from_io(source, "cannot receive a snapshot").with("file", path.display()))?;
        Ok(SnapshotFile { path: path.into(), file })
    }

    /// Takes a received file over, verified, as the only snapshot that counts, and hands its state to `restore`; blocks.
    pub fn install(
        &self,
        meta: &Meta,
        received: &SnapshotFile,
        restore: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
    ) -> Result<Restored> {
        let temporary = self.temporary("install");
        let taken = if received.path.parent() == Some(self.dir.as_path())
            && received.path.extension().is_some_and(|extension| extension == "tmp")
        {
            self.disk.rename(&received.path, &temporary)
        } else {
            std::fs::copy(&received.path, &temporary).map(|_| ())
        };
        let failed = |source: std::io::Error| {
            Error::from_io(source, "cannot install a snapshot").with("file", temporary.display())
        };
        taken.map_err(failed)?;
        let (found, data) = self.check(&temporary)?;
        if found.meta.last_log_id != meta.last_log_id {
            return Err(corrupt(&temporary, 0, "the received snapshot is not the one that was announced"));
        }
        data.file.sync_data().map_err(failed)?;
        let restored = self.adopt(&temporary)?;
        let (_, mut reader) = Reader::open(data.file, &temporary, self.cluster)?;
        restore(&mut reader)?;
        // Between an older snapshot and this one there is no log.
        self.remove_oldest(1)?;
        Ok(restored)
    }

    /// Removes what is beyond the number to keep. Returns up to where the log is not needed any more.
    pub fn prune(&self) -> Result<Option<u64>> {
        self.remove_oldest(self.kept)?;
        let stored = self.stored.lock();
        Ok(stored.first().filter(|_| stored.len() >= self.kept).map(|oldest| index_of(&oldest.meta)))
    }

    fn remove_oldest(&self, keep: usize) -> Result<()> {
        let mut aside = Vec::new();
        loop {
            let SnapshotFile { path, file, .. } = {
                let mut stored = self.stored.lock();
                if stored.len() <= keep {
                    break;
                }
                stored.remove(0).data
            };
            aside.extend(sweep::set_aside(self.disk.as_ref(), &path, &file).map_err(|source| {
                Error::from_io(source, "cannot remove an old snapshot").with("file", path.display())
            })?);
        }
        sweep::sweep(aside);
        Ok(())
    }

    /// The newest one, as openraft takes it.
    pub fn newest(&self) -> Option<Snapshot<Types>> {
        let stored = self.stored.lock();
        let newest = stored.last()?;
        Some(Snapshot { meta: newest.meta.clone(), snapshot: Box::new(newest.data.clone()) })
    }

    /// Bytes of the newest snapshot, 0: there is none.
    pub fn newest_bytes(&self) -> u64 {
        self.stored.lock().last().and_then(|newest| newest.data.file.len().ok()).unwrap_or(0)
    }

    /// Index of the last entry in the newest snapshot, 0: there is none.
    pub fn newest_index(&self) -> u64 {
        self.stored.lock().last().map_or(0, |newest| index_of(&newest.meta))
    }
}
