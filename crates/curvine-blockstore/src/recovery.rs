//! Opening a store: from identity files and index logs to contents in memory.
//!
//! Three endings of the last run are told apart. *Closed*: everything is on the disk. *Killed* (same boot of the machine):
//! everything written is in the page cache, so files are what they were. *Unclean boot*: what was not synced is not trusted;
//! live contents fall back to their last synced size, kept checksums are compared before their first use.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use curvine_types::{ClusterId, Error, ErrorKind, Result};

use crate::chunks::ChunkMap;
use crate::content::{Content, State};
use crate::disk::{self, Disk};
use crate::index::Damage;
use crate::record::{Body, Known, Nothing, Record};
use crate::store::BlockStore;
use crate::tier::{SHARDS, Tier, key_of_name};
use crate::types::*;

/// More than any tick of a kernel's clock.
pub(crate) const CLOCK_TICK: Duration = Duration::from_millis(10);

/// How the last run of a tier directory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Closed,
    Killed,
    UncleanBoot,
}

impl BlockStore {
    /// Opens the tier directories of `cluster`, making what is not there yet.
    ///
    /// A directory whose disk fails is taken out of service and probed later, as long as another one works. A directory of
    /// another worker or format, or one that another process uses, is an error.
    pub fn open(cluster: ClusterId, configs: &[TierConfig], options: Options) -> Result<BlockStore> {
        if configs.is_empty() {
            return Err(Error::new(ErrorKind::Config, "a worker needs at least one data directory"));
        }
        let mut dirs = HashSet::new();
        if let Some(twice) = configs.iter().find(|config| !dirs.insert(&config.dir)) {
            return Err(
                Error::new(ErrorKind::Config, "a data directory is named twice").with("file", twice.dir.display())
            );
        }
        if configs.iter().all(|config| config.kind == TierKind::Mem) {
            tracing::warn!(
                "only MEM tiers are configured: data that was written here is lost when this machine reboots"
            );
        }
        let disk = Disk::new(options.faults.clone());
        let tiers: Vec<Tier> = configs.iter().map(|config| Tier::new(config.clone(), cluster, disk.clone())).collect();
        let worker = agree_on_worker(&tiers)?;
        let mut store = BlockStore::assemble(cluster, worker, tiers, options);
        store.foreign = find_foreign(cluster, configs);

        let mut first_error = None;
        for number in 0..store.tiers.len() {
            if let Err(error) = store.open_tier(number) {
                if matches!(error.kind(), ErrorKind::Foreign | ErrorKind::Busy | ErrorKind::Corrupt) {
                    return Err(error);
                }
                store.tiers[number].fail(&error.to_string());
                first_error.get_or_insert(error);
            }
        }
        match first_error {
            Some(error) if store.tiers.iter().all(|tier| tier.check().is_err()) => Err(error),
            _ => Ok(store),
        }
    }

    /// The cluster that the directories belong to, if they all belong to one.
    pub fn discover(configs: &[TierConfig]) -> Option<ClusterId> {
        let mut found: Vec<ClusterId> = configs.iter().flat_map(clusters_in).map(|(cluster, _)| cluster).collect();
        found.sort_unstable();
        found.dedup();
        match found[..] {
            [cluster] => Some(cluster),
            _ => None,
        }
    }

    /// Brings a tier directory into service: replays its index and adds its contents.
    fn open_tier(&self, number: usize) -> Result<()> {
        let tier = &self.tiers[number];
        let (replay, damage) = tier.open(self.identity)?;
        let same_boot = !self.options.boot_id.is_empty() && replay.boot_id.as_ref() == Some(&self.options.boot_id);
        let ending = match (replay.closed, same_boot || replay.boot_id.is_none()) {
            (true, _) => Ending::Closed,
            (false, true) => Ending::Killed,
            (false, false) => Ending::UncleanBoot,
        };
        let damaged = matches!(damage, Damage::Corrupt { .. } | Damage::Missing);
        // Not synced: should this record be lost, what follows it is lost too, and nothing of that was synced either.
        let booted = tier.log(&[Record::of_log(Body::Boot(self.options.boot_id.clone()))])?;
        let contents = replay.contents.len();
        // In their order, the tables grow at their ends: with a million contents that halves the time of a start.
        let mut known: Vec<_> = replay.contents.into_iter().collect();
        known.sort_unstable_by_key(|(key, _)| *key);
        for (key, known) in known {
            self.recover(number, key, *known, ending, damaged)?;
        }
        if damaged {
            for shard in 0..SHARDS {
                self.adopt_unknown(number, shard)?;
            }
            tier.sync_log(booted)?;
        } else if ending == Ending::UncleanBoot {
            self.sweep.lock().extend((0..SHARDS).map(|shard| (number, shard)));
        }
        tracing::info!(dir = %tier.dir().display(), kind = tier.config.kind.name(), contents, last_run = ?ending,
            "tier directory opened");
        Ok(())
    }

    /// Probes a failed directory, or opens one that could not be opened at the start.
    pub(crate) fn revive(&self, number: usize) -> Result<()> {
        let tier = &self.tiers[number];
        if !tier.is_opened() {
            return self.open_tier(number);
        }
        tier.probe().map_err(|error| disk::io_error(error, "the directory still fails", tier.dir()))
    }

    /// Adds one content as the index knows it.
    fn recover(&self, number: usize, key: ContentKey, known: Known, ending: Ending, damaged: bool) -> Result<()> {
        let tier = &self.tiers[number];
        let mut state = State::new(known.kind, known.version, known.epoch);
        state.attr = LiveAttr { size: known.size, mtime: known.mtime, blocks: known.blocks };
        state.placed = known.placed;
        state.synced_size = known.synced.unwrap_or(0);
        state.chunks = known.chunks;
        state.name_unsynced = ending != Ending::Closed;
        // Descriptors end with the boot of the machine. What a damaged index says of them may be too little.
        if ending != Ending::UncleanBoot {
            state.exposure = match known.kind {
                ContentKind::Live if damaged => Exposure::Write,
                _ if damaged => Exposure::Read,
                _ => known.exposure,
            };
            state.writers = known.writers;
        }
        if ending == Ending::UncleanBoot || damaged {
            state.chunks.suspect_all();
        }
        let mut charged = 0;
        match known.kind {
            ContentKind::Cached => charged = cached_bytes(&state),
            ContentKind::Sealed => charged = known.blocks * 512,
            ContentKind::Lost => {}
            ContentKind::Live => {
                // They may be of a seal that did not end.
                state.chunks = ChunkMap::default();
                let recovered = match known.synced {
                    Some(synced) => self.recover_live(number, key, &mut state, synced, ending, damaged)?,
                    // Placing it never ended, so nobody was told of it.
                    None => false,
                };
                charged = state.attr.blocks * 512;
                if !recovered && known.synced.is_none() && !damaged {
                    let path = tier.path_of(key);
                    self.disk
                        .unlink(&path)
                        .map_err(|error| tier.fault(error, "cannot delete the file of a content", &path))?;
                    tier.log(&[Record::new(key, Body::Delete(Nothing {}))])?;
                    return Ok(());
                }
                if !recovered {
                    tracing::error!(content = %key, "a live content cannot be recovered: it answers with errors");
                    state.kind = ContentKind::Lost;
                    tier.log(&[Record::new(key, Body::Lost(Nothing {}))])?;
                }
            }
        }
        let cached = state.kind == ContentKind::Cached;
        let content = Arc::new(Content::new(key, number, state));
        if let Some(there) = self.insert(content.clone()) {
            let other = &self.tiers[there.tier];
            tracing::warn!(content = %key, here = %tier.dir().display(), used = %other.dir().display(), dropped = cached,
                "a content is in two tier directories: the second is ignored");
            if cached {
                // A move that did not end.
                let path = tier.path_of(key);
                self.disk
                    .unlink(&path)
                    .map_err(|error| tier.fault(error, "cannot delete the second copy of a content", &path))?;
                tier.log(&[Record::new(key, Body::Delete(Nothing {}))])?;
            }
            return Ok(());
        }
        tier.charge_copy(&content, &mut content.state.write(), charged);
        if cached {
            tier.candidates.lock().insert(content);
        }
        Ok(())
    }

    /// Size and mtime of a live content from its file; whether that is possible.
    fn recover_live(
        &self,
        number: usize,
        key: ContentKey,
        state: &mut State,
        synced: u64,
        ending: Ending,
        damaged: bool,
    ) -> Result<bool> {
        let tier = &self.tiers[number];
        let path = tier.path_of(key);
        let failed = |error| tier.fault(error, "cannot recover a live content", &path);
        let file = match self.disk.open(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(failed)?,
        };
        let mut found = disk::attr_of(&file).map_err(failed)?;
        if ending == Ending::UncleanBoot {
            // The index may have lost a later `Synced`: then the right size is not known.
            if damaged {
                return Ok(false);
            }
            if found.size > synced {
                tracing::warn!(content = %key, from = found.size, to = synced,
                    "the machine stopped: unsynced data is cut off a live content");
                self.disk.truncate(&file, &path, synced).map_err(failed)?;
                found = disk::attr_of(&file).map_err(failed)?;
            }
        }
        let mtime = match ending {
            Ending::Closed => found.mtime,
            // Times are not synced with data; readers must see another one than any they were told.
            Ending::UncleanBoot => {
                state.placed = None;
                (self.options.now)().max(found.mtime.next()).max(state.attr.mtime.next())
            }
            // A write may have changed the data, and set the time back within a tick of the kernel's clock, before it could
            // set it right.
            Ending::Killed if disk::changed_last(&file).map_err(failed)? => {
                found.mtime.plus(CLOCK_TICK).max(state.attr.mtime.next())
            }
            Ending::Killed => found.mtime,
        };
        if mtime != found.mtime {
            disk::set_mtime(&file, mtime).map_err(failed)?;
        }
        state.attr = LiveAttr { mtime, ..found };
        Ok(true)
    }

    /// Takes files of a shard directory that no index knows into the store as lost, so that they are accounted for and the
    /// master can say whether anybody needs them.
    fn adopt_unknown(&self, number: usize, shard: u64) -> Result<()> {
        let tier = &self.tiers[number];
        let dir = tier.shard_dir(shard);
        let failed = |error| disk::io_error(error, "cannot list a tier directory", &dir);
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(key) = entry.file_name().to_str().and_then(key_of_name) else { continue };
            // In this order: a content leaves the table after its file is gone, and enters it before its file is there.
            let known = self.contains(key);
            if known || !entry.path().exists() {
                continue;
            }
            let bytes = entry.metadata().map(|meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512).unwrap_or(0);
            let content = Arc::new(Content::new(key, number, State::new(ContentKind::Lost, 0, 0)));
            if self.insert(content.clone()).is_none() {
                tracing::warn!(content = %key, file = %entry.path().display(), "no index knows this file: its content is lost");
                tier.charge(&mut content.state.write(), bytes);
                tier.log(&[Record::new(key, Body::Lost(Nothing {}))])?;
            }
        }
        Ok(())
    }

    /// One shard directory of what is left to compare after an unclean boot.
    pub(crate) fn sweep_step(&self) {
        let Some((tier, shard)) = self.sweep.lock().pop() else { return };
        if self.tiers[tier].check().is_ok()
            && let Err(error) = self.adopt_unknown(tier, shard)
        {
            tracing::warn!(%error, "cannot compare a directory with the index");
        }
    }
}

/// Bytes that a cached content's tier is charged with: whole chunks that are present.
pub(crate) fn cached_bytes(state: &State) -> u64 {
    use crate::chunks::Chunk;
    use curvine_types::limits::CHUNK_SIZE;
    let chunk_len = |number: u64| state.attr.size.saturating_sub(number * CHUNK_SIZE).min(CHUNK_SIZE);
    state
        .chunks
        .iter()
        .filter(|(_, chunk)| matches!(chunk, Chunk::Data(_)))
        .map(|(number, _)| chunk_len(number).next_multiple_of(4096))
        .sum()
}

/// The uuid that the directories have in common, or a new one.
fn agree_on_worker(tiers: &[Tier]) -> Result<[u8; 16]> {
    let mut agreed: Option<([u8; 16], &Tier)> = None;
    for tier in tiers {
        let known = match tier.known_worker() {
            Ok(known) => known,
            Err(error) if error.kind() == ErrorKind::Foreign => return Err(error),
            Err(error) => {
                tracing::error!(dir = %tier.dir().display(), %error, "cannot read a tier directory");
                None
            }
        };
        let Some(worker) = known else { continue };
        match agreed {
            Some((other, first)) if other != worker => {
                return Err(Error::new(ErrorKind::Foreign, "two data directories belong to two different workers")
                    .with("have", first.dir().display())
                    .with("file", tier.dir().display()));
            }
            Some(_) => {}
            None => agreed = Some((worker, tier)),
        }
    }
    Ok(agreed.map_or_else(rand::random, |(worker, _)| worker))
}

/// Clusters that have a directory in a tier directory.
fn clusters_in(config: &TierConfig) -> Vec<(ClusterId, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(&config.dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().join("identity").exists())
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect()
}

fn find_foreign(cluster: ClusterId, configs: &[TierConfig]) -> Vec<PathBuf> {
    let foreign: Vec<PathBuf> =
        configs.iter().flat_map(clusters_in).filter(|(found, _)| *found != cluster).map(|(_, path)| path).collect();
    for path in &foreign {
        tracing::warn!(dir = %path.display(), %cluster,
            "data of another cluster lies beside ours; it is left alone, delete it if nobody needs it");
    }
    foreign
}
