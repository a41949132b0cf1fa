//! Measures a mount against the local file system below it, in one run, and the client library against its goals.
//!
//! Always:
//! * a row is measured on every ground (the local directory first, then each mount) within the same round, so that a noisy machine
//!   disturbs all of them; the figure is the median of the rounds, the ratio the median of the rounds' ratios;
//! * what is read is looked at: a wrong byte ends the benchmark with an error;
//! * nothing outside the directories that were named is touched, and what was made in them is removed.
//!
//! `row` says what is measured and what is wanted of it, `files` works on directories, `library` on the client, `remote` reads from
//! another host; `run` puts rounds together, `report` shows them.

mod cold;
pub mod files;
pub mod library;
mod measure;
mod remote;
pub mod report;
mod row;
mod run;

pub use measure::{Measure, median};
pub use remote::{RemoteOptions, remote};
pub use report::Report;
pub use row::{Figure, Goal, Row, Unit};
pub use run::{Ground, Options, Outcome, run};
