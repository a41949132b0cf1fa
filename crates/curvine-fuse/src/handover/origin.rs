//! A request of the kernel on whose behalf changes are made.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use curvine_client::Origin;
use curvine_proto::SetLock;
use curvine_types::SessionId;
use parking_lot::Mutex;

use super::requests::{RequestRecord, Sent};
use super::table::Table;

/// Recorded in the table from its first command until it is dropped, which is after its answer.
#[derive(Debug)]
pub struct RequestOrigin {
    table: Arc<Table>,
    unique: u64,
    opcode: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    place: Option<u32>,
    session: SessionId,
    /// What a predecessor sent and nobody has asked for yet.
    earlier: VecDeque<Sent>,
    /// Goes with the answer.
    held: Vec<Held>,
    ended: bool,
}

/// Something of the client's.
struct Held(#[allow(dead_code)] Box<dyn Any + Send>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl RequestOrigin {
    /// A request that nobody has served before.
    pub fn new(table: &Arc<Table>, unique: u64, opcode: u32) -> Arc<Self> {
        Arc::new(Self { table: table.clone(), unique, opcode, state: Mutex::default() })
    }

    /// One that a predecessor has begun to serve.
    pub fn resumed(table: &Arc<Table>, record: RequestRecord) -> Arc<Self> {
        let RequestRecord { place, unique, opcode, session, sent, .. } = record;
        let state = State { place: Some(place), session, earlier: sent.into(), ..State::default() };
        Arc::new(Self { table: table.clone(), unique, opcode, state: Mutex::new(state) })
    }

    /// The request has been answered: what goes on of it is nobody's.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        if let Some(place) = state.place.take() {
            self.table.end_request(place);
        }
        let held = std::mem::take(&mut state.held);
        drop(state);
        drop(held);
    }
}

impl Origin for RequestOrigin {
    fn token(&self) -> u64 {
        self.unique
    }

    fn earlier(&self, kind: u32) -> Option<(SessionId, u64)> {
        let mut state = self.state.lock();
        let at = state.earlier.iter().position(|sent| sent.kind == kind)?;
        let sent = state.earlier.remove(at)?;
        Some((state.session, sent.sequence))
    }

    fn sending(&self, session: SessionId, sequence: u64, kind: u32, lock: Option<&SetLock>) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        if state.place.is_none() {
            state.place = self.table.begin_request(self.unique, self.opcode);
            if state.place.is_none() {
                tracing::warn!("the hand-over table is full; should this process die now, a change may be made twice");
            }
        }
        if let Some(place) = state.place {
            self.table.add_number(place, session, Sent { kind, sequence }, lock);
        }
    }

    fn hold(&self, number: Box<dyn Any + Send>) {
        let mut state = self.state.lock();
        if !state.ended {
            state.held.push(Held(number));
        }
    }

    fn superseded(&self, session: SessionId, sequence: u64) {
        if let Some(place) = self.state.lock().place {
            self.table.drop_number(place, session, sequence);
        }
    }
}

impl Drop for RequestOrigin {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Limits;

    #[test]
    fn a_request_is_recorded_from_its_first_command_until_its_answer() {
        let table = Arc::new(Table::create(Limits { handles: 1, requests: 4, notes: 1 }).unwrap());
        let origin = RequestOrigin::new(&table, 8, 12);
        assert_eq!((table.used().1, origin.earlier(14)), (0, None));
        origin.sending(7, 100, 14, None);
        origin.sending(7, 101, 14, None);
        assert_eq!(table.used().1, 1);
        // The process dies; another one serves the request again.
        std::mem::forget(origin);
        let record = table.take_requests().pop().unwrap();
        let origin = RequestOrigin::resumed(&table, record);
        assert_eq!((origin.earlier(15), origin.earlier(14)), (None, Some((7, 100))));
        origin.sending(7, 100, 14, None);
        assert_eq!((origin.earlier(14), origin.earlier(14)), (Some((7, 101)), None));
        origin.end();
        origin.sending(7, 102, 14, None);
        assert_eq!(table.used().1, 0, "what goes on after the answer is not recorded");
    }
}
