//! Calling leases back before a change is made.
//!
//! Always: when `recall` has returned, no other session can use a lease on the changing inodes: each has answered, has renounced
//! all its leases, or its time is over.

use std::time::Duration;

use curvine_proto::{Method, RecallReply, RecallRequest};
use curvine_rpc::Body;
use curvine_types::{Error, ErrorKind, InodeId, Result, SessionId};
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::coherence::{Change, Coherence};
use crate::sessions::{Sessions, Standing};

/// How long one attempt waits for its answer before the session is looked at again.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Recalls what others hold on the inodes of `change`; `TimedOut` if that takes longer than the deadline.
pub async fn recall(coherence: &Coherence, sessions: &Sessions, change: &Change, deadline: Instant) -> Result<()> {
    let recalls = change.recalls();
    let number = recalls.number;
    try_join_all(recalls.holders.into_iter().map(|(session, inodes)| async move {
        recall_from(sessions, session, &inodes, number, deadline).await?;
        coherence.recalled(session, &inodes, number);
        Ok::<_, Error>(())
    }))
    .await?;
    Ok(())
}

async fn recall_from(
    sessions: &Sessions,
    session: SessionId,
    inodes: &[InodeId],
    number: u64,
    deadline: Instant,
) -> Result<()> {
    let (_, renounced_before) = sessions.standing(session);
    loop {
        let (standing, renounced) = sessions.standing(session);
        if renounced > renounced_before {
            return Ok(());
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::new(ErrorKind::TimedOut, "another client did not give up what it caches in time")
                .with("session", session)
                .with("inode", inodes.first().copied().unwrap_or_default()));
        }
        match standing {
            Standing::Over => return Ok(()),
            Standing::Silent(left) => sessions.wait_for_movement(left).await,
            Standing::Reachable(peer, left) => {
                let request = RecallRequest { number, inodes: inodes.to_vec() };
                let until = deadline.min(now + ATTEMPT).min(now + left);
                let answer = peer.call::<_, RecallReply>(Method::Recall, &request, Body::Empty, until).await;
                match answer {
                    Ok(_) => return Ok(()),
                    Err(error) => {
                        tracing::debug!(session, %error, "recall not answered");
                        sessions.wait_for_movement(left).await;
                    }
                }
            }
        }
    }
}
