//! What a serving process leaves behind for its successor, in memory that the supervisor keeps.
//!
//! `inbox` holds whole requests where the kernel does not send them again; `table` is the memory and its header of all else, `handles` and `requests` are its records; `origin` and `journal` write them while requests
//! are served. Always: a record is complete before the reply that depends on it leaves, and it goes only after the reply that
//! ends it.

mod handles;
mod inbox;
mod journal;
mod notes;
mod origin;
mod requests;
mod table;

pub use handles::{HandleRecord, Kind, NOBODY, RecordedWay};
pub use inbox::{Inbox, Left, Slot, Unanswered};
pub use journal::{TableJournal, predecessor};
pub use notes::LockNote;
pub use origin::RequestOrigin;
pub use requests::RequestRecord;
pub use table::{Limits, OLDEST, Table, VERSION, check_version};
