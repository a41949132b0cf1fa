//! The window of results of a session: a numbered command is executed at most once (RIFL, SOSP 2015).
//!
//! Always: a number below `lowest_unacked`, with a kept result or in `spent` is never executed again, and every other
//! number never was. `kept` results are there, at most `RESULT_WINDOW`; `spent` has at most `RESULT_WINDOW` ranges.
//! So commands may overtake each other by any distance, which happens while one of them waits for a lock.

use curvine_proto::{Message, Outcome};
use curvine_types::limits::RESULT_WINDOW;
use curvine_types::{ErrorKind, Result, SessionId};

use crate::api::ResultLookup;
use crate::record::{Kept, Session};
use crate::state::{State, fail};

impl State {
    /// What is known about a command.
    pub fn result(&self, session: SessionId, sequence: u64) -> ResultLookup {
        let Some(record) = self.sessions.get(&session).filter(|session| !session.ending) else {
            return ResultLookup::NoSession;
        };
        if sequence < record.lowest_unacked {
            return ResultLookup::Forgotten;
        }
        match self.results.get(&(session, sequence)) {
            Some(kept) => match Outcome::decode(&*kept.outcome) {
                Ok(outcome) => ResultLookup::Known(outcome),
                Err(_) => ResultLookup::Forgotten,
            },
            None if is_spent(record, sequence) => ResultLookup::Forgotten,
            None => ResultLookup::New,
        }
    }

    /// Forgets what the session will not ask for again, and says whether its next command may be executed.
    pub fn advance_window(&mut self, session: SessionId, sequence: u64, lowest_unacked: u64) -> Result<ResultLookup> {
        let Some(record) = self.sessions.get(&session).filter(|session| !session.ending) else {
            return Ok(ResultLookup::NoSession);
        };
        if sequence == u64::MAX {
            return Err(
                fail(ErrorKind::InvalidArgument, "the number of a command is out of range").with("session", session)
            );
        }
        let lowest = lowest_unacked.min(sequence);
        if lowest > record.lowest_unacked {
            self.drop_results(session, lowest, usize::MAX);
            if let Some(record) = self.sessions.get_mut(&session) {
                record.lowest_unacked = lowest;
                record.spent.retain_mut(|(first, last)| {
                    *first = lowest.max(*first);
                    first <= last
                });
            }
        }
        let lookup = self.result(session, sequence);
        let is_full = |record: &Session| record.spent.len() >= RESULT_WINDOW && record.kept as usize >= RESULT_WINDOW;
        if lookup == ResultLookup::New && self.sessions.get(&session).is_some_and(is_full) {
            return Err(fail(ErrorKind::Overloaded, "the session has too many unacknowledged commands")
                .with("session", session)
                .with("limit", RESULT_WINDOW));
        }
        Ok(lookup)
    }

    /// Keeps the outcome of a command that was just executed; the oldest one leaves a full window.
    pub fn keep_result(&mut self, session: SessionId, sequence: u64, outcome: &Outcome) {
        let order = self.meta.next_order;
        self.meta.next_order += 1;
        let Some(record) = self.sessions.get_mut(&session).filter(|session| !session.ending) else { return };
        self.results.insert((session, sequence), Kept { order, outcome: outcome.encode_to_vec().into() });
        record.kept += 1;
        if record.kept as usize <= RESULT_WINDOW {
            return;
        }
        let kept = self.results.range(&(session, 0)).take_while(|((have, _), _)| *have == session);
        let oldest = kept.min_by_key(|(_, kept)| kept.order).map(|((_, sequence), _)| *sequence);
        if let Some(oldest) = oldest {
            self.results.remove(&(session, oldest));
            record.kept -= 1;
            spend(&mut record.spent, oldest);
        }
    }

    /// Drops the kept results of a session below a number, at most so many.
    pub fn drop_results(&mut self, session: SessionId, below: u64, most: usize) {
        let mut dropped = 0;
        while (dropped as usize) < most
            && let Some(((have, sequence), _)) = self.results.first_from(&(session, 0))
        {
            let key = (*have, *sequence);
            if key.0 != session || key.1 >= below {
                break;
            }
            self.results.remove(&key);
            dropped += 1;
        }
        if dropped > 0
            && let Some(record) = self.sessions.get_mut(&session)
        {
            record.kept = record.kept.saturating_sub(dropped);
        }
    }
}

fn is_spent(record: &Session, sequence: u64) -> bool {
    let after = record.spent.partition_point(|(first, _)| *first <= sequence);
    after.checked_sub(1).and_then(|at| record.spent.get(at)).is_some_and(|(_, last)| sequence <= *last)
}

/// Adds a number to ascending ranges that do not touch.
fn spend(ranges: &mut Vec<(u64, u64)>, number: u64) {
    let at = ranges.partition_point(|(first, _)| *first <= number);
    let joins_left = at > 0 && ranges.get(at - 1).is_some_and(|(_, last)| last.saturating_add(1) == number);
    let joins_right = ranges.get(at).is_some_and(|(first, _)| number.saturating_add(1) == *first);
    match (joins_left, joins_right) {
        (true, true) => {
            let (_, last) = ranges.remove(at);
            ranges[at - 1].1 = last;
        }
        (true, false) => ranges[at - 1].1 = number,
        (false, true) => ranges[at].0 = number,
        (false, false) => ranges.insert(at, (number, number)),
    }
}
