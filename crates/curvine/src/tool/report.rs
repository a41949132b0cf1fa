//! `cv report`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use curvine_proto::{ReportReply, SessionInfo, SessionKind};
use curvine_types::units::format_size;
use curvine_types::{ClusterId, Result};
use serde_json::{Value, json};

use super::Context;
use super::node::{sum, worker_json};
use super::output::{age_text, say, say_json};
use crate::args::ReportKind;

/// Prints the state of the cluster.
pub async fn run(context: &Context, what: ReportKind) -> Result<ExitCode> {
    let report = context.fs.report().await?;
    match what {
        _ if context.json => say_json(&json(context, &report))?,
        ReportKind::Json => say_json(&json(context, &report))?,
        ReportKind::Summary => say(&summary(context, &report))?,
        ReportKind::All => say(&format!("{}\n{}", summary(context, &report), rest(&report)))?,
        ReportKind::Capacity => say(&format!("{} {}", report.capacity, format_size(report.capacity)))?,
        ReportKind::Used => say(&format!("{} {}", report.used, format_size(report.used)))?,
        ReportKind::Available => say(&format!("{} {}", report.available, format_size(report.available)))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn cluster(report: &ReportReply) -> String {
    ClusterId::from_slice(&report.cluster).map(|id| id.to_string()).unwrap_or_default()
}

fn kind(session: &SessionInfo) -> &'static str {
    match session.kind() {
        SessionKind::Mount => "mount",
        SessionKind::Library => "library",
        SessionKind::Unknown => "unknown",
    }
}

fn summary(context: &Context, report: &ReportReply) -> String {
    let live = report.workers.iter().filter(|worker| worker.live).count();
    let lost = report.workers.len() - live;
    let mounts = report.sessions.iter().filter(|session| session.kind() == SessionKind::Mount).count();
    let mut lines = vec![
        format!("cluster      {} ({})", context.conf.general.cluster_id, cluster(report)),
        format!(
            "master       {} of {} voters, version {}, up {}",
            report.leader,
            report.voters,
            report.software,
            age_text(report.uptime_ms)
        ),
        format!("capacity     {}", format_size(report.capacity)),
        format!("used         {}", format_size(report.used)),
        format!("available    {}", format_size(report.available)),
        format!("files        {}", report.files),
        format!("directories  {}", report.directories),
        format!("sessions     {} ({mounts} mounts)", report.sessions.len()),
        format!("workers      {live} live, {lost} lost"),
    ];
    for worker in &report.workers {
        let state = if worker.live { "live" } else { "lost" };
        let (used, capacity) = (sum(worker, |tier| tier.used), sum(worker, |tier| tier.capacity));
        lines.push(format!(
            "  {:<4} {state}  {}  {} of {}",
            worker.id,
            worker.address,
            format_size(used),
            format_size(capacity)
        ));
    }
    lines.join("\n")
}

fn rest(report: &ReportReply) -> String {
    let mut lines = vec!["session list".to_string()];
    for session in &report.sessions {
        lines.push(format!(
            "  {:<6} {:<8} {}  seen {}, {} leases, {} opens",
            session.session,
            kind(session),
            session.client,
            age_text(session.last_seen_ms),
            session.leases,
            session.opens
        ));
    }
    lines.push("gauges".to_string());
    for (name, value) in report.gauges.iter().collect::<BTreeMap<_, _>>() {
        lines.push(format!("  {name:<20} {value}"));
    }
    lines.join("\n")
}

fn json(context: &Context, report: &ReportReply) -> Value {
    let session = |session: &SessionInfo| {
        json!({
            "session": session.session,
            "kind": kind(session),
            "client": session.client,
            "hostname": session.hostname,
            "last_seen_ms": (session.last_seen_ms != u64::MAX).then_some(session.last_seen_ms),
            "leases": session.leases,
            "opens": session.opens,
        })
    };
    let gauges: BTreeMap<&String, &u64> = report.gauges.iter().collect();
    json!({
        "cluster_id": context.conf.general.cluster_id,
        "cluster": cluster(report),
        "software": report.software,
        "leader": report.leader,
        "voters": report.voters,
        "uptime_ms": report.uptime_ms,
        "log_index": report.log_index,
        "feature_level": report.feature_level,
        "inodes": report.inodes,
        "files": report.files,
        "directories": report.directories,
        "capacity": report.capacity,
        "used": report.used,
        "available": report.available,
        "leases": report.leases,
        "garbage": report.garbage,
        "live_workers": report.workers.iter().filter(|worker| worker.live).count(),
        "workers": report.workers.iter().map(worker_json).collect::<Vec<_>>(),
        "sessions": report.sessions.iter().map(session).collect::<Vec<_>>(),
        "gauges": gauges,
    })
}
