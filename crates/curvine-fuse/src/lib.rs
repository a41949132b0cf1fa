//! The mount: requests of the kernel become calls of the client.
//!
//! `mount` starts and ends it, `server` reads requests and answers them, `ops` says what each means. `events` goes the other
//! way: what the client learns about its caches is told to the kernel.

mod answer;
mod backend;
mod backing;
mod buffers;
mod contested;
mod convert;
mod events;
mod gate;
mod handles;
pub mod handover;
mod interrupt;
mod io_mode;
mod lock_owners;
mod memory;
pub mod metrics;
mod mount;
mod ops;
mod options;
mod orphans;
mod overtakes;
mod pages;
mod passthrough;
mod server;
mod stage;
pub mod supervisor;
mod tail;

pub use backend::Backend;
pub use events::KernelEvents;
pub use io_mode::IoMode;
pub use mount::{Gauges, Mount};
pub use options::{FuseOptions, PassthroughWrites};
