//! Sessions begin and end. From its end on nothing of a session is executed; what it held is let go of in steps, so that the end of
//! one that held much stops nobody.

use curvine_proto::{OpenSession, Outcome};
use curvine_types::{ErrorKind, Result, SessionId};

use crate::record::*;
use crate::state::{State, fail};

/// Longest name of a client or host.
const NAME_MAX: usize = 1024;
/// Things that one command lets go of.
const END_STEPS: usize = 64;
/// Kept results that count as one of them.
const RESULTS_A_STEP: usize = 8;
/// Locks of others on the same inode that count as one of them.
const LOCKS_A_STEP: usize = 128;

impl State {
    pub(super) fn open_session(&mut self, command: &OpenSession) -> Result<Outcome> {
        if command.client.len() > NAME_MAX || command.hostname.len() > NAME_MAX {
            return Err(fail(ErrorKind::TooBig, "the name of a client or host is too long").with("limit", NAME_MAX));
        }
        if command.replace {
            for earlier in self.sessions_of(&command.client) {
                self.end_session(earlier);
            }
        }
        let id = self.meta.next_session;
        self.meta.next_session += 1;
        let session = Session {
            kind: command.kind,
            client: command.client.as_str().into(),
            hostname: command.hostname.as_str().into(),
            opened: self.meta.now,
            lowest_unacked: 1,
            kept: 0,
            spent: Vec::new(),
            ending: false,
        };
        self.clients.insert((session.client.clone(), id), ());
        self.sessions.insert(id, session);
        Ok(Outcome { id, created: true, ..Outcome::default() })
    }

    /// Also for a session that is gone already: whoever expires it only wants it to be gone.
    pub(super) fn expire_session(&mut self, id: SessionId) -> Result<Outcome> {
        let more = self.end_session(id);
        Ok(Outcome { id, more, ..Outcome::default() })
    }

    fn sessions_of(&self, client: &str) -> Vec<SessionId> {
        let of_client = self.clients.range(&(client.into(), 0)).take_while(|((have, _), ())| **have == *client);
        of_client.map(|((_, id), ())| *id).collect()
    }

    /// Ends a session and takes a bounded number of steps towards its being gone. `true`: there are more.
    fn end_session(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        session.ending = true;
        self.ending.insert(id, ());
        let mut steps = END_STEPS;
        while steps > 0 {
            let Some(((have, held, inode), ())) = self.held.first_from(&(id, Held::Lock, 0)) else { break };
            let (have, held, inode) = (*have, *held, *inode);
            if have != id {
                break;
            }
            let others = self.locks.get(&inode).map_or(0, |locks| locks.len());
            steps = steps.saturating_sub(1 + others / LOCKS_A_STEP);
            match held {
                Held::Lock => self.drop_locks(id, inode),
                Held::Orphan => self.remove_hold(id, inode),
                Held::Write => self.remove_writer(id, inode),
            }
        }
        self.drop_results(id, u64::MAX, steps * RESULTS_A_STEP);
        let left = |key: Option<SessionId>| key == Some(id);
        if left(self.held.first_from(&(id, Held::Lock, 0)).map(|((have, ..), ())| *have))
            || left(self.results.first_from(&(id, 0)).map(|((have, _), _)| *have))
        {
            return true;
        }
        self.ending.remove(&id);
        if let Some(session) = self.sessions.remove(&id) {
            self.clients.remove(&(session.client, id));
        }
        false
    }
}
