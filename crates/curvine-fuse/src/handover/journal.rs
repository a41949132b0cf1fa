//! The client's side of the hand-over, kept in the table.

use std::sync::Arc;

use curvine_client::{Inherited, Journal, Predecessor};
use curvine_types::{ClusterId, SessionId};

use super::requests::RequestRecord;
use super::table::{Field, Table};

/// Writes what the client tells into the table.
#[derive(Debug)]
pub struct TableJournal(pub Arc<Table>);

impl Journal for TableJournal {
    fn session(&self, session: SessionId, cluster: ClusterId, incarnation: u64) {
        self.0.set_session(session, cluster, incarnation);
    }

    fn numbered(&self, next: u64) {
        self.0.set(Field::NextNumber, next);
    }
}

/// What the client needs to go on; `None`: no session was ever opened.
pub fn predecessor(table: &Table, opens: Vec<Inherited>, requests: &[RequestRecord]) -> Option<Predecessor> {
    let session = table.session();
    let of_session = requests.iter().filter(|record| record.session == session);
    let unacked = of_session.flat_map(|record| record.sent.iter().map(|sent| sent.sequence)).collect();
    (session != 0).then(|| Predecessor {
        session,
        cluster: table.cluster(),
        incarnation: table.get(Field::Incarnation),
        next: table.get(Field::NextNumber),
        unacked,
        opens,
    })
}

#[cfg(test)]
mod tests {
    use curvine_client::Origin;

    use super::*;
    use crate::handover::{Limits, RequestOrigin};

    #[test]
    fn a_successor_holds_the_numbers_of_unanswered_requests() {
        let table = Arc::new(Table::create(Limits { handles: 1, requests: 4, notes: 1 }).unwrap());
        assert!(predecessor(&table, vec![], &[]).is_none());
        let journal = TableJournal(table.clone());
        journal.session(7, ClusterId::default(), 3);
        journal.numbered(12);
        let (of_before, now) = (RequestOrigin::new(&table, 2, 9, [1, 1]), RequestOrigin::new(&table, 4, 9, [1, 1]));
        of_before.sending(6, 3, 14, None);
        now.sending(7, 11, 14, None);
        let left = predecessor(&table, vec![], &table.take_requests()).unwrap();
        assert_eq!((left.session, left.incarnation, left.next, left.unacked), (7, 3, 12, vec![11]));
        journal.session(8, ClusterId::default(), 3);
        assert_eq!(predecessor(&table, vec![], &[]).unwrap().next, 1, "a new session numbers from 1");
    }
}
