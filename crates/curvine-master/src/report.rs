//! What an operator sees of the master.

use std::collections::HashMap;

use curvine_proto::{LogHealth, LogMode, MasterMember, ReportReply, SessionInfo, TierInfo, Time, WorkerInfo};
use curvine_raft::{MemberAddress, Mode, Replica, Status};

use crate::leader::Leader;
use crate::state::MetaState;

fn log_health(status: &Status) -> LogHealth {
    let (mode, reason) = match &status.mode {
        Mode::Working => (LogMode::Working, String::new()),
        Mode::ReadOnly(reason) => (LogMode::ReadOnly, reason.clone()),
        Mode::Failed(reason) => (LogMode::Failed, reason.clone()),
    };
    let voters = status.members.iter().filter(|member| member.voter).count();
    LogHealth {
        mode: mode as i32,
        reason,
        snapshot_error: status.snapshot_error.clone().unwrap_or_default(),
        applied: status.applied,
        snapshot_index: status.snapshot_index,
        term: status.term,
        majority_age_ms: if voters > 1 { status.majority_age.as_millis() as u64 } else { 0 },
    }
}

fn members(status: &Status) -> Vec<MasterMember> {
    let member = |member: &curvine_raft::Member| MasterMember {
        node: member.node,
        address: MemberAddress::parse(&member.address).log,
        voter: member.voter,
        leader: member.node == status.leader.leader,
    };
    status.members.iter().map(member).collect()
}

/// What a master that does not lead can tell: of itself and of the replicated state as far as it has come.
pub(crate) fn of_follower(replica: &Replica<MetaState>) -> ReportReply {
    let status = replica.status();
    let (cluster, feature_level, counts) = {
        let state = replica.state().read();
        (state.0.cluster(), state.0.feature_level(), state.0.counts())
    };
    ReportReply {
        cluster: cluster.map(|cluster| cluster.0.to_vec().into()).unwrap_or_default(),
        software: env!("CARGO_PKG_VERSION").to_string(),
        inodes: counts.inodes,
        files: counts.files,
        directories: counts.directories,
        log_index: status.applied,
        feature_level: u64::from(feature_level),
        leader: status.leader.address.clone(),
        voters: status.members.iter().filter(|member| member.voter).count() as u32,
        log: Some(log_health(&status)),
        members: members(&status),
        wall_clock: Some(Time::now()),
        ..ReportReply::default()
    }
}

impl Leader {
    pub(crate) fn report(&self) -> ReportReply {
        let (cluster, feature_level, counts, sessions, workers) = {
            let state = self.replica.state().read();
            (state.0.cluster(), state.0.feature_level(), state.0.counts(), state.0.sessions(), state.0.workers())
        };
        let workers = self.workers.list(workers);
        let sum = |of: fn(&TierInfo) -> u64| {
            let live = workers.iter().filter(|worker: &&WorkerInfo| worker.live);
            live.flat_map(|worker| &worker.tiers).map(of).sum()
        };
        let session = |record: curvine_namespace::SessionRecord| {
            let (leases, opens) = self.coherence.counts_of(record.id);
            SessionInfo {
                session: record.id,
                kind: record.kind as i32,
                client: record.client,
                hostname: record.hostname,
                last_seen_ms: self.sessions.last_heard(record.id).map_or(u64::MAX, |age| age.as_millis() as u64),
                leases: leases as u64,
                opens: opens as u64,
            }
        };
        let status = self.replica.status();
        let stats = self.workers.stats();
        let mut gauges = HashMap::from([
            ("leases".to_string(), self.coherence.lease_count() as u64),
            ("leases_limit".to_string(), self.options.lease_limit as u64),
            ("lock_waits".to_string(), self.lock_waits.len() as u64),
            ("seals_waiting".to_string(), self.seals_waiting() as u64),
            ("listings_running".to_string(), self.listings.count() as u64),
            ("ufs_seen".to_string(), self.ufs.len() as u64),
            ("log_bytes".to_string(), status.log_bytes),
            ("log_queue_commands".to_string(), status.queue_commands as u64),
            ("log_queue_bytes".to_string(), status.queue_bytes as u64),
            ("live_files".to_string(), counts.live),
            ("write_grants".to_string(), counts.grants),
            ("orphan_holds".to_string(), counts.orphan_holds),
            ("doomed_trees".to_string(), counts.doomed),
            ("trash".to_string(), counts.trash),
            ("inline_bytes".to_string(), counts.inline_bytes),
            ("locked_inodes".to_string(), counts.locked_inodes),
            ("sessions_ending".to_string(), counts.sessions_ending),
            ("clean_bytes".to_string(), sum(|tier| tier.clean)),
            ("cache_hits".to_string(), stats.cache_hits),
            ("cache_misses".to_string(), stats.cache_misses),
            ("ufs_bytes".to_string(), stats.ufs_bytes),
            ("jobs".to_string(), counts.jobs),
            ("jobs_running".to_string(), self.tasks.running() as u64),
            (
                "jobs_directories_queued".to_string(),
                self.tasks.queued.load(std::sync::atomic::Ordering::Relaxed) as u64,
            ),
            ("uploads_running".to_string(), self.uploads.running() as u64),
            ("apply_longest_us".to_string(), status.holds.longest.as_micros() as u64),
            ("apply_over_1ms".to_string(), status.holds.over_1ms),
        ]);
        let by_command = status.holds.longest_by_command.iter();
        gauges.extend(by_command.map(|(kind, took)| (format!("apply_longest_us.{kind}"), took.as_micros() as u64)));
        ReportReply {
            cluster: cluster.map(|cluster| cluster.0.to_vec().into()).unwrap_or_default(),
            software: env!("CARGO_PKG_VERSION").to_string(),
            inodes: counts.inodes,
            files: counts.files,
            directories: counts.directories,
            capacity: sum(|tier| tier.capacity),
            used: sum(|tier| tier.used),
            available: sum(|tier| tier.available),
            workers,
            sessions: sessions.into_iter().map(session).collect(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            log_index: status.applied,
            leases: self.coherence.lease_count() as u64,
            feature_level: u64::from(feature_level),
            leader: status.leader.address.clone(),
            voters: status.members.iter().filter(|member| member.voter).count() as u32,
            garbage: counts.garbage,
            gauges,
            log: Some(log_health(&status)),
            members: members(&status),
            stats: Some(stats),
            wall_clock: Some(Time::now()),
        }
    }
}
