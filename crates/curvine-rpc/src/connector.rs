//! Makes connections.

use std::sync::Arc;

use curvine_types::Result;
use tokio::time::Instant;

use crate::{Address, Auth, Limits, Peer, Service};

/// Makes connections, each authenticated before anybody sees it.
#[derive(Clone)]
pub struct Connector;

impl Connector {
    /// A connector whose peers are not allowed to call back.
    pub fn new(_auth: Auth, _limits: Limits) -> Self {
        todo!()
    }

    /// Answers the calls that come back over its connections by `service`.
    pub fn with_service(self, _service: Arc<dyn Service>) -> Self {
        todo!()
    }

    /// Connects. `Unavailable`, `TimedOut`: not reachable; `Unauthenticated`: another secret; `Foreign`: another cluster
    /// or no common protocol version.
    pub async fn connect(&self, _address: &Address, _deadline: Instant) -> Result<Peer> {
        todo!()
    }
}
