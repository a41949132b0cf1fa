//! Answers the master's recalls.
//!
//! Always: the caches here are empty at once; the answer goes out when the kernel has been told, too.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use curvine_proto::{Empty, Method, RecallReply, RecallRequest};
use curvine_rpc::{Call, Reply, Service};
use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::core::Core;

/// The calls that come back over the client's connection.
pub(crate) struct Recalls {
    core: Weak<Core>,
}

impl Recalls {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::downgrade(core) }
    }

    async fn answer(self: Arc<Self>, call: Call) -> Result<Reply> {
        match call.method {
            Method::Ping => Ok(Reply::new(&Empty {})),
            Method::Recall => {
                let request: RecallRequest = call.request()?;
                let core =
                    self.core.upgrade().ok_or_else(|| Error::new(ErrorKind::Unavailable, "the client is gone"))?;
                // In a task of its own: the kernel must be told even if the master does not wait for it.
                let recalled = tokio::spawn(async move { recall(&core, request).await }).await;
                let open_inodes =
                    recalled.map_err(|error| Error::new(ErrorKind::Internal, "a recall failed").caused_by(error))?;
                Ok(Reply::new(&RecallReply { open_inodes }))
            }
            other => {
                Err(Error::new(ErrorKind::NotSupported, "a client does not have this method")
                    .with("method", other.name()))
            }
        }
    }
}

/// Which of the inodes are open here.
async fn recall(core: &Arc<Core>, request: RecallRequest) -> Vec<u64> {
    let RecallRequest { number, inodes } = request;
    if core.options.ignore_recalls {
        return core.opens.recalled(&inodes);
    }
    let mut dirs = core.cache.recall(number, &inodes);
    if core.inherited.load(Ordering::SeqCst) {
        // Leased to a predecessor, perhaps: what is not known here may be a directory all the same.
        dirs.clone_from(&inodes);
    }
    let open = core.opens.recalled(&inodes);
    core.notify(dirs, inodes).await;
    open
}

impl Service for Recalls {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        self.answer(call).boxed()
    }
}
