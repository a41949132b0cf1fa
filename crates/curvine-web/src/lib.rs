//! What a role tells over HTTP: `/metrics` in the text format of Prometheus, `/healthz` for probes.
//!
//! Always: a page is bounded in connections, bytes and time; a port that is in use delays the page and never the role; each metric
//! is declared once, in a list of its role, from which `docs/METRICS.md` is made.

mod catalogue;
mod page;
mod process;
mod server;

pub use catalogue::{Kind, Metric, reference};
pub use page::Page;
pub use process::PROCESS;
pub use server::{Source, WebServer};
