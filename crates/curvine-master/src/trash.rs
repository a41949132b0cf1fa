//! The trash: what is removed through a mount stays in its store for a while, under its key, and is not seen there.
//!
//! Of few removals close together nothing is kept: their objects are deleted some seconds later. When they turn out to be many, all of
//! them stay for the retention. What wants a key that something removed still has, moves that away first, into `TRASH_DIR`.
//!
//! Always: an object is deleted, moved or given its name back only under the turn of its key, and only as the version that was removed;
//! the log forgets it afterwards. Doing any of it twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{EditTrash, MountInfo, StoreChangeKind, Time, TrashEntry, TrashMode, UfsEntry, UfsObject};
use curvine_types::limits::{TRASH_EDITS_MAX, TRASH_OVER_DEFAULT, TRASH_RETENTION_DEFAULT_MS, TRASH_WINDOW_MS};
use curvine_types::{Error, ErrorKind, MountId, Result};
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::uploads::object_of;

/// The directory of a store, below the URL of its mount, with what had to give up its key. No mount shows it.
pub(crate) const TRASH_DIR: &str = ".curvine-trash";
/// How often it is looked for what is due.
const TICK: Duration = Duration::from_millis(500);
/// Pause after a store has failed.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for one object.
const STEP: Duration = Duration::from_secs(30);
/// Objects deleted or moved at once.
const AT_ONCE: usize = 16;
/// Removals that are that close together are one.
const WINDOW: Duration = Duration::from_millis(TRASH_WINDOW_MS);
/// Rounds in a row, before it is looked again what there is.
const ROUNDS: usize = 8;
/// Entries of each mount that are looked at in one round.
const ROUND: usize = TRASH_EDITS_MAX;
/// Entries that are moved out of the way of a directory; with more of them it is busy.
const MOVED_MAX: usize = 10_000;

/// What is to be done in one round.
#[derive(Default)]
struct Plan {
    keep: Vec<u64>,
    forget: Vec<u64>,
    purge: Vec<u64>,
}

/// Since 1970; 0 without a time.
pub(crate) fn millis(time: Option<Time>) -> i64 {
    let time = time.unwrap_or_default();
    time.sec.saturating_mul(1000).saturating_add(i64::from(time.nsec) / 1_000_000)
}

fn after(time: Option<Time>, wait: Duration) -> i64 {
    millis(time).saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

fn mode_of(mount: &MountInfo) -> TrashMode {
    mount.settings.as_ref().map_or(TrashMode::Many, |settings| settings.trash())
}

/// Removals close together that are not kept.
fn over_of(mount: &MountInfo) -> usize {
    match mount.settings.as_ref().map_or(0, |settings| settings.trash_over) {
        0 => TRASH_OVER_DEFAULT as usize,
        over => over as usize,
    }
}

fn retention_of(mount: &MountInfo) -> Duration {
    Duration::from_millis(match mount.settings.as_ref().map_or(0, |settings| settings.trash_retention_ms) {
        0 => TRASH_RETENTION_DEFAULT_MS,
        millis => millis,
    })
}

/// Whether a store can have no file where it has a directory. In stores of objects one does not know of the other.
pub(crate) fn has_directories(mount: &MountInfo) -> bool {
    let scheme = mount.url.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme == "file" || scheme.contains("hdfs")
}

/// When the store is to delete it, as things stand.
pub(super) fn until_of(mount: &MountInfo, entry: &TrashEntry) -> Time {
    let until = after(entry.removed, if entry.held { WINDOW } else { retention_of(mount) });
    Time { sec: until.div_euclid(1000), nsec: (until.rem_euclid(1000) * 1_000_000) as u32 }
}

/// Whether the store has what was removed.
pub(super) fn is_same(removed: Option<&UfsEntry>, found: &UfsObject) -> bool {
    removed.is_some_and(|removed| {
        let by_etag = !removed.etag.is_empty() && !found.etag.is_empty();
        let same = if by_etag { removed.etag == found.etag } else { removed.mtime == found.mtime };
        !found.directory && removed.size == found.size && same
    })
}

impl Leader {
    /// Whether what is removed from a mount stays in its store for now.
    pub(crate) fn has_trash(&self, mount: &MountInfo) -> bool {
        mode_of(mount) != TrashMode::Off
    }

    /// Whether something that was removed still has a key that begins so.
    pub(crate) fn has_trash_below(&self, mount: MountId, prefix: &str) -> bool {
        !self.replica.state().read().0.trash_below(mount, prefix, 1).is_empty()
    }

    pub(super) async fn edit_trash(&self, edit: EditTrash) -> Result<()> {
        self.internal(CommandBody::EditTrash(edit), Instant::now() + STEP).await.map(drop)
    }

    /// Deletes what is due, and keeps what turns out to be part of much.
    pub(crate) async fn empty_trash_in_time(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            if self.replica.state().read().0.counts().trash == 0 {
                continue;
            }
            for _ in 0..ROUNDS {
                let Some(plan) = self.plan_trash() else { break };
                if let Err(error) = self.tidy_trash(plan).await {
                    tracing::warn!(%error, "what was removed is deleted from its store later");
                    tokio::time::sleep(RETRY).await;
                    break;
                }
            }
        }
    }

    fn plan_trash(&self) -> Option<Plan> {
        let now = millis(Some(Time::now()));
        let mut plan = Plan::default();
        let mounts = self.replica.state().read().0.mounts_with_trash();
        for id in mounts {
            // Each under a lock of its own.
            let state = self.replica.state().read();
            let Some(mount) = state.0.mount(id) else {
                let all = [true, false].into_iter().flat_map(|held| state.0.oldest_trash(id, held, ROUND));
                plan.forget.extend(all.map(|entry| entry.id).take(ROUND));
                continue;
            };
            let (held, over) = (state.0.oldest_trash(id, true, ROUND), over_of(&mount));
            let goes_on =
                held.first().is_some_and(|first| millis(first.removed) <= after(state.0.many_removed(id), WINDOW));
            if goes_on || state.0.held_trash(id, over + 1) > over {
                plan.keep.extend(held.iter().map(|entry| entry.id));
            } else {
                for due in held.iter().filter(|held| after(held.removed, WINDOW) <= now) {
                    // What is still in a directory keeps it.
                    let below = if due.directory() { state.0.trash_below(id, &due.key, ROUND) } else { Vec::new() };
                    let stays = below.iter().any(|other| !other.held);
                    if stays { plan.keep.push(due.id) } else { plan.purge.push(due.id) }
                }
            }
            let kept = state.0.oldest_trash(id, false, ROUND);
            let due = kept.iter().filter(|kept| after(kept.removed, retention_of(&mount)) <= now);
            plan.purge.extend(due.map(|entry| entry.id));
        }
        let is_empty = plan.keep.is_empty() && plan.forget.is_empty() && plan.purge.is_empty();
        (!is_empty).then_some(plan)
    }

    async fn tidy_trash(&self, plan: Plan) -> Result<()> {
        for keep in plan.keep.chunks(ROUND) {
            self.edit_trash(EditTrash { keep: keep.to_vec(), ..Default::default() }).await?;
        }
        for forget in plan.forget.chunks(ROUND) {
            self.edit_trash(EditTrash { forget: forget.to_vec(), ..Default::default() }).await?;
        }
        let purges = plan.purge.into_iter().map(|id| self.purge(id));
        let mut purges = stream::iter(purges).buffer_unordered(AT_ONCE);
        // One that fails does not keep the others in the store.
        let mut failed = Ok(());
        while let Some(purged) = purges.next().await {
            failed = failed.and(purged);
        }
        failed
    }

    /// Has the store delete what was removed, now.
    pub(super) async fn purge(&self, id: u64) -> Result<()> {
        let Some((entry, mount)) = self.trashed(id) else { return Ok(()) };
        let deadline = Instant::now() + STEP;
        let _turn = self.uploads.keys.turn(mount.id, &entry.key, deadline).await?;
        let Some((entry, mount)) = self.trashed(id) else { return Ok(()) };
        if entry.directory() {
            let below = self.replica.state().read().0.trash_below(mount.id, &entry.key, 2);
            if below.iter().any(|other| other.id != id) {
                // It is empty later.
                return Ok(());
            }
            match self.change_store(&mount, StoreChangeKind::RemoveDirectory, &entry.key, "", None, deadline).await {
                // Somebody else has put something into it.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                removed => drop(removed?),
            }
        } else {
            if !entry.moved_to.is_empty() {
                self.change_store(&mount, StoreChangeKind::Delete, &entry.moved_to, "", None, deadline).await?;
            }
            if !entry.moved {
                let found = self.stat_in_store(&mount, entry.key.clone(), deadline).await?;
                if found.is_some_and(|found| is_same(entry.object.as_ref(), &found)) {
                    self.change_store(&mount, StoreChangeKind::Delete, &entry.key, "", None, deadline).await?;
                }
            }
        }
        self.edit_trash(EditTrash { forget: vec![id], ..Default::default() }).await
    }

    /// An entry whose mount is there.
    pub(super) fn trashed(&self, id: u64) -> Option<(TrashEntry, MountInfo)> {
        let state = self.replica.state().read();
        let entry = state.0.trash_entry(id)?;
        let mount = state.0.mount(entry.mount)?;
        Some((entry, mount))
    }

    /// Moves what was removed from a key out of the way of something new. The caller has the key's turn.
    pub(crate) async fn clear_key(&self, mount: &MountInfo, key: &str, deadline: Instant) -> Result<()> {
        let entry = self.replica.state().read().0.trash_at(mount.id, key);
        match entry.filter(|entry| !entry.directory()) {
            Some(entry) => self.move_away(mount, entry, deadline).await,
            None => Ok(()),
        }
    }

    async fn move_away(&self, mount: &MountInfo, entry: TrashEntry, deadline: Instant) -> Result<()> {
        let mut to = entry.moved_to.clone();
        if to.is_empty() {
            let cluster = self.replica.state().read().0.cluster().unwrap_or_default().to_string();
            let (cluster, name) = (cluster.get(..8).unwrap_or_default(), curvine_namespace::moved_name(&entry.key));
            to = format!("{TRASH_DIR}/{cluster}-{}-{name}", entry.id);
            self.edit_trash(EditTrash { moving: entry.id, moved_to: to.clone(), ..Default::default() }).await?;
        }
        let dir = format!("{TRASH_DIR}/");
        self.change_store(mount, StoreChangeKind::MakeDirectory, &dir, "", None, deadline).await?;
        let object = entry.object.as_ref().map(object_of);
        let moved = self.change_store(mount, StoreChangeKind::Move, &entry.key, &to, object, deadline).await;
        let edit = match moved {
            Ok(_) => EditTrash { moved: entry.id, ..Default::default() },
            // An earlier attempt moved it, or somebody else has replaced or deleted it.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::VersionMismatch) => {
                match self.stat_in_store(mount, to, deadline).await? {
                    Some(_) => EditTrash { moved: entry.id, ..Default::default() },
                    None => EditTrash { forget: vec![entry.id], ..Default::default() },
                }
            }
            Err(error) => return Err(error),
        };
        self.edit_trash(edit).await
    }

    /// Moves all that was removed below a directory out of the way. The caller has no turn of a key.
    pub(crate) async fn clear_below(&self, mount: &MountInfo, prefix: &str, deadline: Instant) -> Result<()> {
        let mut dirs = Vec::new();
        for _ in 0..MOVED_MAX / ROUND {
            let below = self.replica.state().read().0.trash_below(mount.id, prefix, ROUND + dirs.len());
            let files: Vec<TrashEntry> = below.iter().filter(|entry| !entry.directory()).cloned().collect();
            dirs = below.into_iter().filter(|entry| entry.directory()).collect();
            if files.is_empty() {
                // The deepest first.
                dirs.sort_by_key(|dir| std::cmp::Reverse(dir.key.len()));
                return self.remove_cleared(mount, dirs, deadline).await;
            }
            let moves = files.into_iter().map(|entry| async move {
                let _turn = self.uploads.keys.turn(mount.id, &entry.key, deadline).await?;
                self.clear_key(mount, &entry.key, deadline).await
            });
            let mut moves = stream::iter(moves).buffer_unordered(AT_ONCE);
            while let Some(moved) = moves.next().await {
                moved?;
            }
        }
        Err(Error::new(ErrorKind::Busy, "too much that was removed is still in the store there; see cv trash empty")
            .with("key", prefix))
    }

    async fn remove_cleared(&self, mount: &MountInfo, dirs: Vec<TrashEntry>, deadline: Instant) -> Result<()> {
        for dir in dirs {
            let _turn = self.uploads.keys.turn(mount.id, &dir.key, deadline).await?;
            match self.change_store(mount, StoreChangeKind::RemoveDirectory, &dir.key, "", None, deadline).await {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                removed => drop(removed?),
            }
            self.edit_trash(EditTrash { forget: vec![dir.id], ..Default::default() }).await?;
        }
        Ok(())
    }

    /// Has the store delete what is held of a mount for a short time only, so that nothing of it keeps the mount busy.
    pub(crate) async fn purge_held(&self, mount: MountId, deadline: Instant) -> Result<()> {
        while Instant::now() < deadline {
            let held = {
                let state = self.replica.state().read();
                let few =
                    state.0.mount(mount).is_some_and(|mount| state.0.held_trash(mount.id, ROUND) <= over_of(&mount));
                if few { state.0.oldest_trash(mount, true, ROUND) } else { Vec::new() }
            };
            if held.is_empty() {
                return Ok(());
            }
            self.tidy_trash(Plan { purge: held.into_iter().map(|entry| entry.id).collect(), ..Plan::default() })
                .await?;
        }
        Ok(())
    }
}
