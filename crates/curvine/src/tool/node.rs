//! `cv node --list`.

use std::process::ExitCode;

use curvine_client::Observer;
use curvine_proto::{TierInfo, WorkerInfo};
use curvine_types::Result;
use curvine_types::units::format_size;
use serde_json::{Value, json};

use super::output::{age_text, say, say_json, table};

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
            if worker.live { "live" } else { "lost" }.to_string(),
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
        "last_seen_ms": (worker.last_seen_ms != u64::MAX).then_some(worker.last_seen_ms),
        "software": worker.software,
        "capacity": sum(worker, |tier| tier.capacity),
        "used": sum(worker, |tier| tier.used),
        "available": sum(worker, |tier| tier.available),
        "tiers": worker.tiers.iter().map(tier).collect::<Vec<_>>(),
    })
}
