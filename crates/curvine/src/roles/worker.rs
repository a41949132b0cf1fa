//! `curvine worker`.

use curvine_config::Role;
use curvine_types::Result;
use curvine_worker::Worker;

use super::{GRACE, prepare};
use crate::args::Common;
use crate::signals::Stop;
use crate::wiring;

/// Runs until a signal, or until the worker cannot go on, for example because its disks belong to another cluster.
pub async fn run(common: &Common) -> Result<()> {
    let conf = prepare(common, Role::Worker)?;
    let stop = Stop::listen()?;
    let worker = Worker::start(wiring::worker(&conf)?).await?;
    tracing::info!(address = %worker.address(), "worker is ready");
    let failure = tokio::select! {
        () = stop.asked() => None,
        error = worker.failure() => Some(error),
    };
    worker.shutdown(GRACE).await;
    tracing::info!("stopped");
    failure.map_or(Ok(()), Err)
}
