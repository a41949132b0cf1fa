//! The roles of a process. Each starts, says that it is ready, and runs until it is told to stop or cannot go on.

pub mod fluid;
pub mod master;
pub mod mount;
pub mod standalone;
pub mod worker;

use std::time::Duration;

use curvine_config::{ClusterConf, Role};
use curvine_types::Result;

use crate::args::Common;
use crate::logs;

/// How long requests in hand may take when a server stops.
const GRACE: Duration = Duration::from_secs(10);

/// Reads the config, starts the log and checks what the role needs.
fn prepare(common: &Common, role: Role) -> Result<ClusterConf> {
    let (conf, warnings) = ClusterConf::load(common.conf.as_deref())?;
    logs::start(common, &conf.log.level, conf.log.format, logs::To::Output)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    check(&conf, role)?;
    Ok(conf)
}

/// Checks what a role needs, and says what it starts with.
pub fn check(conf: &ClusterConf, role: Role) -> Result<()> {
    conf.check_role(role)?;
    if conf.security.allow_no_secret && conf.security.secret_file.as_os_str().is_empty() {
        tracing::warn!("running without a cluster secret: whoever reaches the ports may do everything");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), cluster = conf.general.cluster_id, ?role, "starting");
    Ok(())
}
