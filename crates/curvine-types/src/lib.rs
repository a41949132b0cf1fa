//! Ids, names, limits, units and the one error type: the vocabulary that every other crate speaks.

pub mod date;
pub mod error;
pub mod home;
pub mod ids;
pub mod limits;
pub mod map;
pub mod name;
pub mod secret;
pub mod units;

pub use date::format_utc;
pub use error::{Error, ErrorKind, Result};
pub use ids::*;
pub use map::{FastMap, FastSet};
pub use name::Name;
pub use secret::Secret;
