//! Rescue of a directory that is refused, and a fresh directory from a state: the way out of damage.
//!
//! Always: a directory that is being rescued is only read; a fresh one appears whole or not at all.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvine_proto::Time;
use curvine_types::{ClusterId, Error, ErrorKind, Result};
use openraft::{BasicNode, EntryPayload};

use crate::disk::{Disk, RealDisk};
use crate::entry::{Entry, LogId, Membership, StoredMembership, Vote, log_id};
use crate::format::{Fields, check_preamble};
use crate::log::remains as log_remains;
use crate::machine::{SnapshotSource, StateMachine};
use crate::replica::lock;
use crate::snapshot::remains as snapshot_remains;
use crate::snapshot::store::{Meta, SnapshotStore};
use crate::{NodeFile, vote};

/// A state machine that can be made of what is left of its snapshot.
pub trait Salvage: StateMachine + Default {
    /// Restores what can be read, and says in words what cannot.
    fn restore_remains(&mut self, reader: &mut dyn Read, cluster: ClusterId) -> Result<Vec<String>>;
    /// Makes the state whole in itself. `lossy`: commands or records are missing. Says in words what it did.
    fn repair(&mut self, lossy: bool) -> Vec<String>;
}

/// What a rescue gave.
pub struct Salvaged<S> {
    pub cluster: ClusterId,
    pub machine: S,
    /// The last entry that is in the state.
    pub term: u64,
    pub index: u64,
    pub now: Option<Time>,
    /// What is not in the state though it was in the directory, in words; empty: nothing is missing.
    pub lost: Vec<String>,
    /// What was done to make it whole.
    pub repairs: Vec<String>,
}

/// Reads a directory that no process works on: the newest whole snapshot and the log up to the first damage; without any whole
/// snapshot or whole log what is left of the newest one.
pub fn salvage<S: Salvage>(dir: &Path) -> Result<Salvaged<S>> {
    let mut lost = Vec::new();
    let cluster = match NodeFile::load(dir) {
        Ok(Some(node)) => node.cluster,
        Ok(None) => {
            return Err(Error::new(ErrorKind::NotFound, "the directory holds no log").with("path", dir.display()));
        }
        Err(error) => {
            lost.push(format!("the identity of the node: {error}"));
            cluster_of_any_file(dir)?
        }
    };
    let _lock = if dir.join(crate::node_file::NAME).exists() { Some(lock(dir)?) } else { None };
    let mut found =
        Salvaged { cluster, machine: S::default(), term: 0, index: 0, now: None, lost, repairs: Vec::new() };
    let snapshots = snapshot_remains::list(dir)?;
    let mut whole = false;
    for (_, index, path) in &snapshots {
        let mut machine = None;
        let mut restore = |reader: &mut dyn std::io::Read| S::restored(reader).map(|restored| machine = Some(restored));
        match snapshot_remains::read_whole(path, cluster, &mut restore) {
            Ok(restored) => {
                found.machine = machine.unwrap_or_default();
                found.now = restored.now;
                found.set_last(restored.meta.last_log_id.unwrap_or_default());
                whole = true;
                break;
            }
            Err(error) => found.lost.push(format!("the snapshot at index {index}: {error}")),
        }
    }
    let reached = found.replay(dir, whole.then_some(found.index))?;
    match snapshots.first() {
        _ if whole
            || reached.from_the_beginning && snapshots.first().is_none_or(|newest| reached.index >= newest.1) => {}
        Some((term, index, path)) => {
            // The log is not applied to a state with holes: the same commands would do something else there.
            let bytes = snapshot_remains::read_unchecked(path)?;
            found.machine = S::default();
            let missing = found.machine.restore_remains(&mut bytes.as_slice(), cluster)?;
            found.lost.extend(missing);
            (found.term, found.index) = (*term, *index);
        }
        None if reached.highest > 0 => {
            let message = "there is neither a snapshot nor the beginning of the log: nothing can be rescued";
            return Err(Error::new(ErrorKind::Corrupt, message).with("path", dir.display()));
        }
        None => {}
    }
    if reached.highest > found.index {
        found.lost.push(format!("the changes in the log entries {} to {}", found.index + 1, reached.highest));
    }
    found.lost.dedup();
    found.repairs = found.machine.repair(!found.lost.is_empty());
    Ok(found)
}

struct Reached {
    index: u64,
    highest: u64,
    from_the_beginning: bool,
}

impl<S: StateMachine> Salvaged<S> {
    fn set_last(&mut self, last: LogId) {
        (self.term, self.index) = (last.leader_id.term, last.index);
    }

    fn replay(&mut self, dir: &Path, after: Option<u64>) -> Result<Reached> {
        let mut first = None;
        let machine = &mut self.machine;
        let mut now = self.now;
        let remains = log_remains::read(dir, self.cluster, after, &mut |entry: Entry| {
            first.get_or_insert(entry.log_id.index);
            if let EntryPayload::Normal(batch) = &entry.payload {
                let batch = batch.take_decoded()?;
                now = batch.now.or(now);
                for command in &batch.commands {
                    machine.apply(batch.now, command);
                }
            }
            Ok(())
        })?;
        self.now = now;
        self.lost.extend(remains.lost);
        if let Some(last) = remains.last {
            self.set_last(last);
        }
        Ok(Reached { index: self.index, highest: remains.highest, from_the_beginning: first == Some(0) })
    }
}

/// The cluster that the files of a directory name, if its node file cannot be read.
fn cluster_of_any_file(dir: &Path) -> Result<ClusterId> {
    let failed = |source| Error::from_io(source, "cannot list the directory").with("path", dir.display());
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let magic: &[u8; 8] = match path.extension().and_then(|extension| extension.to_str()) {
            Some("seg") => b"CVlog\r\n\x1a",
            Some("snap" | "damaged") => b"CVsnap\r\n",
            _ => continue,
        };
        let mut start = [0; 64];
        let read = std::fs::File::open(&path).and_then(|mut file| file.read(&mut start));
        if let Ok(length) = read
            && let Ok(cluster) = check_preamble(&mut Fields(&start[..length]), &path, magic, None)
        {
            return Ok(cluster);
        }
    }
    Err(Error::new(ErrorKind::Corrupt, "no file of the directory says which cluster it is of")
        .with("path", dir.display()))
}

/// Where a state that is founded anew comes from.
pub struct Foundation<'a> {
    pub cluster: ClusterId,
    /// Of the last entry in the state.
    pub term: u64,
    pub index: u64,
    pub now: Option<Time>,
    /// Where other replicas reach this one.
    pub address: String,
    pub source: &'a dyn SnapshotSource,
}

/// Makes a directory of a replica that is the only voter and has this state. `AlreadyExists` unless `dir` is absent or empty.
pub fn found(dir: &Path, foundation: &Foundation<'_>) -> Result<NodeFile> {
    let failed =
        |source: std::io::Error| Error::from_io(source, "cannot make the directory").with("path", dir.display());
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::new(ErrorKind::AlreadyExists, "the directory must be empty; name another one")
                    .with("path", dir.display()));
            }
            std::fs::remove_dir(dir).map_err(failed)?;
        }
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    let draft = draft_of(dir)?;
    if draft.exists() {
        std::fs::remove_dir_all(&draft).map_err(failed)?;
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let node = NodeFile::create(disk.as_ref(), &draft, foundation.cluster)?;
    let members: BTreeMap<u64, BasicNode> = [(node.node, BasicNode::new(&foundation.address))].into();
    let membership = Membership::new(vec![[node.node].into()], members);
    // A term of its own: nothing that another node may have written under the old one can be mistaken for this.
    let last = log_id(foundation.term + 1, node.node, foundation.index);
    let meta = Meta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), membership),
        snapshot_id: last.to_string(),
    };
    let store = SnapshotStore::fresh(disk.clone(), &draft, foundation.cluster);
    store.write(&meta, foundation.now, foundation.source)?;
    vote::save(disk.as_ref(), &draft, foundation.cluster, &Vote::new(foundation.term + 1, node.node))?;
    std::fs::rename(&draft, dir).map_err(failed)?;
    if let Some(parent) = dir.canonicalize().map_err(failed)?.parent() {
        disk.sync_dir(parent).map_err(failed)?;
    }
    Ok(node)
}

/// The name under which a directory is made.
fn draft_of(dir: &Path) -> Result<PathBuf> {
    let name = dir.file_name().ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "name a directory that can be made").with("path", dir.display())
    })?;
    let mut draft = name.to_os_string();
    draft.push(".loading");
    Ok(dir.with_file_name(draft))
}
