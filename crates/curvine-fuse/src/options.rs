//! What a mount can be told. Every queue, pool and wait of the mount has its limit here.

use std::time::Duration;

use curvine_config::{ClusterConf, FuseConf};

/// Settings of one [`crate::Mount`].
#[derive(Clone, Debug)]
pub struct FuseOptions {
    /// The directory of Curvine that becomes the root of the mount.
    pub fs_path: String,
    /// Let other users than the mounting one in.
    pub allow_other: bool,
    pub read_only: bool,
    /// Ignore setuid bits.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Refuse to execute files.
    pub noexec: bool,
    /// Threads that read requests.
    pub threads: usize,
    /// Each thread has its own descriptor of the session.
    pub clone_fd: bool,
    /// Bytes of the largest READ and WRITE.
    pub max_write: u32,
    /// Bytes that the kernel reads ahead.
    pub read_ahead: u64,
    /// Background requests in the kernel before it makes callers wait.
    pub max_background: u16,
    pub congestion_threshold: u16,
    /// Requests being served at which the mount stops reading more, except on one thread.
    pub requests_in_flight: usize,
    /// Bytes of requests being served, mostly data to be written; the same holds. Four times that is never exceeded.
    pub request_bytes: usize,
    /// Open files and directories at once.
    pub open_files: usize,
    /// Longest time that the kernel may believe an attribute or a name without asking.
    pub max_ttl: Duration,
    /// How long a request goes on after a signal that does not kill its process.
    pub interrupt_grace: Duration,
    /// How long unmounting waits for what is in flight and for files that are still open.
    pub drain_timeout: Duration,
    /// How old the numbers of `statfs` may get.
    pub statfs_interval: Duration,
    /// How long an answer about the root waits for the cluster before the last known one is given.
    pub root_timeout: Duration,
    /// How long a recall waits for the kernel to drop pages that are being read or written just now.
    pub invalidate_timeout: Duration,
    /// Highest minor version of the kernel's protocol that is spoken.
    pub abi_minor_max: u32,
    /// Page invalidations that wait for the kernel at once.
    pub invalidations_in_flight: usize,
    /// Let the kernel read and write local files by itself.
    pub passthrough: bool,
    /// Bytes of a file for which that is worth while.
    pub passthrough_min_size: u64,
    /// Bytes of the largest file that is there already and is written so.
    pub passthrough_rewrite_max: u64,
    pub passthrough_writes: PassthroughWrites,
}

/// Which new files the kernel writes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassthroughWrites {
    /// Those of a directory in which the last new file became large.
    Auto,
    Always,
    Never,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            fs_path: "/".into(),
            allow_other: true,
            read_only: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            threads: std::thread::available_parallelism().map_or(4, |cores| cores.get()).clamp(2, 8),
            clone_fd: true,
            max_write: 1 << 20,
            read_ahead: 4 << 20,
            max_background: 256,
            congestion_threshold: 192,
            requests_in_flight: 4096,
            request_bytes: 64 << 20,
            open_files: 1 << 20,
            max_ttl: Duration::from_secs(10),
            interrupt_grace: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(10),
            statfs_interval: Duration::from_secs(5),
            root_timeout: Duration::from_secs(1),
            invalidate_timeout: Duration::from_secs(2),
            abi_minor_max: curvine_fuse_abi::kernel::MINOR,
            invalidations_in_flight: 1024,
            passthrough: true,
            passthrough_min_size: 128 << 10,
            passthrough_rewrite_max: 1 << 30,
            passthrough_writes: PassthroughWrites::Auto,
        }
    }
}

impl From<&ClusterConf> for FuseOptions {
    fn from(conf: &ClusterConf) -> Self {
        Self::from(&conf.fuse)
    }
}

impl From<&FuseConf> for FuseOptions {
    /// The config's own checks have refused what cannot work.
    fn from(conf: &FuseConf) -> Self {
        let default = Self::default();
        let mut options = Self {
            fs_path: conf.fs_path.clone(),
            allow_other: conf.allow_other,
            read_only: conf.readonly,
            threads: if conf.io_threads == 0 { default.threads } else { conf.io_threads },
            clone_fd: conf.clone_fd,
            read_ahead: conf.read_ahead,
            max_background: conf.max_background,
            congestion_threshold: conf.congestion_threshold,
            requests_in_flight: conf.requests_in_flight,
            request_bytes: usize::try_from(conf.memory_limit).unwrap_or(usize::MAX),
            open_files: conf.open_files,
            max_ttl: conf.entry_timeout_ms.min(conf.attr_timeout_ms),
            interrupt_grace: conf.interrupt_grace,
            drain_timeout: conf.drain_timeout,
            statfs_interval: conf.statfs_interval,
            passthrough: conf.passthrough,
            passthrough_min_size: conf.passthrough_min_size,
            passthrough_rewrite_max: conf.passthrough_rewrite_max,
            passthrough_writes: match conf.passthrough_writes.as_str() {
                "always" => PassthroughWrites::Always,
                "never" => PassthroughWrites::Never,
                _ => PassthroughWrites::Auto,
            },
            abi_minor_max: match conf.abi_minor_max {
                0 => default.abi_minor_max,
                minor => u32::try_from(minor).unwrap_or(u32::MAX),
            },
            ..default
        };
        // As with mount(8), the last of two that contradict each other holds.
        for option in &conf.fuse_opts {
            match option.as_str() {
                "ro" => options.read_only = true,
                "rw" => options.read_only = false,
                "nosuid" => options.nosuid = true,
                "suid" => options.nosuid = false,
                "nodev" => options.nodev = true,
                "dev" => options.nodev = false,
                "noexec" => options.noexec = true,
                "exec" => options.noexec = false,
                "allow_other" => options.allow_other = true,
                // Always on.
                _ => {}
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_contradicting_mount_options_holds() {
        let conf = FuseConf {
            fuse_opts: ["ro", "nosuid", "rw", "noexec", "default_permissions"].map(String::from).to_vec(),
            readonly: true,
            ..FuseConf::default()
        };
        let options = FuseOptions::from(&conf);
        assert_eq!((options.read_only, options.nosuid, options.noexec, options.nodev), (false, true, true, false));
    }

    #[test]
    fn the_defaults_of_the_config_are_those_of_the_mount() {
        let (from_conf, own) = (FuseOptions::from(&FuseConf::default()), FuseOptions::default());
        assert_eq!(format!("{from_conf:?}"), format!("{own:?}"));
    }

    #[test]
    fn the_kernel_believes_nothing_longer_than_the_smaller_timeout() {
        let conf = FuseConf { attr_timeout_ms: Duration::from_secs(3), ..FuseConf::default() };
        assert_eq!(FuseOptions::from(&conf).max_ttl, Duration::from_secs(3));
    }
}
