//! The long-running roles: what the file of the runtime says becomes a config, which is left where the pod's other commands find
//! it, and the role runs with it.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use curvine_config::{ClusterConf, Role};
use curvine_kubernetes::{Component, Identity, Runtime, Settings, configure, detach, watch};
use curvine_types::{Error, Result};

use super::{CONF_FILE, mount_ufs};
use crate::args::Common;
use crate::signals::Stop;
use crate::{logs, roles};

/// How long a worker waits to be told its tiers. The older branch of Fluid describes a runtime only after its master is ready, and
/// the kubelet takes up to a minute and a half to pass it on.
const WORKER_PATIENCE: Duration = Duration::from_secs(120);
/// Of those who can do without.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at the files of credentials.
const RETRY: Duration = Duration::from_secs(10);
/// Between two attempts to make the mount table what the file says.
const SOON: Duration = Duration::from_secs(3);
/// How long one of them may take.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a component until a signal.
pub async fn run(common: &Common, identity: &Identity, component: Component) -> Result<()> {
    let identity = Identity { component: Some(component), ..identity.clone() };
    let identity = &identity;
    // The log of the waiting is of use too; its level is known only afterwards.
    let early = std::env::var("CURVINE_LOG_LEVEL").unwrap_or_else(|_| "info".to_string());
    logs::start(common, &early, Default::default(), logs::To::Output)?;
    // The first process of a container is deaf to signals that it has not asked for.
    let runtime = tokio::select! {
        runtime = described(common, identity, component) => runtime?,
        () = Stop::listen()?.asked() => return Ok(()),
    };
    let Settings { conf, warnings } = configure(Some(component), runtime.as_ref(), identity, common.conf.as_deref())?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let role = match component {
        Component::Master => Role::Master,
        Component::Worker => Role::Worker,
        Component::Client => Role::Client,
    };
    roles::check(&conf, role)?;
    if let Err(error) = leave_conf(&identity.run_dir, &conf) {
        tracing::warn!(%error, "the config of this pod is not left for its other commands");
    }
    let watching = tokio::spawn(follow(identity.clone(), component, runtime, conf.clone()));
    let outcome = match component {
        Component::Master => roles::master::serve(&conf).await,
        Component::Worker => {
            if let Some(dir) = &identity.socket_dir {
                let _ = std::fs::create_dir_all(dir);
            }
            roles::worker::serve(&conf, true).await
        }
        Component::Client => {
            detach::check_volume(&conf.fuse.mnt_path)?;
            roles::mount::supervised(conf, common).await
        }
    };
    watching.abort();
    outcome
}

/// What the file says, as soon as it says something. Without it a master and a client go by their environment.
async fn described(common: &Common, identity: &Identity, component: Component) -> Result<Option<Runtime>> {
    let Some(path) = &identity.config_path else { return Ok(None) };
    let knows_tiers = || {
        let conf = ClusterConf::load(common.conf.as_deref());
        !identity.data_dir.is_empty() || conf.is_ok_and(|(conf, _)| !conf.worker.data_dir.is_empty())
    };
    let patience = if component == Component::Worker && !knows_tiers() { WORKER_PATIENCE } else { PATIENCE };
    let runtime = watch::wait(path, patience).await?;
    if runtime.is_none() {
        tracing::warn!(file = %path.display(), "Fluid has not described the runtime yet: the environment has to do");
    }
    Ok(runtime)
}

/// For `cv` and the commands that Fluid and the kubelet execute in this pod. It names files of secrets and holds none.
fn leave_conf(dir: &Path, conf: &ClusterConf) -> Result<()> {
    let failed = |source| Error::from_io(source, "cannot write the config").with("dir", dir.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
    let draft = dir.join(format!("{CONF_FILE}.{}", std::process::id()));
    let mut file =
        std::fs::File::options().create(true).truncate(true).write(true).mode(0o644).open(&draft).map_err(failed)?;
    let text = format!("# Written by `curvine fluid`, anew at each start.\n\n{}", conf.to_toml());
    file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&draft, dir.join(CONF_FILE))).map_err(failed)
}

/// Follows the file. The first master makes the mount table what the file says whenever options or credentials change: Fluid
/// itself notices only paths, and its older branch nothing. What cannot change in a running process is said.
async fn follow(identity: Identity, component: Component, mut known: Option<Runtime>, conf: ClusterConf) {
    let Some(path) = identity.config_path.clone() else { return };
    let mounts = component == Component::Master && identity.ordinal().unwrap_or(0) == 0;
    let mut credentials = known.as_ref().map(mount_ufs::credentials).unwrap_or_default();
    let mut due = mounts && known.as_ref().is_some_and(is_older);
    loop {
        let changed = watch::changed(&path, known.as_ref());
        // Files of credentials change without the file of the runtime.
        let next = match mounts {
            true if due => tokio::time::timeout(SOON, changed).await.ok(),
            true => tokio::time::timeout(RETRY, changed).await.ok(),
            false => Some(changed.await),
        };
        let Some(current) = next.as_ref().or(known.as_ref()) else { continue };
        if mounts {
            let now = mount_ufs::credentials(current);
            due |= match &known {
                Some(known) => known.mounts != current.mounts || now != credentials,
                // The first description: Fluid has the mounts made, except for its older branch.
                None => is_older(current),
            };
            credentials = now;
            due = due && !converged(&conf, &identity).await;
        }
        if let Some(next) = next {
            tell_what_is_late(&conf, known.is_none(), component, &next, &identity);
            known = Some(next);
        }
    }
}

/// The branch that has nobody mount anything.
fn is_older(runtime: &Runtime) -> bool {
    runtime.master.as_ref().is_some_and(|master| master.name.is_empty())
}

async fn converged(conf: &ClusterConf, identity: &Identity) -> bool {
    let work = mount_ufs::converge(conf, identity, CONVERGE_TIMEOUT / 2);
    match tokio::time::timeout(CONVERGE_TIMEOUT, work).await {
        Ok(Ok(paths)) => {
            tracing::info!(mounts = paths.join(" "), "the mount table follows the dataset");
            return true;
        }
        Ok(Err(error)) => tracing::warn!(%error, "the mount table does not follow the dataset, trying again"),
        Err(_) => tracing::warn!("the mount table does not follow the dataset in time, trying again"),
    }
    false
}

/// What is different in the config that the file makes now needs another start. The first description adds nothing to what was
/// guessed right.
fn tell_what_is_late(conf: &ClusterConf, first: bool, component: Component, next: &Runtime, identity: &Identity) {
    let Ok(Settings { conf: mut other, .. }) = configure(Some(component), Some(next), identity, None) else { return };
    if first {
        other.client.master_addrs = conf.client.master_addrs.clone();
    }
    if other != *conf {
        tracing::warn!(
            "the runtime's options, tiers or masters have changed: this takes effect when the pod is restarted"
        );
    }
}
