//! The file system as a library: sessions, caches under leases, handles, the data path.
//!
//! Always:
//! * what a call returns was true at some moment between its beginning and its end, or is covered by a lease that nobody has recalled;
//! * a change is executed once, however often it had to be sent;
//! * a write that was acknowledged is with the worker (or in the log): no data waits here;
//! * every wait has a deadline, and a future may be dropped at any time: a change that has begun goes on by itself.
//!
//! The way of a call: `names`, `attrs`, `open`, `read`, `write`, `copy`, `sync`, `locks`, `admin` (operations) -> `core` (questions to the master)
//! or `mutation` (changes) -> `master` (the connection, kept by `session`) and `workers`. `cache` and `opens` hold the state.

mod admin;
mod admin_trash;
mod attrs;
mod cache;
mod clock;
mod copy;
mod core;
mod counters;
mod file;
mod fs;
mod graves;
mod handle;
mod local;
mod locks;
mod master;
mod mutation;
mod names;
mod observer;
mod open;
mod opens;
mod options;
mod origin;
mod piece;
mod read;
mod read_ahead;
mod recall;
mod session;
mod succession;
mod sync;
mod types;
mod workers;
mod write;

pub use curvine_types::home;
pub use fs::FileSystem;
pub use handle::Handle;
pub use local::{LocalContent, LocalFile, LocalUse, NotLocal};
pub use observer::Observer;
pub use options::{ClientOptions, local_hostname};
pub use origin::{Origin, on_behalf};
pub use succession::{Inherited, Journal, Predecessor, Succession};
pub use types::*;
