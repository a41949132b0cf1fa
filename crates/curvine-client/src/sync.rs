//! Everything durable: what syncfs(2) promises.

use curvine_proto::{Empty, Method};
use curvine_types::{Error, ErrorKind, Result};
use futures::future::join_all;

use crate::FileSystem;

impl FileSystem {
    /// Makes durable what was acknowledged to anybody: names and attributes are so already, data is with the workers. An error of
    /// one worker does not keep the others from it.
    pub async fn sync(&self) -> Result<()> {
        let (core, deadline) = (&self.core, self.core.data_deadline());
        let workers = core.workers.list(core, deadline).await?;
        if let Some(away) = workers.iter().find(|info| !info.live) {
            let message = "a worker is away, and what it was given last may not be durable";
            return Err(Error::new(ErrorKind::Unavailable, message).with("worker", away.id));
        }
        let calls = workers
            .iter()
            .map(|info| core.workers.call::<_, Empty>(core, info.id, Method::SyncAll, &Empty {}, deadline));
        join_all(calls).await.into_iter().collect::<Result<Vec<_>>>().map(|_| ())
    }
}
