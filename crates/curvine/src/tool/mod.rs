//! The operator's tool, `cv`.
//!
//! Each command connects a session of its own, asks, and closes it. The master checks what its user may do.

mod bench;
mod doctor;
pub mod fs;
mod fsck;
mod jobs;
mod meta;
mod mount_check;
pub mod mounts;
mod node;
pub mod output;
mod path;
mod pins;
mod progress;
mod quota;
mod report;
mod stat;
mod stats;
mod store_report;
mod trash;
mod ttl;
pub mod walk;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use curvine_client::{FileSystem, NoEvents, Observer};
use curvine_config::{ClusterConf, Role};
use curvine_types::{Error, ErrorKind, Result};
use serde_json::json;

use crate::args::{Common, ReportKind, StatsArgs, Target, ToolCommand, UfsMountArgs};
use crate::{logs, wiring};
use output::{say, say_json};

/// How long closing the session may take; what is left expires with its lease.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// What needs a cluster.
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Task {
    Mount(UfsMountArgs),
    Tool(ToolCommand),
}

/// What commands work with.
pub struct Context {
    pub fs: FileSystem,
    pub conf: ClusterConf,
    pub json: bool,
}

/// Connects, runs a command, closes.
pub async fn run(common: &Common, target: &Target, task: Task) -> Result<ExitCode> {
    if let Task::Tool(ToolCommand::Doctor) = &task {
        // A config that cannot be read is one of its findings.
        return doctor::run(common, target).await;
    }
    // In a pod of Fluid that is what its role runs with.
    let conf_file = common.conf.clone().or_else(crate::roles::fluid::conf_of_this_pod);
    let (mut conf, warnings) = ClusterConf::load(conf_file.as_deref())?;
    logs::start(common, &conf.cli.level, conf.log.format, logs::To::Error)?;
    // Whoever runs a server sees them there; here they would stand before every answer.
    for warning in warnings {
        tracing::debug!("{warning}");
    }
    if !target.master_addrs.is_empty() {
        conf.client.master_addrs = target.master_addrs.clone();
    }
    match task {
        Task::Tool(ToolCommand::Meta { command }) => meta::run(&conf, target.json, &command).await,
        Task::Tool(ToolCommand::Bench(arguments)) => bench::run(&conf, *arguments, target.json).await,
        task => run_with(conf, target.json, task).await,
    }
}

/// The same with a config that is there already.
pub async fn run_with(conf: ClusterConf, json: bool, task: Task) -> Result<ExitCode> {
    conf.check_role(Role::Client)?;
    if let Some(question) = Question::of(&task) {
        return question.ask(&conf, json).await;
    }
    let fs = connect(&conf).await?;
    let context = Context { fs, conf, json };
    let outcome = command(&context, task).await;
    if let Err(error) = context.fs.close(CLOSE_GRACE).await {
        tracing::debug!(%error, "the session is left to expire");
    }
    outcome
}

/// What is asked without a session, so that it is answered while the log takes no changes, too.
enum Question {
    Report(ReportKind),
    Workers,
    Check,
    Stats(StatsArgs),
}

impl Question {
    fn of(task: &Task) -> Option<Self> {
        match task {
            Task::Tool(ToolCommand::Report { what }) => Some(Self::Report(*what)),
            Task::Tool(ToolCommand::Node { command: None, .. }) => Some(Self::Workers),
            Task::Tool(ToolCommand::Fsck) => Some(Self::Check),
            Task::Tool(ToolCommand::Stats(arguments)) => Some(Self::Stats(arguments.clone())),
            _ => None,
        }
    }

    async fn ask(self, conf: &ClusterConf, json: bool) -> Result<ExitCode> {
        let observer = Observer::new(&wiring::tool_client(conf)?, conf.cli.connect_timeout)?;
        match self {
            Self::Report(what) => report::run(&observer, conf, json, what).await,
            Self::Workers => node::run(&observer, json).await,
            Self::Check => fsck::run(conf, json).await,
            Self::Stats(arguments) => stats::run(&observer, json, &arguments).await,
        }
    }
}

async fn connect(conf: &ClusterConf) -> Result<FileSystem> {
    let connecting = FileSystem::connect(wiring::tool_client(conf)?, Arc::new(NoEvents));
    tokio::time::timeout(conf.cli.connect_timeout, connecting).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::TimedOut, "no master answers; is it running, and is this its address?")
            .with("masters", conf.client.master_addrs.join(" "))
            .with("seconds", conf.cli.connect_timeout.as_secs_f64()))
    })
}

async fn command(context: &Context, task: Task) -> Result<ExitCode> {
    match task {
        Task::Mount(arguments) if arguments.url.is_none() => mounts::table(context).await,
        Task::Mount(arguments) => mounts::mount(context, &arguments).await,
        Task::Tool(ToolCommand::Umount { path, force }) => mounts::umount(context, &path, force).await,
        Task::Tool(ToolCommand::Fs { command }) => fs::run(context, command).await,
        Task::Tool(ToolCommand::Pin { paths }) => pins::set(context, &paths, false).await,
        Task::Tool(ToolCommand::Unpin { paths }) => pins::set(context, &paths, true).await,
        Task::Tool(ToolCommand::Pins) => pins::list(context).await,
        Task::Tool(ToolCommand::Ttl { command }) => ttl::run(context, command).await,
        Task::Tool(ToolCommand::Trash { command }) => trash::run(context, command).await,
        Task::Tool(ToolCommand::Quota { command }) => quota::run(context, command).await,
        Task::Tool(ToolCommand::Stat { path }) => stat::run(context, &path).await,
        Task::Tool(ToolCommand::Node { command: Some(command), .. }) => node::change(context, command).await,
        Task::Tool(ToolCommand::Load(arguments)) => jobs::load(context, arguments).await,
        Task::Tool(ToolCommand::Export(arguments)) => jobs::export(context, arguments).await,
        Task::Tool(ToolCommand::Free(arguments)) => jobs::free(context, arguments).await,
        Task::Tool(ToolCommand::Job { command }) => jobs::job(context, command).await,
        Task::Tool(
            ToolCommand::Report { .. }
            | ToolCommand::Node { .. }
            | ToolCommand::Fsck
            | ToolCommand::Doctor
            | ToolCommand::Stats(_)
            | ToolCommand::Meta { .. }
            | ToolCommand::Bench(_),
        ) => Err(Error::new(ErrorKind::Internal, "a question without a session was asked under one")),
    }
}

/// Prints the version.
pub fn version(target: &Target) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    match target.json {
        true => say_json(&json!({ "name": "curvine", "version": version }))?,
        false => say(&format!("curvine {version}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Names each failure of several on standard error; the code says whether there was one.
#[derive(Default)]
pub struct Failures(usize);

impl Failures {
    /// Takes note of a failure.
    pub fn note(&mut self, what: &str, error: &curvine_types::Error) {
        self.0 += 1;
        eprintln!("{what}: {error}");
    }

    /// Takes note of it if it is one.
    pub fn check<T>(&mut self, what: &str, outcome: Result<T>) -> Option<T> {
        outcome.map_err(|error| self.note(what, &error)).ok()
    }

    pub fn count(&self) -> usize {
        self.0
    }

    pub fn code(&self) -> ExitCode {
        if self.0 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
