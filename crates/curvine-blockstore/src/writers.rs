//! Who writes a live content: the newest process of each session, and what its last appends were.
//!
//! Always: what an earlier process of a session sent is refused once a later one has written, so a request that was under way
//! when its sender died cannot overtake what its successor did; an append with a token is executed once.
//! The number of sessions and appends that are remembered is limited; this is soft and gone with the process.

use std::collections::VecDeque;

use curvine_types::{Error, ErrorKind, Result};

use crate::types::{ContentKey, Writer};

/// Sessions that are remembered for one content.
const SESSIONS_MAX: usize = 64;
/// Appends that are remembered for one session: its kernel sends those of one file one after the other.
const APPENDS_MAX: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Writers(VecDeque<Session>);

#[derive(Debug)]
struct Session {
    session: u64,
    instance: u64,
    /// Tokens and where they went.
    appends: VecDeque<(u64, u64)>,
}

impl Writers {
    /// A write of `writer` is about to be made. `Some`: it is an append that was made before, at this offset.
    pub fn enter(&mut self, key: ContentKey, writer: &Writer) -> Result<Option<u64>> {
        let session = self.of(writer.session);
        if writer.instance < session.instance {
            return Err(Error::new(ErrorKind::Stale, "another process has taken over this session")
                .with("inode", key.inode)
                .with("session", writer.session));
        }
        session.instance = writer.instance;
        let earlier = session.appends.iter().find(|(token, _)| writer.token != 0 && *token == writer.token);
        Ok(earlier.map(|(_, offset)| *offset))
    }

    /// An append was made.
    pub fn appended(&mut self, writer: &Writer, offset: u64) {
        if writer.token == 0 {
            return;
        }
        let session = self.of(writer.session);
        if session.appends.len() >= APPENDS_MAX {
            session.appends.pop_front();
        }
        session.appends.push_back((writer.token, offset));
    }

    fn of(&mut self, session: u64) -> &mut Session {
        let at = match self.0.iter().position(|known| known.session == session) {
            Some(at) => at,
            None => {
                if self.0.len() >= SESSIONS_MAX {
                    self.0.pop_front();
                }
                self.0.push_back(Session { session, instance: 0, appends: VecDeque::new() });
                self.0.len() - 1
            }
        };
        &mut self.0[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ContentKey = ContentKey { inode: 7, generation: 1 };

    fn writer(session: u64, instance: u64, token: u64) -> Writer {
        Writer { session, instance, token }
    }

    #[test]
    fn an_append_is_recognised_and_an_earlier_process_refused() {
        let mut writers = Writers::default();
        assert_eq!(writers.enter(KEY, &writer(1, 1, 10)).unwrap(), None);
        writers.appended(&writer(1, 1, 10), 4096);
        assert_eq!(writers.enter(KEY, &writer(1, 2, 10)).unwrap(), Some(4096));
        assert_eq!(writers.enter(KEY, &writer(1, 1, 11)).unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(writers.enter(KEY, &writer(2, 1, 10)).unwrap(), None, "another session's tokens are its own");
        writers.appended(&writer(1, 2, 0), 5000);
        assert_eq!(writers.enter(KEY, &writer(1, 2, 0)).unwrap(), None, "without a token nothing is recognised");
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let mut writers = Writers::default();
        for session in 1..=SESSIONS_MAX as u64 + 5 {
            writers.enter(KEY, &writer(session, 1, 0)).unwrap();
            for token in 1..100 {
                writers.appended(&writer(session, 1, token), token);
            }
        }
        assert_eq!(writers.0.len(), SESSIONS_MAX);
        assert!(writers.0.iter().all(|session| session.appends.len() == APPENDS_MAX));
    }
}
