//! `curvine master`.

use curvine_config::Role;
use curvine_master::Master;
use curvine_types::Result;

use super::{GRACE, prepare};
use crate::args::Common;
use crate::signals::Stop;
use crate::wiring;

/// Runs until a signal.
pub async fn run(common: &Common) -> Result<()> {
    let conf = prepare(common, Role::Master)?;
    let stop = Stop::listen()?;
    let master = Master::start(wiring::master(&conf)?).await?;
    stop.asked().await;
    master.shutdown(GRACE).await;
    tracing::info!("stopped");
    Ok(())
}
