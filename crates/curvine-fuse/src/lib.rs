//! The mount: requests of the kernel become calls of the client.

mod events;
mod mount;
mod options;

pub use events::KernelEvents;
pub use mount::{Gauges, Mount};
pub use options::FuseOptions;
