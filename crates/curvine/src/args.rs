//! What can be typed. The texts here are the `--help` pages.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::roles::fluid::args::FluidCommand;

mod bench;
mod fs;
mod insight;
mod jobs;
mod trash;
mod ufs_mount;

pub use bench::{BenchArgs, BenchCommand, BenchRemoteArgs, BenchShowArgs};
pub use fs::{FsCommand, GetArgs, LsArgs, PutArgs};
pub use insight::{QuotaCommand, StatsArgs};
pub use jobs::{JobCommand, LoadArgs, TreeArgs};
pub use trash::{TrashCommand, TtlActionName, TtlCommand};
pub use ufs_mount::UfsMountArgs;

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// Config file; else the one that CURVINE_CONF_FILE names, else built-in defaults
    #[arg(long, value_name = "FILE", global = true)]
    pub conf: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as info,curvine_rpc=debug
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,
    /// Shape of log lines
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<Format>,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Which cluster a tool asks, and how it answers.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of the tools")]
pub struct Target {
    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    /// Ask these masters instead of those of the config file
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', global = true)]
    pub master_addrs: Vec<String>,
}

/// Curvine, a distributed cache file system: a POSIX tree whose content lives in an object store, read at the speed of local
/// disks and memory.
///
/// Try it on this machine, without any configuration:
///
///   curvine standalone --data /tmp/curvine --mount /tmp/mnt
#[derive(Parser, Debug)]
#[command(name = "curvine", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Curvine {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    pub command: CurvineCommand,
}

#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum CurvineCommand {
    /// Run a master: names, attributes, placement, sessions
    Master,
    /// Run a worker: keeps file data on this machine's disks and fetches it from under file systems
    Worker,
    /// Mount the file system here and serve it until SIGTERM or Ctrl-C
    Mount(MountArgs),
    /// Run master, worker and mount in this one process, without a config file
    Standalone(StandaloneArgs),
    /// Run as a component of Fluid's CacheRuntime, or answer what Fluid asks
    Fluid {
        #[command(subcommand)]
        command: FluidCommand,
    },
    /// Print what the config file may say, or check one
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The operator's tool with all its commands, also reachable under the name `cv`
    Cv {
        #[command(subcommand)]
        command: CvCommand,
    },
    #[command(flatten)]
    Tool(ToolCommand),
    /// The process that serves a mount; its supervisor starts it
    #[command(hide = true)]
    ServeMount,
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
}

/// The operator's tool of Curvine.
///
/// It asks the cluster of the config file (--conf, or CURVINE_CONF_FILE).
/// Exit codes: 0 done, 1 failed, 2 typed wrongly.
#[derive(Parser, Debug)]
#[command(name = "cv", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cv {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    pub command: CvCommand,
}

#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum CvCommand {
    /// Bind a directory or bucket to a path of Curvine; without arguments: print the mount table
    Mount(UfsMountArgs),
    #[command(flatten)]
    Tool(ToolCommand),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
}

#[derive(Subcommand, Debug)]
pub enum ToolCommand {
    /// Files and directories
    Fs {
        #[command(subcommand)]
        command: FsCommand,
    },
    /// Take an under file system off a path of Curvine; nothing in the store is touched
    Umount {
        /// Path of Curvine, as the mount table shows it
        path: String,
        /// Also while files wait to be uploaded: what is only in Curvine is lost. What is in the trash stays in the store
        #[arg(long)]
        force: bool,
    },
    /// Bring files of an under file system into the cache
    Load(LoadArgs),
    /// Bring files that wait for their upload into their stores now
    Export(TreeArgs),
    /// Drop what is cached of files that their stores have
    Free(TreeArgs),
    /// Work that the master does: loads, exports, frees
    Job {
        #[command(subcommand)]
        command: JobCommand,
    },
    /// The state of the cluster
    Report {
        /// What of it
        #[arg(default_value = "summary")]
        what: ReportKind,
    },
    /// Show what the workers do now, a line for each interval
    Stats(StatsArgs),
    /// Tell where the bytes of a file are, how old its attributes are, and how the kernel reads it here
    ///
    /// Exit codes: 0 all of it can be read; 3 some of its bytes cannot; 1 it could not be found out.
    Stat {
        /// A path on a mount of this machine, or a path of Curvine; cv://PATH is always the latter
        path: String,
    },
    /// Keep what is cached of files, or of all below directories, whoever needs room; cv load brings it into the cache
    Pin {
        /// Paths of Curvine
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Let go what was pinned
    Unpin {
        /// Paths of Curvine, as `cv pins` shows them
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Show what is pinned
    Pins,
    /// Limit what may be below directories
    Quota {
        #[command(subcommand)]
        command: QuotaCommand,
    },
    /// How long files, or what is cached of them, live
    Ttl {
        #[command(subcommand)]
        command: TtlCommand,
    },
    /// What was removed through mounts of stores, and can be had back
    Trash {
        #[command(subcommand)]
        command: TrashCommand,
    },
    /// Check this machine and its cluster, and say what to do about what is wrong
    ///
    /// Each check has a deadline. Exit codes: 0 all is well; 3 something is wrong; 4 nothing is wrong, but something could be better.
    Doctor,
    /// Check that the metadata is sound and that the workers hold what it names, on the running cluster
    ///
    /// Exit codes: 0 all is well; 3 something is wrong; 4 nothing wrong was found, but not everything could be checked; 1 it could not run.
    Fsck,
    /// Take the metadata out of a directory that no master works on, make a fresh directory of it, or have it written now
    Meta {
        #[command(subcommand)]
        command: MetaCommand,
    },
    /// Measure mounts against a local directory, and the library against the cluster
    Bench(Box<BenchArgs>),
    /// The workers: list them, take one out of service, take it back
    Node {
        /// List them (what happens anyway)
        #[arg(long)]
        list: bool,
        #[command(subcommand)]
        command: Option<NodeCommand>,
    },
}

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Take workers out of service: nothing new goes there, and what only they have is moved to other workers or into the stores
    ///
    /// They may be stopped for good when nothing is left. The state outlives restarts of masters and workers. Files that processes of
    /// the worker's machine have open are moved when they are closed. Exit code 3: --wait is over and something is left.
    Decommission {
        /// Numbers, or addresses as `cv node` shows them
        #[arg(required = true)]
        workers: Vec<String>,
        /// Wait until nothing is left, for at most so long
        #[arg(long, value_name = "DURATION")]
        wait: Option<String>,
    },
    /// Take workers back into service
    Recommission {
        /// Numbers, or addresses as `cv node` shows them
        #[arg(required = true)]
        workers: Vec<String>,
    },
}

#[derive(Subcommand, Debug)]
pub enum MetaCommand {
    /// Write all metadata as JSON lines; of a damaged directory, what can be read, with a list of what cannot
    ///
    /// Exit code 3 if anything was lost.
    Dump {
        /// Directory of the master, which must not be running; else [journal] journal_dir
        #[arg(long, value_name = "DIR")]
        journal_dir: Option<PathBuf>,
        /// Where to; else standard output. It holds the secrets of mounts, so only its owner may read it
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a fresh directory of what `cv meta dump` wrote, of the same cluster, for one master
    Load {
        /// Directory to be made; it must not be there, or be empty; else [journal] journal_dir
        #[arg(long, value_name = "DIR")]
        journal_dir: Option<PathBuf>,
        /// What was dumped; -: standard input
        input: PathBuf,
    },
    /// Have the running master write a snapshot of the metadata now, so that its next start reads no log before it
    Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportKind {
    /// What matters, for people
    Summary,
    /// Everything, as JSON
    Json,
    /// With sessions and gauges
    All,
    /// Bytes that the workers may hold
    Capacity,
    /// Bytes that they hold
    Used,
    /// Bytes that they could still take
    Available,
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print the reference of all keys, as in docs/CONFIGURATION.md
    Reference,
    /// Print the reference of all metrics, as in docs/METRICS.md
    Metrics,
    /// Read the config file, report what is wrong with it, and print what differs from the defaults
    Check,
}

/// Mount the file system here and serve it until SIGTERM or Ctrl-C.
#[derive(Args, Debug, Default)]
pub struct MountArgs {
    /// Where to mount; else [fuse] mnt_path. It is made if it is not there, a dead mount on it is taken off, and what is in it
    /// stays as it is, covered by the mount
    #[arg(long, value_name = "DIR")]
    pub mnt_path: Option<PathBuf>,
    /// Directory of Curvine that becomes the root of the mount; else [fuse] fs_path
    #[arg(long, value_name = "PATH")]
    pub fs_path: Option<String>,
    /// Options of the mount: ro, nosuid, nodev, noexec, allow_other
    #[arg(short = 'o', long = "option", value_name = "OPTION", value_delimiter = ',')]
    pub options: Vec<String>,
    /// Serve all reads and writes here, as on kernels before 6.9, instead of letting the kernel use local files by itself
    #[arg(long)]
    pub no_passthrough: bool,
    /// Replace the running mount at --mnt-path by this version of the program; whoever uses it notices a pause and nothing else
    #[arg(long)]
    pub upgrade: bool,
    /// Go on as the supervisor that another version was; it does so by itself
    #[arg(long, hide = true, conflicts_with = "upgrade")]
    pub resume: bool,
}

/// `curvine mount` under its own name.
#[derive(Parser, Debug)]
#[command(
    name = "curvine-fuse",
    version,
    about = "Mount Curvine here and serve it until SIGTERM or Ctrl-C",
    max_term_width = 110
)]
pub struct FuseName {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub mount: MountArgs,
}

/// `curvine master` and `curvine worker` under the name of old.
#[derive(Parser, Debug)]
#[command(name = "curvine-server", version, about = "Run a master or a worker of Curvine", max_term_width = 110)]
pub struct ServerName {
    #[command(flatten)]
    pub common: Common,
    /// Which of them
    #[arg(long)]
    pub service: Option<Service>,
    #[command(subcommand)]
    pub command: Option<Service>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Subcommand)]
pub enum Service {
    /// Run a master
    Master,
    /// Run a worker
    Worker,
}

/// Run master, worker and mount in this one process, without a config file.
///
/// Everything is kept in --data: stop it and start it again with the same directory, and all files are there. A config file is
/// written there too, so that `cv --conf DIR/curvine-cluster.toml` works against it.
#[derive(Args, Debug)]
pub struct StandaloneArgs {
    /// Directory that keeps everything; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where to mount; without it nothing is mounted
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Under file system to show at a path of Curvine, such as s3://bucket/prefix=/data or ./folder=/data
    #[arg(long, value_name = "URL=/PATH")]
    pub ufs: Vec<String>,
    /// Option of the under file systems, such as endpoint_url=http://localhost:9000; a value @FILE is read from the file
    #[arg(short = 'o', long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Most bytes of file data kept on disk, such as 10GB; else what the disk has
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<String>,
    /// Port of the master on the loopback interface; else the one of the last time, else a free one
    #[arg(long, value_name = "PORT")]
    pub master_port: Option<u16>,
    /// Port of the worker on the loopback interface
    #[arg(long, value_name = "PORT")]
    pub worker_port: Option<u16>,
}

#[cfg(test)]
#[path = "args_test.rs"]
mod tests;
