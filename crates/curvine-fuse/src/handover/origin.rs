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
use crate::orphans::Nodes;

/// Recorded in the table from its first command until it is dropped, which is after its answer; longer if a lock is given back that
/// its caller does not know of.
#[derive(Debug)]
pub struct RequestOrigin {
    table: Arc<Table>,
    unique: u64,
    opcode: u32,
    nodes: Nodes,
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
    /// The caller was told that it failed; dropped when nothing of the request goes on.
    given_up: Option<Held>,
    /// Guards of what gives back.
    giving_back: usize,
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
    pub fn new(table: &Arc<Table>, unique: u64, opcode: u32, nodes: Nodes) -> Arc<Self> {
        Arc::new(Self { table: table.clone(), unique, opcode, nodes, state: Mutex::default() })
    }

    /// One that a predecessor has begun to serve.
    pub fn resumed(table: &Arc<Table>, record: RequestRecord) -> Arc<Self> {
        let RequestRecord { place, unique, opcode, session, sent, nodes, .. } = record;
        // Its caller was not told after all: the kernel would not have sent it again.
        table.set_given_up(place, false);
        let state = State { place: Some(place), session, earlier: sent.into(), ..State::default() };
        Arc::new(Self { table: table.clone(), unique, opcode, nodes, state: Mutex::new(state) })
    }

    /// The caller is going to be told that the request failed, whatever becomes of it. `until_over` is dropped when that is known and
    /// what it took has been given back, by this process or another.
    pub fn give_up(&self, until_over: impl Any + Send) {
        let mut state = self.state.lock();
        state.given_up = Some(Held(Box::new(until_over)));
        if let Some(place) = state.place {
            self.table.set_given_up(place, true);
        }
    }

    /// The request has been answered: what goes on of it is nobody's.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        let held = std::mem::take(&mut state.held);
        let over = self.end_record(&mut state);
        drop(state);
        drop((held, over));
    }

    /// The record goes when the request has been answered and everything given back.
    fn end_record(&self, state: &mut State) -> Option<Held> {
        if !state.ended || state.giving_back > 0 {
            return None;
        }
        if let Some(place) = state.place.take() {
            self.table.end_request(place);
        }
        state.given_up.take()
    }
}

/// Something that a request took is being given back.
struct GivingBack(Arc<RequestOrigin>);

impl Drop for GivingBack {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.giving_back -= 1;
        let over = self.0.end_record(&mut state);
        drop(state);
        drop(over);
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
            state.place = self.table.begin_request(self.unique, self.opcode, self.nodes);
            if state.place.is_none() {
                tracing::warn!("the hand-over table is full; should this process die now, a change may be made twice");
            }
        }
        if let Some(place) = state.place {
            self.table.set_given_up(place, state.given_up.is_some());
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

    fn giving_back(self: Arc<Self>) -> Box<dyn Any + Send> {
        self.state.lock().giving_back += 1;
        Box::new(GivingBack(self))
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
        let origin = RequestOrigin::new(&table, 8, 12, [5, 5]);
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

    #[test]
    fn a_lock_that_its_caller_does_not_know_of_is_recorded_until_it_was_given_back() {
        let table = Arc::new(Table::create(Limits { handles: 1, requests: 4, notes: 1 }).unwrap());
        let origin = RequestOrigin::new(&table, 8, 33, [5, 5]);
        let over = Arc::new(());
        origin.sending(7, 100, 30, None);
        origin.give_up(over.clone());
        let guard = origin.clone().giving_back();
        origin.end();
        assert_eq!((table.used().1, Arc::strong_count(&over)), (1, 2));
        let record = table.take_requests().pop().unwrap();
        assert!(record.given_up && record.nodes == [5, 5]);
        drop(guard);
        assert_eq!((table.used().1, Arc::strong_count(&over)), (0, 1));
    }
}
