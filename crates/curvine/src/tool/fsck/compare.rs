//! Compares what the log names with what each worker holds: both come in ascending order, page by page.

use std::collections::{BTreeMap, VecDeque};

use curvine_client::Observer;
use curvine_proto::{
    Garbage, HeldContent, HeldKind, ListHeldReply, ListHeldRequest, ListPlacedReply, ListPlacedRequest, Method,
    PlacedContent, WorkerInfo,
};
use curvine_types::{Error, ErrorKind, Result};

use super::report::{Finding, Findings, What};

const PAGE: u32 = 2048;
/// Suspects that are kept; a cluster with more has another problem than single files.
const SUSPECTS_MAX: usize = 200_000;

/// What a worker holds, read as far as needed.
struct Held {
    info: WorkerInfo,
    page: VecDeque<HeldContent>,
    /// The last one that was read.
    after: (u64, u64),
    end: bool,
    /// Why an absence proves nothing: a directory of it is out of service, or it cannot be asked.
    doubt: Option<String>,
}

/// A comparison under way.
pub struct Comparison<'a> {
    observer: &'a Observer,
    workers: BTreeMap<u64, Held>,
}

impl<'a> Comparison<'a> {
    pub async fn start(observer: &'a Observer) -> Result<Self> {
        let mut workers = BTreeMap::new();
        for info in observer.workers().await? {
            let failed = info.tiers.iter().find(|tier| tier.state != "ok" && !tier.state.is_empty());
            let doubt = match failed {
                _ if !info.live => Some(format!("worker {} at {} is lost", info.id, info.address)),
                Some(tier) => Some(format!("worker {}: {} is {}", info.id, tier.dir, tier.state)),
                None => None,
            };
            let end = !info.live;
            workers.insert(info.id, Held { info, page: VecDeque::new(), after: (0, 0), end, doubt });
        }
        Ok(Self { observer, workers })
    }

    /// Compares everything once; what looks wrong.
    pub async fn run(&mut self, findings: &mut Findings) -> Result<Vec<Finding>> {
        let mut suspects = Vec::new();
        let mut after = 0;
        loop {
            let request = ListPlacedRequest { after, limit: PAGE, ..Default::default() };
            let reply: ListPlacedReply = self.observer.master(Method::ListPlaced, &request).await?;
            for content in &reply.contents {
                after = content.inode;
                findings.contents += 1;
                for worker in &content.workers {
                    self.compare(content, *worker, findings, &mut suspects).await?;
                }
            }
            if reply.end {
                break;
            }
        }
        let workers: Vec<u64> = self.workers.keys().copied().collect();
        for worker in workers {
            self.skip_to(worker, (u64::MAX, u64::MAX), findings, &mut suspects).await?;
        }
        for held in self.workers.values() {
            findings.reasons.extend(held.doubt.clone());
        }
        Ok(suspects)
    }

    async fn compare(
        &mut self,
        content: &PlacedContent,
        worker: u64,
        findings: &mut Findings,
        suspects: &mut Vec<Finding>,
    ) -> Result<()> {
        let key = (content.inode, content.generation);
        let finding = |what| Finding::of(what, content.inode, content.generation, worker);
        if !self.workers.contains_key(&worker) {
            let unknown = Finding { detail: "the worker is not known any more".into(), ..finding(What::Gone) };
            return note(suspects, unknown);
        }
        self.skip_to(worker, key, findings, suspects).await?;
        let Some(held) = self.workers.get_mut(&worker) else { return Ok(()) };
        match held.page.front() {
            Some(front) if (front.inode, front.generation) == key => {
                let wrong = verdict(content.version, front);
                held.page.pop_front();
                wrong.map_or(Ok(()), |what| note(suspects, finding(what)))
            }
            _ if held.doubt.is_some() => {
                findings.unchecked += 1;
                Ok(())
            }
            _ => note(suspects, finding(What::Gone)),
        }
    }

    /// Passes over what a worker holds before `key`: nothing names it.
    async fn skip_to(
        &mut self,
        worker: u64,
        key: (u64, u64),
        findings: &mut Findings,
        suspects: &mut Vec<Finding>,
    ) -> Result<()> {
        let Some(held) = self.workers.get_mut(&worker) else { return Ok(()) };
        loop {
            while let Some(front) = held.page.front()
                && (front.inode, front.generation) < key
            {
                match front.kind() {
                    HeldKind::Cached => findings.cached += 1,
                    _ => note(suspects, Finding::of(What::Orphan, front.inode, front.generation, worker))?,
                }
                held.page.pop_front();
            }
            if !held.page.is_empty() || held.end {
                return Ok(());
            }
            let (after_inode, after_generation) = held.after;
            let request = ListHeldRequest { after_inode, after_generation, limit: PAGE };
            let reply: Result<ListHeldReply> = self.observer.worker(&held.info, Method::ListHeld, &request).await;
            match reply {
                Ok(reply) => {
                    held.end = reply.end || reply.contents.is_empty();
                    held.after = reply.contents.last().map_or(held.after, |last| (last.inode, last.generation));
                    held.page = reply.contents.into();
                }
                Err(error) => {
                    held.end = true;
                    held.doubt = Some(format!("worker {}: {error}", held.info.id));
                }
            }
        }
    }

    /// Asks for each suspect alone; those that are still wrong, with the paths of their files.
    pub async fn ask_again(&self, suspects: Vec<Finding>) -> Result<Vec<Finding>> {
        let mut wrong = Vec::new();
        for suspect in suspects {
            let garbage = Garbage { worker: suspect.worker, inode: suspect.inode, generation: suspect.generation };
            let request = ListPlacedRequest { inode: suspect.inode, garbage: Some(garbage), ..Default::default() };
            let reply: ListPlacedReply = self.observer.master(Method::ListPlaced, &request).await?;
            let named = reply
                .contents
                .into_iter()
                .find(|content| content.generation == suspect.generation && content.workers.contains(&suspect.worker));
            let held = match self.workers.get(&suspect.worker) {
                Some(held) if held.info.live => self.held_now(&held.info, &suspect).await?,
                _ => None,
            };
            let what = match (&named, &held) {
                (Some(content), Some(held)) => verdict(content.version, held),
                (Some(_), None) => Some(What::Gone),
                (None, Some(held)) if held.kind() != HeldKind::Cached && !reply.is_garbage => Some(What::Orphan),
                (None, _) => None,
            };
            if let Some(what) = what {
                let path = named.map(|content| String::from_utf8_lossy(&content.path).into_owned()).unwrap_or_default();
                wrong.push(Finding { what, path, ..suspect });
            }
        }
        Ok(wrong)
    }

    async fn held_now(&self, worker: &WorkerInfo, suspect: &Finding) -> Result<Option<HeldContent>> {
        let (after_inode, after_generation) = match suspect.generation.checked_sub(1) {
            Some(before) => (suspect.inode, before),
            None => (suspect.inode.saturating_sub(1), u64::MAX),
        };
        let request = ListHeldRequest { after_inode, after_generation, limit: 1 };
        let reply: ListHeldReply = self.observer.worker(worker, Method::ListHeld, &request).await?;
        let same = |held: &HeldContent| (held.inode, held.generation) == (suspect.inode, suspect.generation);
        Ok(reply.contents.into_iter().find(same))
    }
}

/// What is wrong with a content that is there, if anything is.
fn verdict(version: u64, held: &HeldContent) -> Option<What> {
    match held.kind() {
        HeldKind::Lost => Some(What::Lost),
        _ if held.version != version => Some(What::OtherVersion),
        _ => None,
    }
}

fn note(suspects: &mut Vec<Finding>, finding: Finding) -> Result<()> {
    if suspects.len() >= SUSPECTS_MAX {
        return Err(Error::new(
            ErrorKind::Overloaded,
            "too much looks wrong to be listed; is a worker of another cluster here?",
        )
        .with("limit", SUSPECTS_MAX));
    }
    suspects.push(finding);
    Ok(())
}
