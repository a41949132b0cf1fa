//! Sessions begin and end. What a session held ends with it, in the same command.

use curvine_proto::{OpenSession, Outcome};
use curvine_types::{ErrorKind, InodeId, Result, SessionId};

use crate::record::*;
use crate::state::{State, fail};

/// Longest name of a client or host.
const NAME_MAX: usize = 1024;

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
        };
        self.clients.insert((session.client.clone(), id), ());
        self.sessions.insert(id, session);
        Ok(Outcome { id, created: true, ..Outcome::default() })
    }

    /// Also for a session that is gone already: whoever expires it only wants it to be gone.
    pub(super) fn expire_session(&mut self, id: SessionId) -> Result<Outcome> {
        self.end_session(id);
        Ok(Outcome { id, ..Outcome::default() })
    }

    fn sessions_of(&self, client: &str) -> Vec<SessionId> {
        let of_client = self.clients.range(&(client.into(), 0)).take_while(|((have, _), ())| **have == *client);
        of_client.map(|((_, id), ())| *id).collect()
    }

    fn end_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.clients.remove(&(session.client, id));
        self.drop_results(id, u64::MAX);
        let held: Vec<(Held, InodeId)> = self
            .held
            .range(&(id, Held::Lock, 0))
            .take_while(|((have, ..), ())| *have == id)
            .map(|((_, held, inode), ())| (*held, *inode))
            .collect();
        for (held, inode) in held {
            match held {
                Held::Lock => self.drop_locks(id, inode),
                Held::Orphan => self.remove_hold(id, inode),
                Held::Write => self.remove_writer(id, inode),
            }
        }
    }
}
