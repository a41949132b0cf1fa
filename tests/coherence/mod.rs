//! The coherence checker: what several mounts saw must have one explanation.
//!
//! `workload` drives real system calls from threads on different mounts and writes down when each began, when it returned and
//! what it said. `verdict` sorts that by object (the names of the directory; of each file its size, its mode, its content at
//! sample offsets; of each log its records), and `linear` looks for an order of the operations on the object that respects
//! time and explains every result. Objects are independent, so that an explanation of each is one of the whole.

pub mod history;
pub mod linear;
#[cfg(test)]
mod linear_test;
pub mod models;
#[cfg(test)]
mod models_test;
pub mod verdict;
#[cfg(test)]
mod verdict_test;
pub mod workload;
