//! Combinations of values that cannot work, and what a role must have.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use curvine_types::limits::{CHUNK_SIZE, RESULT_WINDOW};
use curvine_types::{Error, ErrorKind, Result};

use crate::conf::ClusterConf;

/// What a process is about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Master,
    Worker,
    /// A mount, or `cv`.
    Client,
}

/// Mount options that are known; each with what it does in `curvine-fuse`.
const FUSE_OPTIONS: [&str; 10] =
    ["ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "allow_other", "default_permissions"];

fn wrong(key: &str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message).with("key", key)
}

fn at_least(key: &str, have: u64, least: u64, what: &str) -> Result<()> {
    if have < least { Err(wrong(key, format!("must be at least {what}"))) } else { Ok(()) }
}

impl ClusterConf {
    /// Addresses without a port get that of their section. Of the lists, one says where the masters are as well as the other; empty
    /// ones become that of this file's own master.
    pub(crate) fn fill_addresses(&mut self) {
        let ports = [self.journal.rpc_port, self.master.rpc_port];
        for (addresses, port) in [&mut self.journal.journal_addrs, &mut self.client.master_addrs].into_iter().zip(ports)
        {
            addresses.iter_mut().filter(|text| text.ends_with(':')).for_each(|text| text.push_str(&port.to_string()));
        }
        if self.client.master_addrs.is_empty() {
            let hosts = self.journal.journal_addrs.iter().filter_map(|text| text.rsplit_once(':'));
            self.client.master_addrs = hosts.map(|(host, _)| format!("{host}:{}", self.master.rpc_port)).collect();
            self.client.master_addrs.dedup();
        }
        if self.client.master_addrs.is_empty() {
            self.client.master_addrs = vec![format!("{}:{}", self.master.hostname, self.master.rpc_port)];
        }
        if self.journal.journal_addrs.is_empty() {
            self.journal.journal_addrs = vec![format!("{}:{}", self.journal.hostname, self.journal.rpc_port)];
        }
    }

    /// Checks what holds for all roles.
    pub fn validate(&self) -> Result<()> {
        let lease = self.master.lease_time;
        if lease < Duration::from_secs(1) || lease > Duration::from_secs(600) {
            return Err(wrong("master.lease_time", "must be from 1s to 10m"));
        }
        if self.master.block_size == 0 || !self.master.block_size.is_multiple_of(CHUNK_SIZE) {
            return Err(wrong("master.block_size", "must be a multiple of 1MB"));
        }
        at_least("master.memory_limit", self.master.memory_limit, 32 << 20, "32MB")?;
        at_least("worker.memory_limit", self.worker.memory_limit, 32 << 20, "32MB")?;
        at_least("client.memory_limit", self.client.memory_limit, 8 << 20, "8MB")?;
        at_least("fuse.memory_limit", self.fuse.memory_limit, 8 << 20, "8MB")?;
        at_least("journal.snapshot_log_size", self.journal.snapshot_log_size, 1 << 20, "1MB")?;
        if self.client.mutations_in_flight >= RESULT_WINDOW {
            return Err(wrong("client.mutations_in_flight", format!("must be below {RESULT_WINDOW}")));
        }
        if self.fuse.congestion_threshold > self.fuse.max_background {
            return Err(wrong("fuse.congestion_threshold", "must not exceed fuse.max_background"));
        }
        for (key, value) in [
            ("client.rpc_timeout_ms", self.client.rpc_timeout_ms),
            ("client.data_timeout_ms", self.client.data_timeout_ms),
            ("client.conn_timeout_ms", self.client.conn_timeout_ms),
            ("cli.connect_timeout", self.cli.connect_timeout),
            ("worker.ufs_timeout", self.worker.ufs_timeout),
            ("worker.master_timeout", self.worker.master_timeout),
        ] {
            if value.is_zero() {
                return Err(wrong(key, "must be above 0, every wait has a deadline"));
            }
        }
        if let Some(option) = self.fuse.fuse_opts.iter().find(|option| !FUSE_OPTIONS.contains(&option.as_str())) {
            return Err(wrong(
                "fuse.fuse_opts",
                format!("unknown mount option {option:?}, known: {}", FUSE_OPTIONS.join(" ")),
            ));
        }
        if self.worker.copy_percent > 100 {
            return Err(wrong("worker.copy_percent", "must be at most 100"));
        }
        if !["auto", "always", "never"].contains(&self.fuse.passthrough_writes.as_str()) {
            return Err(wrong("fuse.passthrough_writes", "must be auto, always or never"));
        }
        if !self.fuse.fs_path.starts_with('/') {
            return Err(wrong("fuse.fs_path", "must be an absolute path of Curvine"));
        }
        unique("client.master_addrs", &self.client.master_addrs)?;
        unique("journal.journal_addrs", &self.journal.journal_addrs)?;
        self.validate_data_dirs()
    }

    fn validate_data_dirs(&self) -> Result<()> {
        let dirs: Vec<&Path> = self.worker.data_dir.iter().map(|dir| dir.path.as_path()).collect();
        for (position, dir) in dirs.iter().enumerate() {
            for other in dirs.iter().skip(position + 1) {
                if dir.starts_with(other) || other.starts_with(dir) {
                    let message = "tier directories must not be the same or lie in each other";
                    return Err(wrong("worker.data_dir", message)
                        .with("dirs", format!("{} {}", dir.display(), other.display())));
                }
            }
        }
        let journal = &self.journal.journal_dir;
        if !journal.as_os_str().is_empty()
            && dirs.iter().any(|dir| journal.starts_with(dir) || dir.starts_with(journal))
        {
            return Err(wrong(
                "journal.journal_dir",
                "must not lie in a directory of worker.data_dir, nor the other way round",
            ));
        }
        Ok(())
    }

    /// Checks what a role cannot do without, its secret included.
    pub fn check_role(&self, role: Role) -> Result<()> {
        self.secret()?;
        let own_log = format!("{}:{}", self.journal.hostname, self.journal.rpc_port);
        match role {
            Role::Master if self.journal.journal_dir.as_os_str().is_empty() => {
                Err(wrong("journal.journal_dir", "a master needs a directory for its log"))
            }
            Role::Master if !matches!(self.journal.journal_addrs.len(), 1 | 3 | 5) => Err(wrong(
                "journal.journal_addrs",
                "name 1, 3 or 5 masters: an even number survives no more failures than one less",
            )),
            Role::Master if self.journal.journal_addrs.len() > 1 && !self.journal.journal_addrs.contains(&own_log) => {
                Err(wrong(
                    "journal.journal_addrs",
                    "must name this master, too, as journal.hostname and journal.rpc_port say it",
                )
                .with("address", own_log))
            }
            Role::Worker if self.worker.data_dir.is_empty() => {
                Err(wrong("worker.data_dir", "a worker needs a tier directory, such as [\"[SSD:100GB]/data1\"]"))
            }
            _ => Ok(()),
        }
    }
}

fn unique(key: &str, addresses: &[String]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match addresses.iter().find(|address| !seen.insert(*address)) {
        Some(address) => Err(wrong(key, format!("{address} is named twice"))),
        None => Ok(()),
    }
}
