//! `curvine fluid ...`: the roles and answers of a component of Fluid's CacheRuntime. What is decided is decided in
//! `curvine-kubernetes`; here it is wired to the roles and the tool.

pub mod args;
mod mount_ufs;
mod serve;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use curvine_client::{FileSystem, NoEvents};
use curvine_config::{ClusterConf, Role};
use curvine_kubernetes::janitor::Janitor;
use curvine_kubernetes::{Component, Identity, Settings, configure, detach, load, probe, runtime};
use curvine_types::units::parse_duration;
use curvine_types::{Error, ErrorKind, Result};

use crate::args::{Common, LoadArgs, ToolCommand};
use crate::signals::Stop;
use crate::tool::{self, Task};
use crate::{logs, wiring};
use args::FluidCommand;

/// The file with the config that a role runs with, in its run directory.
pub const CONF_FILE: &str = "curvine-cluster.toml";
/// How long a DataLoad may look for the master.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a command.
pub async fn run(common: &Common, command: FluidCommand) -> Result<ExitCode> {
    let identity = Identity::here();
    match command {
        FluidCommand::Master => serve::run(common, &identity, Component::Master).await?,
        FluidCommand::Worker => serve::run(common, &identity, Component::Worker).await?,
        FluidCommand::Client => serve::run(common, &identity, Component::Client).await?,
        FluidCommand::MountUfs { timeout } => {
            let patience = parse_duration(&timeout)?;
            answer(common, &identity, patience, |conf| async move {
                mount_ufs::run(&conf, &Identity::here(), patience).await
            })
            .await?;
        }
        FluidCommand::ReportSummary { timeout } => {
            let patience = parse_duration(&timeout)?;
            answer(common, &identity, patience, |conf| async move { summary::run(&conf, patience * 2 / 3).await })
                .await?;
        }
        FluidCommand::DataLoad => return data_load(common, &identity).await,
        FluidCommand::Probe { component, timeout } => {
            let component = component.map_or_else(|| identity.component(), Ok)?;
            let patience = parse_duration(&timeout)?;
            let conf = settings(common, &identity, Some(component))?.conf;
            match component {
                Component::Master => probe::master(&conf, patience).await?,
                Component::Worker => probe::worker(&conf, patience).await?,
                Component::Client => probe::client(&conf.fuse.mnt_path, patience)?,
            }
        }
        FluidCommand::Unmount { path, timeout } => {
            let path = path
                .or(identity.mount_path.clone())
                .ok_or_else(|| Error::new(ErrorKind::Config, "which path? name it, or set FLUID_RUNTIME_MOUNT_PATH"))?;
            logs::start(common, "info", Default::default(), logs::To::Error)?;
            let taken = detach::detach(&path, parse_duration(&timeout)?)?;
            tracing::info!(path = %path.display(), mounts = taken, "unmounted");
        }
        FluidCommand::Janitor { root, interval } => janitor(common, root, parse_duration(&interval)?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the role of this pod has left its config, if this is one of Fluid's pods with a role in it.
pub fn conf_of_this_pod() -> Option<PathBuf> {
    curvine_config::runs_under_fluid().then(|| Identity::here().run_dir.join(CONF_FILE)).filter(|path| path.exists())
}

/// The config that the role of this pod runs with, or else one made anew.
fn settings(common: &Common, identity: &Identity, component: Option<Component>) -> Result<Settings> {
    let own = identity.run_dir.join(CONF_FILE);
    if common.conf.is_none() && own.exists() {
        let (conf, warnings) = ClusterConf::load(Some(&own))?;
        return Ok(Settings { conf, warnings });
    }
    let runtime = identity.config_path.as_deref().map(runtime::read).transpose()?.flatten();
    configure(component, runtime.as_ref(), identity, common.conf.as_deref())
}

/// A command that is executed in the master's pod: its output is its answer, so the log goes to standard error; it ends by
/// itself, as those who execute it leave it running.
async fn answer<F: Future<Output = Result<()>>>(
    common: &Common,
    identity: &Identity,
    patience: Duration,
    work: impl FnOnce(ClusterConf) -> F,
) -> Result<()> {
    let Settings { conf, .. } = settings(common, identity, identity.component)?;
    logs::start(common, &conf.cli.level, conf.log.format, logs::To::Error)?;
    conf.check_role(Role::Client)?;
    tokio::time::timeout(patience, work(conf)).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::TimedOut, "not done in time; it goes on where it stopped when it is run again")
            .with("seconds", patience.as_secs_f64()))
    })
}

/// A session at the leader.
async fn connect(conf: &ClusterConf) -> Result<FileSystem> {
    FileSystem::connect(wiring::tool_client(conf)?, Arc::new(NoEvents)).await
}

async fn data_load(common: &Common, identity: &Identity) -> Result<ExitCode> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let request = load::Request::of(variable)?;
    let runtime = identity.config_path.as_deref().map(runtime::read).transpose()?.flatten();
    let Settings { mut conf, .. } = configure(None, runtime.as_ref(), identity, common.conf.as_deref())?;
    logs::start(common, "info", conf.log.format, logs::To::Error)?;
    if !identity.master.is_empty() {
        conf.client.master_addrs = vec![load::master_address(&identity.master, conf.master.rpc_port)?];
    } else if runtime.is_none()
        && identity.dataset.is_empty()
        && variable(curvine_config::CONF_FILE_VARIABLE).is_none()
        && common.conf.is_none()
    {
        conf.client.master_addrs = load::find_masters(identity, conf.master.rpc_port).await?;
    }
    conf.cli.connect_timeout = conf.cli.connect_timeout.max(CONNECT_TIMEOUT);
    if request.replicas.iter().any(|replicas| *replicas > 1) {
        tracing::warn!("this version keeps one cached copy of a block: more replicas have no effect");
    }
    tracing::info!(
        paths = request.paths.join(" "),
        metadata = request.metadata,
        masters = conf.client.master_addrs.join(" "),
        "loading"
    );
    let arguments =
        LoadArgs { paths: request.paths, watch: true, verify: false, detach: false, replicas: 1, parallel: None };
    tool::run_with(conf, false, Task::Tool(ToolCommand::Load(arguments))).await
}

async fn janitor(common: &Common, root: PathBuf, interval: Duration) -> Result<()> {
    logs::start(common, "info", Default::default(), logs::To::Output)?;
    let stop = Stop::listen()?;
    let mut janitor = Janitor::new(&root);
    tracing::info!(root = %root.display(), "looking after mounts");
    let stopped = stop.asked();
    tokio::pin!(stopped);
    loop {
        if let Err(error) = janitor.round() {
            tracing::warn!(%error, "this round failed");
        }
        tokio::select! {
            () = &mut stopped => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
    }
}
