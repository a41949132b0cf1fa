//! The worker: serves, fills and deletes file data.
//!
//! A thin shell over `curvine-blockstore` (what is on the local disks) and `curvine-ufs` (where absent data comes from).

mod options;

pub use options::WorkerOptions;

use std::net::SocketAddr;
use std::time::Duration;

use curvine_types::Result;

/// A running worker.
pub struct Worker {}

impl Worker {
    /// Opens the tier directories, binds the sockets and starts to register with the master. Returns once the worker
    /// serves its sockets; `registered` tells when the master knows it.
    pub async fn start(_options: WorkerOptions) -> Result<Worker> {
        todo!()
    }

    /// Where the RPC service listens.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Waits until the master has accepted this worker and its inventory.
    pub async fn registered(&self, _timeout: Duration) -> Result<()> {
        todo!()
    }

    /// Stops taking requests, lets those in hand finish for up to `grace`, and makes everything durable.
    pub async fn shutdown(self, _grace: Duration) {
        todo!()
    }
}
