//! On whose behalf a change is made: a request that may be served a second time, by another process, if this one dies.
//!
//! Always: a command's number is told to the origin before it is sent, so whoever serves the request again sends the command
//! under the same number, and the master executes it once. A number stays unacknowledged, so that the master keeps its result, until
//! the request has been answered.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

use curvine_proto::SetLock;
use curvine_proto::command::Body as CommandBody;
use curvine_types::SessionId;

/// A request, remembered outside of this process.
///
/// A request makes its commands in the same order each time it is served, but a later one may be left out or added.
pub trait Origin: Send + Sync + 'static {
    /// The same for the same request, whoever serves it; never 0.
    fn token(&self) -> u64;

    /// The number under which the first command of this kind that was not asked for yet was sent by an earlier process.
    fn earlier(&self, kind: u32) -> Option<(SessionId, u64)>;

    /// A command of this kind is about to be sent under this number. `lock`: what it takes, if it takes a lock.
    fn sending(&self, session: SessionId, sequence: u64, kind: u32, lock: Option<&SetLock>);

    /// Keeps what must not go before the request has been answered.
    fn hold(&self, number: Box<dyn Any + Send>);

    /// Nobody needs the number any more: the request goes on under another one.
    fn superseded(&self, session: SessionId, sequence: u64);

    /// What the request took is being given back, because its caller does not know of it: it stays remembered until the guard goes.
    fn giving_back(self: Arc<Self>) -> Box<dyn Any + Send>;
}

tokio::task_local! {
    static ORIGIN: Arc<dyn Origin>;
}

/// Runs `work` on behalf of `origin`: all changes that it makes are its.
pub fn on_behalf<F: Future>(origin: Arc<dyn Origin>, work: F) -> impl Future<Output = F::Output> {
    ORIGIN.scope(origin, work)
}

/// On whose behalf the present task acts, if it does.
pub(crate) fn current() -> Option<Arc<dyn Origin>> {
    ORIGIN.try_with(Arc::clone).ok()
}

/// Runs `work` on behalf of the origin, if there is one.
pub(crate) async fn carried<F: Future>(origin: Option<Arc<dyn Origin>>, work: F) -> F::Output {
    match origin {
        Some(origin) => on_behalf(origin, work).await,
        None => work.await,
    }
}

/// The kind of a command: the number of its field in the protocol, which never changes.
pub(crate) fn kind_of(body: &CommandBody) -> u32 {
    let mut tag = Vec::with_capacity(body.encoded_len());
    body.encode(&mut tag);
    let mut value: u32 = 0;
    for (place, byte) in tag.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f).checked_shl(7 * place as u32).unwrap_or_default();
        if byte & 0x80 == 0 {
            break;
        }
    }
    value >> 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_command_is_the_number_of_its_field() {
        let rename = CommandBody::Rename(Default::default());
        let unlink = CommandBody::Unlink(curvine_proto::Unlink { inode: 700, ..Default::default() });
        let command = |body| {
            let command = curvine_proto::Command { body: Some(body), ..Default::default() };
            curvine_proto::Message::encode_to_vec(&command)
        };
        for body in [rename, unlink] {
            let kind = kind_of(&body);
            let mut expected = Vec::new();
            body.encode(&mut expected);
            assert_eq!(command(body), expected, "a command with nothing but its body");
            assert!(kind > 3, "1 to 3 are session, sequence and the lowest number");
        }
    }
}
