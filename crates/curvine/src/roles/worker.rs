//! `curvine worker`.

use curvine_config::{ClusterConf, Role};
use curvine_types::{Error, ErrorKind, Result};
use curvine_web::WebServer;
use curvine_worker::{Worker, WorkerOptions};

use super::{GRACE, prepare};
use crate::args::Common;
use crate::signals::Stop;
use crate::wiring;

/// Runs until a signal, or until the worker cannot go on, for example because its disks belong to another cluster.
pub async fn run(common: &Common) -> Result<()> {
    serve(&prepare(common, Role::Worker)?, false).await
}

/// The same with a config that is there already. `ask_cluster_first`: the masters say which cluster this is, whatever the
/// directories hold; this process may be gone for good when it ends.
pub async fn serve(conf: &ClusterConf, ask_cluster_first: bool) -> Result<()> {
    let stop = Stop::listen()?;
    let worker = Worker::start(WorkerOptions { ask_cluster_first, ..wiring::worker(conf)? }).await?;
    tracing::info!(address = %worker.address(), "worker is ready");
    let web = WebServer::start(&conf.general.web_hostname, conf.worker.web_port, worker.page());
    let failure = tokio::select! {
        () = stop.asked() => None,
        error = worker.failure() => Some(error),
    };
    let drained = match failure {
        None if conf.worker.drain_on_stop => drain(conf, &worker).await,
        _ => Ok(()),
    };
    drop(web);
    worker.shutdown(GRACE).await;
    tracing::info!("stopped");
    failure.map_or(drained, Err)
}

/// What only this worker has goes elsewhere. An error says what does not.
async fn drain(conf: &ClusterConf, worker: &Worker) -> Result<()> {
    tracing::info!(seconds = conf.worker.drain_timeout.as_secs_f64(), "draining");
    let dirs = || {
        let paths: Vec<_> = conf.worker.data_dir.iter().map(|dir| dir.path.display().to_string()).collect();
        paths.join(" ")
    };
    let unique = worker.unique_bytes();
    let error = match worker.drain(conf.worker.drain_timeout).await {
        Ok(drained) if drained.left_files == 0 => {
            tracing::info!("nothing is only here any more: {drained}");
            return Ok(());
        }
        Ok(drained) => Error::new(ErrorKind::Unavailable, "this worker stops with files that are nowhere else")
            .with("files", drained.left_files)
            .with("bytes", drained.left_bytes)
            .with("reason", drained.reason),
        // It holds copies at most.
        Err(error) if unique == 0 => {
            tracing::warn!(%error, "not drained, but nothing is only here");
            return Ok(());
        }
        Err(error) => Error::new(ErrorKind::Unavailable, "this worker stops with data that may be nowhere else")
            .with("bytes", unique)
            .caused_by(error),
    };
    let error = error.with("dirs", dirs());
    tracing::error!(%error, "not drained: what is only here can be read again when the worker comes back with these directories");
    Err(error)
}
