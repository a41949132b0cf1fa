//! `curvine master`.

use std::time::Duration;

use curvine_config::{ClusterConf, Role};
use curvine_master::Master;
use curvine_types::Result;
use curvine_web::WebServer;

use super::{GRACE, prepare};
use crate::args::Common;
use crate::signals::Stop;
use crate::wiring;

/// A master that cannot go on only tells its callers so.
const FAILED_GRACE: Duration = Duration::from_secs(1);

/// Runs until a signal, or until the disk of its log has failed: then whoever supervises it starts it again, which reads what is
/// really there.
pub async fn run(common: &Common) -> Result<()> {
    serve(&prepare(common, Role::Master)?).await
}

/// The same with a config that is there already.
pub async fn serve(conf: &ClusterConf) -> Result<()> {
    let stop = Stop::listen()?;
    // Starting waits for the other masters, if there are any.
    let starting = Master::start(wiring::master(conf)?);
    let mut asked = std::pin::pin!(stop.asked());
    let master = tokio::select! {
        () = &mut asked => return Ok(()),
        started = starting => started?,
    };
    let web = WebServer::start(&conf.general.web_hostname, conf.master.web_port, master.page());
    let failure = tokio::select! {
        () = asked => None,
        error = master.failed() => Some(error),
    };
    let grace = if failure.is_some() { FAILED_GRACE } else { GRACE };
    drop(web);
    master.shutdown(grace).await;
    tracing::info!("stopped");
    failure.map_or(Ok(()), Err)
}
