//! `curvine worker`.

use curvine_config::{ClusterConf, Role};
use curvine_types::Result;
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
    let failure = tokio::select! {
        () = stop.asked() => None,
        error = worker.failure() => Some(error),
    };
    let unique = if ask_cluster_first { worker.unique_bytes() } else { 0 };
    worker.shutdown(GRACE).await;
    if unique > 0 {
        // Its pod may be scaled away; nobody else says what that means.
        tracing::warn!(bytes = unique, dirs = ?conf.worker.data_dir.iter().map(|dir| &dir.path).collect::<Vec<_>>(),
            "this worker stops with data that is nowhere else: its files can be read again when it comes back with these directories");
    }
    tracing::info!("stopped");
    failure.map_or(Ok(()), Err)
}
