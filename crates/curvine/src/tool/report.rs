//! `cv report`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use curvine_client::Observer;
use curvine_config::ClusterConf;
use curvine_proto::{LogHealth, LogMode, ReportReply, SessionInfo, SessionKind, WorkerInfo};
use curvine_types::units::format_size;
use curvine_types::{ClusterId, Result};
use serde_json::{Value, json};

use super::node::{sum, worker_json};
use super::output::{age_text, say, say_json};
use super::store_report;
use crate::args::ReportKind;

/// Prints the state of the cluster.
pub async fn run(observer: &Observer, conf: &ClusterConf, as_json: bool, what: ReportKind) -> Result<ExitCode> {
    let report = observer.report().await?;
    match what {
        _ if as_json => say_json(&json(conf, &report))?,
        ReportKind::Json => say_json(&json(conf, &report))?,
        ReportKind::Summary => say(&summary(conf, &report))?,
        ReportKind::All => say(&format!("{}\n{}", summary(conf, &report), rest(&report)))?,
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

fn summary(conf: &ClusterConf, report: &ReportReply) -> String {
    let live = report.workers.iter().filter(|worker| worker.live).count();
    let lost = report.workers.len() - live;
    let mounts = report.sessions.iter().filter(|session| session.kind() == SessionKind::Mount).count();
    let mut lines = vec![
        format!("cluster      {} ({})", conf.general.cluster_id, cluster(report)),
        master(report),
        format!("log          {}", log_text(report.log.as_ref())),
        format!("capacity     {}", format_size(report.capacity)),
        format!("used         {}", format_size(report.used)),
        format!("available    {}", format_size(report.available)),
        format!("files        {}", report.files),
        format!("directories  {}", report.directories),
        format!("sessions     {} ({mounts} mounts)", report.sessions.len()),
        format!("workers      {live} live, {lost} lost"),
    ];
    for worker in &report.workers {
        lines.extend(failed_tiers(worker));
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
    lines.extend(store_report::lines(report));
    lines.join("\n")
}

/// A leader that a majority has not answered for longer is of no use.
const MAJORITY_LOST_MS: u64 = 3000;

fn master(report: &ReportReply) -> String {
    if report.leader.is_empty() {
        return format!("master       NO LEADER, {} voters, version {}", report.voters, report.software);
    }
    let age = report.log.as_ref().map_or(0, |log| log.majority_age_ms);
    if age > MAJORITY_LOST_MS {
        let (leader, voters, age) = (&report.leader, report.voters, age_text(age));
        return format!(
            "master       {leader} is WITHOUT A MAJORITY of {voters} voters since {age}: nothing is acknowledged"
        );
    }
    let (leader, voters, up) = (&report.leader, report.voters, age_text(report.uptime_ms));
    format!("master       {leader} leads {voters} voters, version {}, up {up}", report.software)
}

fn mode_name(log: Option<&LogHealth>) -> &'static str {
    match log.map_or(LogMode::Unknown, LogHealth::mode) {
        LogMode::Working => "working",
        LogMode::ReadOnly => "read-only",
        LogMode::Failed => "failed",
        LogMode::Unknown => "unknown",
    }
}

/// What an operator must know of the log: whether it takes changes, and if not, why.
fn log_text(log: Option<&LogHealth>) -> String {
    let Some(log) = log else { return mode_name(None).to_string() };
    let mut text = match log.mode() {
        LogMode::ReadOnly => format!("READ-ONLY: {}; it takes changes again when there is room", log.reason),
        LogMode::Failed => format!("FAILED: {}; restart the master after the cause is removed", log.reason),
        _ => mode_name(Some(log)).to_string(),
    };
    if !log.snapshot_error.is_empty() {
        text.push_str(&format!("; NO SNAPSHOT: {}", log.snapshot_error));
    }
    text
}

fn failed_tiers(worker: &WorkerInfo) -> Vec<String> {
    let failed = worker.tiers.iter().filter(|tier| worker.live && tier.state != "ok" && !tier.state.is_empty());
    failed.map(|tier| format!("  {:<4} {}  {}", worker.id, tier.dir, tier.state)).collect()
}

fn rest(report: &ReportReply) -> String {
    let mut lines = vec!["masters".to_string()];
    for member in &report.members {
        let role = match (member.leader, member.voter) {
            (true, _) => "leader",
            (_, true) => "voter",
            _ => "learner",
        };
        lines.push(format!("  {role:<8} {}  node {:016x}", member.address, member.node));
    }
    lines.push("session list".to_string());
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

fn json(conf: &ClusterConf, report: &ReportReply) -> Value {
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
        "cluster_id": conf.general.cluster_id,
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
        "stats": store_report::json(report),
        "log": {
            "mode": mode_name(report.log.as_ref()),
            "reason": report.log.as_ref().map_or("", |log| log.reason.as_str()),
            "snapshot_error": report.log.as_ref().map_or("", |log| log.snapshot_error.as_str()),
            "applied": report.log.as_ref().map_or(0, |log| log.applied),
            "snapshot_index": report.log.as_ref().map_or(0, |log| log.snapshot_index),
            "majority_age_ms": report.log.as_ref().map_or(0, |log| log.majority_age_ms),
            "term": report.log.as_ref().map_or(0, |log| log.term),
        },
        "masters": report.members.iter().map(|member| json!({
            "node": format!("{:016x}", member.node),
            "address": member.address,
            "voter": member.voter,
            "leader": member.leader,
        })).collect::<Vec<_>>(),
    })
}
