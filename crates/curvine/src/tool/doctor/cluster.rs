//! What can be wrong with the cluster, seen from here.

use std::time::Duration;

use curvine_client::{ClientOptions, Observer};
use curvine_config::ClusterConf;
use curvine_proto::{
    Empty, LogMode, Method, MountInfo, MountTableReply, MountTableRequest, ProbeMountRequest, ReportReply, Time,
    WorkerInfo, WorkerReportReply, WorkerReportRequest,
};
use curvine_types::units::format_size;
use curvine_types::{Error, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};

use super::{Finding, ok, warning, wrong};
use crate::tool::output::age_text;
use crate::wiring;

/// Each question ends before its check does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks that are apart so far make times of files surprising.
const SKEW_WARNING: f64 = 1.0;
/// Stores refuse requests that are signed by a clock so far off.
const SKEW_WRONG: f64 = 300.0;
/// A leader that a majority has not answered for longer is of no use.
const MAJORITY_LOST_MS: u64 = 3000;
/// Stores asked at most, over workers and mounts.
const STORES_MAX: usize = 64;

pub fn checks(conf: &ClusterConf) -> Vec<(&'static str, BoxFuture<'_, Vec<Finding>>)> {
    vec![
        ("masters", masters(conf).boxed()),
        ("log", log(conf).boxed()),
        ("workers", workers(conf).boxed()),
        ("stores", stores(conf).boxed()),
    ]
}

fn observer(conf: &ClusterConf, masters: Option<&str>) -> Result<Observer> {
    let options = wiring::tool_client(conf)?;
    let master_addrs = masters.map_or(options.master_addrs.clone(), |one| vec![one.to_string()]);
    Observer::new(&ClientOptions { master_addrs, ..options }, PATIENCE)
}

/// Whether each master can be reached from here.
async fn masters(conf: &ClusterConf) -> Vec<Finding> {
    const CHECK: &str = "masters";
    let ask = |address: String| async move {
        let began = std::time::Instant::now();
        let answered = match observer(conf, Some(&address)) {
            Ok(observer) => observer.ping_master().await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(()) => ok(CHECK, format!("{address} answers after {} ms", began.elapsed().as_millis())),
            Err(error) => wrong(CHECK, format!("{address}: {error}"), advice_for(&error)),
        }
    };
    join_all(conf.client.master_addrs.iter().cloned().map(ask)).await
}

fn advice_for(error: &Error) -> String {
    use curvine_types::ErrorKind::*;
    match error.kind() {
        Unauthenticated => "the secret here is not that of the cluster: compare [security] secret_file",
        Foreign => "another cluster answers at this address",
        _ => "is the process running, the address right, the port open ([master] rpc_port)?",
    }
    .to_string()
}

/// Who leads, whether changes are taken, whether the others keep up, and its clock.
async fn log(conf: &ClusterConf) -> Vec<Finding> {
    const CHECK: &str = "log";
    let before = Time::now();
    let report = match observer(conf, None) {
        Ok(observer) => observer.report().await,
        Err(error) => Err(error),
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![wrong(CHECK, error.to_string(), advice_for(&error))],
    };
    let mut findings = vec![state_of_log(CHECK, &report)];
    if let Some(error) = report.log.as_ref().map(|log| &log.snapshot_error).filter(|error| !error.is_empty()) {
        findings.push(warning(
            CHECK,
            format!("no snapshot can be taken: {error}"),
            "make room for one; the log grows until then",
        ));
    }
    let learners = report.members.iter().filter(|member| !member.voter);
    findings.extend(learners.map(|member| {
        let advice = "wait until it has caught up; if it does not, look at its log";
        warning(CHECK, format!("{} is no voter yet", member.address), advice)
    }));
    findings.extend(skew("the master", report.wall_clock, before, Time::now()));
    findings
}

fn state_of_log(check: &'static str, report: &ReportReply) -> Finding {
    if report.leader.is_empty() {
        return wrong(
            check,
            format!("no leader among {} voters", report.voters),
            "start the masters that are down: a majority must run",
        );
    }
    let log = report.log.clone().unwrap_or_default();
    if log.majority_age_ms > MAJORITY_LOST_MS {
        let text =
            format!("the leader has no majority since {}: nothing is acknowledged", age_text(log.majority_age_ms));
        return wrong(check, text, "start the masters that are down, or mend the network between them");
    }
    match log.mode() {
        LogMode::ReadOnly => {
            wrong(check, format!("read-only: {}", log.reason), "make room on the disk of journal.journal_dir")
        }
        LogMode::Failed => {
            wrong(check, format!("failed: {}", log.reason), "remove the cause and start the master again")
        }
        _ => ok(check, format!("{} leads {} voters and takes changes", report.leader, report.voters)),
    }
}

/// How far a clock is off, by more than the question took; `None`: it did not say.
fn skew(who: &str, clock: Option<Time>, before: Time, after: Time) -> Option<Finding> {
    const CHECK: &str = "clocks";
    let seconds = |time: &Time| time.sec as f64 + f64::from(time.nsec) / 1e9;
    let (clock, before, after) = (seconds(&clock?), seconds(&before), seconds(&after));
    let off = if clock < before { clock - before } else { (clock - after).max(0.0) };
    let text = format!("{who} is {:.1} s {} this machine", off.abs(), if off < 0.0 { "behind" } else { "ahead of" });
    let advice = "run a time service (chrony, systemd-timesyncd) on both machines";
    Some(match off.abs() {
        off if off > SKEW_WRONG => {
            wrong(CHECK, text, format!("{advice}; object stores refuse requests of such a clock"))
        }
        off if off > SKEW_WARNING => warning(CHECK, text, advice),
        _ => ok(CHECK, format!("{who} agrees with this machine")),
    })
}

/// Each worker and its tiers.
async fn workers(conf: &ClusterConf) -> Vec<Finding> {
    const CHECK: &str = "workers";
    let (observer, list) = match list(conf).await {
        Ok(found) => found,
        Err(error) => return vec![wrong(CHECK, error.to_string(), advice_for(&error))],
    };
    if list.is_empty() {
        return vec![wrong(CHECK, "none has ever registered", "start one: curvine worker")];
    }
    join_all(list.iter().map(|worker| look_at(CHECK, &observer, worker))).await.into_iter().flatten().collect()
}

async fn list(conf: &ClusterConf) -> Result<(Observer, Vec<WorkerInfo>)> {
    let observer = observer(conf, None)?;
    let list = observer.workers().await?;
    Ok((observer, list))
}

async fn look_at(check: &'static str, observer: &Observer, worker: &WorkerInfo) -> Vec<Finding> {
    let name = format!("worker {} ({})", worker.id, worker.address);
    if !worker.live {
        let text = format!("{name} is lost, last seen {}", age_text(worker.last_seen_ms));
        return vec![wrong(
            check,
            text,
            "start it again with its directories; files that only it has cannot be read until then",
        )];
    }
    let before = Time::now();
    let reply: WorkerReportReply = match observer.worker(worker, Method::WorkerReport, &WorkerReportRequest {}).await {
        Ok(reply) => reply,
        Err(error) => {
            let advice = "the master hears it but this machine cannot reach it: check names, routes and firewalls for its RPC port";
            return vec![wrong(check, format!("{name}: {error}"), advice)];
        }
    };
    let mut findings = vec![ok(check, format!("{name} answers"))];
    for tier in &reply.tiers {
        let text = format!(
            "{name} {} {}: {} of {} available",
            tier.kind,
            tier.dir,
            format_size(tier.available),
            format_size(tier.capacity)
        );
        findings.push(if tier.state != "ok" {
            wrong(
                "tiers",
                format!("{name} {}: {}", tier.dir, tier.state),
                "look at the disk (dmesg); the directory comes back by itself when it works",
            )
        } else if tier.available.saturating_mul(20) < tier.capacity {
            warning(
                "tiers",
                text,
                "add a data_dir or a worker, or free something: what is left is data without another copy",
            )
        } else {
            ok("tiers", text)
        });
    }
    findings.extend(skew(&name, reply.wall_clock, before, Time::now()));
    findings
}

/// Whether the workers reach the stores of the mount table.
async fn stores(conf: &ClusterConf) -> Vec<Finding> {
    const CHECK: &str = "stores";
    let asked = async {
        let (observer, list) = list(conf).await?;
        let table: MountTableReply = observer.master(Method::MountTable, &MountTableRequest {}).await?;
        Ok::<_, Error>((observer, list, table.mounts))
    };
    let (observer, workers, mounts) = match asked.await {
        Ok(asked) => asked,
        Err(error) => return vec![wrong(CHECK, error.to_string(), advice_for(&error))],
    };
    if mounts.is_empty() {
        return vec![ok(CHECK, "no under file system is mounted")];
    }
    let live: Vec<&WorkerInfo> = workers.iter().filter(|worker| worker.live).collect();
    let pairs = mounts.iter().flat_map(|mount| live.iter().map(move |worker| (mount, *worker))).take(STORES_MAX);
    join_all(pairs.map(|(mount, worker)| reach(CHECK, &observer, mount, worker))).await
}

async fn reach(check: &'static str, observer: &Observer, mount: &MountInfo, worker: &WorkerInfo) -> Finding {
    let request = ProbeMountRequest { mount: mount.id, mount_change: mount.change };
    let name = format!("{} at {} from worker {}", mount.url, String::from_utf8_lossy(&mount.path), worker.id);
    match observer.worker::<_, Empty>(worker, Method::ProbeMount, &request).await {
        Ok(_) => ok(check, format!("{name} answers")),
        Err(error) => {
            let advice = "what is cached stays readable; check endpoint, credentials and network of the worker";
            wrong(check, format!("{name}: {error}"), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn only_what_the_question_cannot_explain_is_skew() {
        let at = |sec| Time::new(sec, 0);
        let state = |clock| skew("x", Some(at(clock)), at(100), at(105)).map(|finding| finding.state);
        assert_eq!(state(103), Some(State::Ok));
        assert_eq!((state(97), state(108)), (Some(State::Warning), Some(State::Warning)));
        assert_eq!(state(100_000), Some(State::Wrong));
        assert!(skew("x", None, at(1), at(2)).is_none());
    }

    #[test]
    fn a_log_that_takes_no_changes_is_wrong() {
        let of = |mode: LogMode, leader: &str, age: u64| {
            let log = curvine_proto::LogHealth { mode: mode as i32, majority_age_ms: age, ..Default::default() };
            state_of_log("log", &ReportReply { leader: leader.into(), log: Some(log), ..Default::default() }).state
        };
        assert_eq!(of(LogMode::Working, "m:1", 0), State::Ok);
        assert_eq!(of(LogMode::Working, "", 0), State::Wrong);
        assert_eq!(of(LogMode::ReadOnly, "m:1", 0), State::Wrong);
        assert_eq!(of(LogMode::Working, "m:1", 10_000), State::Wrong);
    }
}
