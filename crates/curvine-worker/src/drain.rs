//! Leaving: before a worker stops for good, what only it has goes elsewhere.
//!
//! The master moves it; the worker asks for that, waits as long as it may, and says what is left.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use curvine_proto::{DrainWorkerReply, DrainWorkerRequest, Method};
use curvine_rpc::Body;
use curvine_types::units::format_size;
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::worker::Worker;

/// Between two questions how far it is.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one of them may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nobody may answer.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Between two lines in the log.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How far draining came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    pub moved_files: u64,
    pub moved_bytes: u64,
    /// What is still only here.
    pub left_files: u64,
    pub left_bytes: u64,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Drained { moved_files, moved_bytes, left_files, left_bytes, .. } = self;
        write!(f, "{moved_files} files ({}) moved", format_size(*moved_bytes))?;
        write!(f, ", {left_files} files ({}) left", format_size(*left_bytes))
    }
}

impl From<DrainWorkerReply> for Drained {
    fn from(reply: DrainWorkerReply) -> Self {
        let DrainWorkerReply { moved_files, moved_bytes, left_files, left_bytes, error, .. } = reply;
        Self { moved_files, moved_bytes, left_files, left_bytes, reason: error }
    }
}

impl Worker {
    /// Has the master move what only this worker has, for at most `limit`. An error: it is not known what that is.
    pub async fn drain(&self, limit: Duration) -> Result<Drained> {
        let Some(engine) = self.service.engine.get() else {
            return Err(Error::new(ErrorKind::Unavailable, "the worker never knew its cluster"));
        };
        engine.leaving.store(true, Relaxed);
        let until = Instant::now() + limit;
        let (mut heard, mut said) = (Instant::now(), Instant::now());
        let mut last = Drained::default();
        loop {
            let worker = *self.registered.borrow();
            let asked = match worker {
                0 => Err(Error::new(ErrorKind::Unavailable, "no master has taken this worker")),
                worker => {
                    let request = DrainWorkerRequest { worker };
                    let deadline = until.min(Instant::now() + ASK_TIMEOUT);
                    self.master.call::<_, DrainWorkerReply>(Method::DrainWorker, &request, Body::Empty, deadline).await
                }
            };
            let now = Instant::now();
            match asked {
                Ok((reply, _)) => {
                    heard = now;
                    let (done, tried, targets) = (reply.done, reply.tried, reply.targets);
                    last = reply.into();
                    if done {
                        return Ok(last);
                    }
                    if tried && targets == 0 {
                        last.reason = format!("no other worker takes anything: {}", last.reason);
                        return Ok(last);
                    }
                }
                // Of a version that moves nothing, or nobody is there any more.
                Err(error) if error.kind() == ErrorKind::NotSupported || now - heard >= SILENCE_MAX || now >= until => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "the master does not answer a worker that leaves"),
            }
            if now >= until {
                last.reason = format!("the time for it is over: {}", last.reason);
                return Ok(last);
            }
            if now - said >= SAY_EVERY {
                said = now;
                tracing::info!("draining: {last}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
