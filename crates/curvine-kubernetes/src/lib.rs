//! Curvine as a component of Kubernetes: what Fluid's CacheRuntime tells a container, and what it wants to hear.
//!
//! `runtime` reads the file that Fluid writes (both schemas), `identity` the environment, `configure` makes a config of both;
//! `mounts`, `summary`, `load` and `probe` are the answers to what Fluid and the kubelet execute; `detach` and `janitor` take
//! dead mounts off. Always: facts come in as values, so that each decision can be tested without a cluster; a credential is
//! read from its file where it is used, and is on no command line and in no log; every wait has a deadline.

pub mod configure;
pub mod detach;
pub mod identity;
pub mod janitor;
pub mod load;
pub mod masters;
pub mod mounts;
pub mod options;
pub mod probe;
pub mod quantity;
pub mod runtime;
pub mod summary;
pub mod tiers;
pub mod watch;

pub use configure::{Settings, configure};
pub use identity::{Component, Identity};
pub use runtime::Runtime;
