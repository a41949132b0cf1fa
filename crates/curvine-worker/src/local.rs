//! Clients of this machine: descriptors of local files, over the Unix socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use curvine_blockstore::{Access, ContentKey, ContentKind, Exposed, Refusal};
use curvine_proto::{ExposeReply, ExposeRequest, ProbeReply};
use curvine_rpc::Reply;
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::authoritative::Target;
use crate::engine::{Engine, live_attr};

/// Gives the descriptor, or says why not. `local`: the caller is connected by the Unix socket.
pub(crate) async fn expose(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: &ExposeRequest,
    local: bool,
    deadline: Instant,
) -> Result<Reply> {
    if !local {
        return Err(Error::new(ErrorKind::NotSupported, "descriptors are given only over the worker's unix socket"));
    }
    if engine.leaving.load(Relaxed) {
        return Ok(refused(Refusal::Leaving));
    }
    let access = match request {
        ExposeRequest { write: true, .. } if version == 0 => {
            // Somebody may write to his descriptor of a copy: nobody else may have it from here any more.
            let store = engine.store.clone();
            engine.disk.run_slow(deadline, move || store.delete(&[key])).await?;
            return Ok(refused(Refusal::NotNew));
        }
        // What waits for its store is bounded, and nobody could hold such a writer back.
        ExposeRequest { write: true, .. } if engine.dirty.is_noted(key) => {
            return Ok(refused(Refusal::NotNew));
        }
        ExposeRequest { write: true, epoch, session, .. } => Access::Write { epoch: *epoch, session: *session },
        _ => Access::Read,
    };
    let store = engine.store.clone();
    let exposed = match engine.disk.run(deadline, move || store.expose(key, version, access)).await {
        // Of a copy nothing being here is no error.
        Err(error) if version == 0 && matches!(error.kind(), ErrorKind::VersionMismatch | ErrorKind::DataLoss) => {
            Err(Refusal::Incomplete)
        }
        outcome => outcome?,
    };
    if version == 0 && matches!(exposed, Err(Refusal::Incomplete)) {
        engine.copies.opened(engine, key);
    }
    Ok(match exposed {
        Ok(Exposed { file, attr, kind }) => {
            let live = kind == ContentKind::Live;
            let reply = ExposeReply { refusal: 0, attr: Some(live_attr(attr)), live };
            Reply::new(&reply).with_descriptor(OwnedFd::from(file))
        }
        Err(refusal) => refused(refusal),
    })
}

fn refused(refusal: Refusal) -> Reply {
    Reply::new(&ExposeReply { refusal: refusal as u32, ..Default::default() })
}

/// Whether somebody has the file of a content open; see `BlockStore::withdraw`.
pub(crate) async fn probe(engine: &Arc<Engine>, key: ContentKey, deadline: Instant) -> Result<ProbeReply> {
    let store = engine.store.clone();
    Ok(ProbeReply { in_use: engine.disk.run(deadline, move || store.withdraw(key)).await? })
}
