//! `cv node`: the workers, and taking them out of service.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use curvine_client::Observer;
use curvine_proto::{TierInfo, WorkerInfo, WorkerState};
use curvine_types::units::{format_size, parse_duration};
use curvine_types::{Error, ErrorKind, Result, WorkerId};
use serde_json::{Value, json};

use super::Context;
use super::output::{age_text, say, say_json, table};
use crate::args::NodeCommand;

/// Exit code: `--wait` is over.
const SOMETHING_LEFT: u8 = 3;
/// Between two looks how far it is.
const PAUSE: Duration = Duration::from_millis(300);

/// Prints the workers.
pub async fn run(observer: &Observer, as_json: bool) -> Result<ExitCode> {
    let mut workers = observer.workers().await?;
    workers.sort_by_key(|worker| worker.id);
    if as_json {
        let workers: Vec<Value> = workers.iter().map(worker_json).collect();
        say_json(&json!({ "workers": workers }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = workers.iter().map(|worker| {
        let tiers = worker.tiers.iter().map(|tier| tier_text(tier, worker.live)).collect::<Vec<_>>();
        [
            worker.id.to_string(),
            worker.address.clone(),
            state_text(worker),
            format_size(sum(worker, |tier| tier.capacity)),
            format_size(sum(worker, |tier| tier.used)),
            format_size(sum(worker, |tier| tier.available)),
            age_text(worker.last_seen_ms),
            worker.software.clone(),
            tiers.join(", "),
        ]
    });
    let header = ["ID", "Address", "State", "Capacity", "Used", "Available", "Seen", "Version", "Tiers"];
    say(&table(header, rows.collect()))?;
    Ok(ExitCode::SUCCESS)
}

fn state_text(worker: &WorkerInfo) -> String {
    let live = if worker.live { "live" } else { "lost" };
    let word = match worker.state() {
        WorkerState::InService => return live.to_string(),
        WorkerState::Leaving => "leaving",
        WorkerState::Decommissioned => "decommissioned",
    };
    match worker.left_files {
        0 => format!("{live}, {word}"),
        left => format!("{live}, {word}, {left} files ({}) left", format_size(worker.left_bytes)),
    }
}

/// Takes workers out of service or back.
pub async fn change(context: &Context, command: NodeCommand) -> Result<ExitCode> {
    let (names, state, wait) = match command {
        NodeCommand::Decommission { workers, wait } => (workers, WorkerState::Decommissioned, wait),
        NodeCommand::Recommission { workers } => (workers, WorkerState::InService, None),
    };
    let known = context.fs.workers().await?.workers;
    let workers: Vec<WorkerId> = names.iter().map(|name| find(&known, name)).collect::<Result<_>>()?;
    let until = wait.map(|wait| parse_duration(&wait)).transpose()?.map(|wait| Instant::now() + wait);
    for worker in &workers {
        context.fs.set_worker_state(*worker, state).await.map_err(|error| error.with("worker", worker))?;
    }
    let Some(until) = until else { return Ok(ExitCode::SUCCESS) };
    loop {
        let known = context.fs.workers().await?.workers;
        let left: Vec<&WorkerInfo> = known.iter().filter(|info| workers.contains(&info.id) && !info.emptied).collect();
        if left.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= until {
            for info in left {
                eprintln!("worker {}: {}: {}", info.id, state_text(info), info.left_error);
            }
            return Ok(ExitCode::from(SOMETHING_LEFT));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn find(known: &[WorkerInfo], name: &str) -> Result<WorkerId> {
    let number: Option<WorkerId> = name.parse().ok();
    let matches = |info: &&WorkerInfo| Some(info.id) == number || info.address == name || info.hostname == name;
    let mut found = known.iter().filter(matches);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only.id),
        (None, _) => Err(Error::new(ErrorKind::NotFound, "no such worker, see `cv node`").with("worker", name)),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::InvalidArgument, "several workers are called so; name one by its number")
                .with("worker", name))
        }
    }
}

fn tier_text(tier: &TierInfo, live: bool) -> String {
    let state =
        if tier.state == "ok" || tier.state.is_empty() || !live { String::new() } else { format!(" {}", tier.state) };
    format!("{}:{}{state}", tier.kind, tier.dir)
}

pub(super) fn sum(worker: &WorkerInfo, of: fn(&TierInfo) -> u64) -> u64 {
    worker.tiers.iter().map(of).sum()
}

pub(super) fn worker_json(worker: &WorkerInfo) -> Value {
    let tier = |tier: &TierInfo| {
        json!({
            "dir": tier.dir,
            "kind": tier.kind,
            "capacity": tier.capacity,
            "used": tier.used,
            "available": tier.available,
            "files": tier.files,
            "state": tier.state,
        })
    };
    json!({
        "id": worker.id,
        "hostname": worker.hostname,
        "rpc_port": worker.rpc_port,
        "address": worker.address,
        "socket": worker.socket,
        "live": worker.live,
        "state": match worker.state() {
            WorkerState::InService => "in_service",
            WorkerState::Leaving => "leaving",
            WorkerState::Decommissioned => "decommissioned",
        },
        "left_files": worker.left_files,
        "left_bytes": worker.left_bytes,
        "left_error": worker.left_error,
        "last_seen_ms": (worker.last_seen_ms != u64::MAX).then_some(worker.last_seen_ms),
        "software": worker.software,
        "capacity": sum(worker, |tier| tier.capacity),
        "used": sum(worker, |tier| tier.used),
        "available": sum(worker, |tier| tier.available),
        "tiers": worker.tiers.iter().map(tier).collect::<Vec<_>>(),
    })
}
