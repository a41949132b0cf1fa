//! Bringing trees into the cache: each part of a file to the worker that is its home.
//!
//! Always: a load is done only after a second pass over the trees has found everything where readers will look for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::layout::Kind;
use curvine_proto::{LoadItem, LoadReply, LoadRequest, LoadResult, Method, TaskProgress, TaskSpec};
use curvine_types::{Error, ErrorKind, InodeId, Result, WorkerId, home};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Progress;
use super::walk::{Found, Look};
use crate::leader::Leader;

/// Files that were found and wait for their turn.
const FOUND_MAX: usize = 1024;
/// What one request to a worker names at most.
const ITEMS_MAX: usize = 64;
const BYTES_MAX: u64 = 64 << 20;
/// Requests on their way to one worker.
const REQUESTS_AT_ONCE: usize = 3;
/// Longest wait for one request, and the slowest fetch that is waited for, bytes a second.
const STEP: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 256 << 10;
/// Attempts to bring a file whose worker, store or object was away or changed.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Times that everything is gone through because something had left the cache meanwhile.
const ROUNDS: usize = 3;
/// Files that are remembered for another attempt; of further ones the first is the last.
const AGAIN_MAX: usize = 10_000;

/// What is done with each file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Load,
    Check { verify: bool },
}

/// A file on its way.
struct File {
    path: Vec<u8>,
    inode: InodeId,
    parts_left: AtomicUsize,
    bytes: AtomicU64,
    error: Mutex<Option<Error>>,
}

struct Part {
    file: Arc<File>,
    item: LoadItem,
}

#[derive(Default)]
struct Batch {
    parts: Vec<Part>,
    bytes: u64,
}

/// A file that a pass could not finish.
struct Unfinished {
    path: Vec<u8>,
    inode: InodeId,
    error: Error,
}

enum Source<'a> {
    Trees(&'a TaskSpec, Look),
    Files(Vec<Unfinished>),
}

fn may_pass(error: &Error) -> bool {
    use ErrorKind::*;
    error.kind().is_retryable() || matches!(error.kind(), ConnectionLost | TimedOut | VersionMismatch | Unavailable)
}

impl Leader {
    pub(super) async fn load_trees(&self, spec: &TaskSpec, progress: &Progress) {
        let look = Look::Stores;
        for round in 1..=ROUNDS {
            let failed = self.load_round(spec, look, progress).await;
            // Names are as they were found; new ones are a matter of the next load.
            let trees = Source::Trees(spec, Look::Known);
            let unseen = Progress::default();
            let missing = self.pass(Pass::Check { verify: spec.verify }, trees, spec, &unseen).await;
            let missing: Vec<Unfinished> = missing.into_iter().filter(|file| !failed.contains(&file.inode)).collect();
            if missing.is_empty() {
                return;
            }
            let (capacity, _) = self.workers.capacity();
            if round < ROUNDS && progress.now().found_bytes <= capacity {
                tracing::info!(files = missing.len(), "files left the cache while others were loaded; once more");
                progress.edit(|now| {
                    *now = TaskProgress { moved_bytes: now.moved_bytes, ..TaskProgress::default() };
                });
                continue;
            }
            for file in missing {
                progress.edit(|now| now.files = now.files.saturating_sub(1));
                progress.failed(&file.path, &file.error);
            }
            return;
        }
    }

    /// Everything once, and again what failed for a reason that may pass; the files that stay failed.
    async fn load_round(&self, spec: &TaskSpec, look: Look, progress: &Progress) -> HashSet<InodeId> {
        let mut failed = HashSet::new();
        let mut source = Source::Trees(spec, look);
        for attempt in 0..ATTEMPTS {
            let unfinished = self.pass(Pass::Load, source, spec, progress).await;
            progress.edit(|now| now.walked = true);
            let is_last = attempt + 1 == ATTEMPTS;
            let (again, lost): (Vec<_>, Vec<_>) =
                unfinished.into_iter().partition(|file| may_pass(&file.error) && !is_last);
            for file in lost {
                progress.failed(&file.path, &file.error);
                failed.insert(file.inode);
            }
            if again.is_empty() {
                break;
            }
            tokio::time::sleep((PAUSE * 2_u32.pow(attempt)).min(PAUSE_MAX)).await;
            source = Source::Files(again);
        }
        failed
    }

    async fn pass(&self, pass: Pass, source: Source<'_>, spec: &TaskSpec, progress: &Progress) -> Vec<Unfinished> {
        let (sender, files) = mpsc::channel(FOUND_MAX);
        let is_first = matches!(source, Source::Trees(..));
        let feed = async {
            match source {
                Source::Trees(spec, look) => self.walk(spec, look, progress, sender).await,
                Source::Files(again) => {
                    for Unfinished { path, inode, .. } in again {
                        let (attr, layout) = {
                            let state = self.replica.state().read();
                            (state.0.attr(inode), state.0.layout(inode, false))
                        };
                        if let (Ok(attr), Ok(layout)) = (attr, layout) {
                            let _ = sender.send(Found { path, attr, layout }).await;
                        }
                    }
                }
            }
        };
        let mut driver = Driver { leader: self, pass, spec, progress, is_first, unfinished: Vec::new() };
        let ((), ()) = tokio::join!(feed, driver.drive(files));
        driver.unfinished
    }

    async fn ask_to_load(
        &self,
        worker: WorkerId,
        batch: Batch,
        pass: Pass,
        parallel: u32,
    ) -> (Vec<Part>, Result<LoadReply>) {
        let (check, verify) = match pass {
            Pass::Load => (false, false),
            Pass::Check { verify } => (true, verify),
        };
        let items = batch.parts.iter().map(|part| part.item).collect();
        let request = LoadRequest { items, parallel, check, verify };
        let deadline = Instant::now() + STEP + Duration::from_secs(batch.bytes / SLOWEST);
        (batch.parts, self.workers.call(worker, Method::Load, &request, Bytes::new(), deadline).await)
    }
}

/// One pass: parts are gathered by worker and sent.
struct Driver<'a> {
    leader: &'a Leader,
    pass: Pass,
    spec: &'a TaskSpec,
    progress: &'a Progress,
    /// Files are met for the first time.
    is_first: bool,
    unfinished: Vec<Unfinished>,
}

impl Driver<'_> {
    async fn drive(&mut self, mut files: mpsc::Receiver<Found>) {
        let mut batches: HashMap<WorkerId, Batch> = HashMap::new();
        let mut asked = FuturesUnordered::new();
        let mut open = true;
        loop {
            let turns = REQUESTS_AT_ONCE * self.leader.lasting_workers().len().max(1);
            // What is gathered waits only while more is at hand.
            let everything = !open || files.is_empty();
            while asked.len() < turns {
                let ready = batches.iter().find(|(_, batch)| everything || batch.is_full()).map(|(worker, _)| *worker);
                let Some(worker) = ready else { break };
                let batch = batches.remove(&worker).unwrap_or_default();
                asked.push(self.leader.ask_to_load(worker, batch, self.pass, self.spec.parallel));
            }
            let may_take = open && asked.len() < turns;
            tokio::select! {
                biased;
                Some((parts, reply)) = asked.next() => self.settle(parts, reply),
                found = files.recv(), if may_take => match found {
                    Some(found) => self.take(found, &mut batches),
                    None => open = false,
                },
                else => {
                    if !open && batches.is_empty() {
                        return;
                    }
                }
            }
        }
    }

    /// Cuts a file into parts by their homes.
    fn take(&mut self, found: Found, batches: &mut HashMap<WorkerId, Batch>) {
        let Found { path, attr, layout } = found;
        let is_load = self.pass == Pass::Load;
        let Some(Kind::Ufs(ufs)) = layout.kind else {
            if is_load && self.is_first {
                self.progress.edit(|now| now.own_files += 1);
            }
            return;
        };
        if is_load && self.is_first {
            self.progress.edit(|now| {
                now.found_files += 1;
                now.found_bytes += ufs.size;
            });
        }
        let live = self.leader.lasting_workers();
        let block_size = ufs.block_size.max(1);
        let mut parts = Vec::new();
        let mut offset = 0;
        while offset < ufs.size {
            let block = offset / block_size;
            let length = ((block + 1) * block_size).min(ufs.size).min(offset + BYTES_MAX) - offset;
            let item = LoadItem { inode: attr.inode, generation: layout.generation, offset, length };
            parts.push((block, item));
            offset += length;
        }
        let file = Arc::new(File {
            path,
            inode: attr.inode,
            parts_left: AtomicUsize::new(parts.len()),
            bytes: AtomicU64::new(0),
            error: Mutex::new(None),
        });
        if live.is_empty() && !parts.is_empty() {
            *file.error.lock() = Some(Error::new(ErrorKind::Unavailable, "no worker is alive"));
            parts.clear();
        }
        if parts.is_empty() {
            self.finish(&file);
        }
        for (block, item) in parts {
            let Some(home) = home::ranked(live.iter().copied(), item.inode, block).first().copied() else { continue };
            let batch = batches.entry(home).or_default();
            batch.bytes += item.length;
            batch.parts.push(Part { file: file.clone(), item });
        }
    }

    fn settle(&mut self, parts: Vec<Part>, reply: Result<LoadReply>) {
        let results: Vec<Result<LoadResult>> = match reply {
            Ok(reply) if reply.results.len() == parts.len() => reply.results.into_iter().map(Ok).collect(),
            Ok(_) => {
                let short = || Error::new(ErrorKind::Corrupt, "a worker answered for another number of items");
                parts.iter().map(|_| Err(short())).collect()
            }
            Err(error) => {
                let again = || Error::new(error.kind(), "the worker of a part did not answer").with("error", &error);
                parts.iter().map(|_| Err(again())).collect()
            }
        };
        for (Part { file, item }, result) in parts.into_iter().zip(results) {
            match result.and_then(|result| result.error.clone().map_or(Ok(result), |error| Err(error.into()))) {
                Ok(result) if result.missing > 0 => {
                    let message = "it is not in the cache any more: others needed the room";
                    *file.error.lock() = Some(Error::new(ErrorKind::NoSpace, message).with("bytes", result.missing));
                }
                Ok(result) => {
                    file.bytes.fetch_add(item.length, Relaxed);
                    self.progress.edit(|now| {
                        now.bytes += item.length;
                        now.moved_bytes += result.fetched;
                    });
                }
                Err(error) => *file.error.lock() = Some(error),
            }
            if file.parts_left.fetch_sub(1, Relaxed) == 1 {
                self.finish(&file);
            }
        }
    }

    fn finish(&mut self, file: &File) {
        let Some(error) = file.error.lock().take() else {
            self.progress.edit(|now| now.files += 1);
            return;
        };
        // Of a file that is not whole nothing counts.
        self.progress.edit(|now| now.bytes = now.bytes.saturating_sub(file.bytes.load(Relaxed)));
        let error = match self.unfinished.len() < AGAIN_MAX {
            true => error,
            false => Error::new(ErrorKind::Ufs, "too many files failed to try this one again").caused_by(error),
        };
        self.unfinished.push(Unfinished { path: file.path.clone(), inode: file.inode, error });
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.parts.len() >= ITEMS_MAX || self.bytes >= BYTES_MAX
    }
}
