//! Protobuf messages of the wire and of the log, the frame header, and the numbers of the methods.

pub mod error;
pub mod frame;
mod kind;
pub mod method;
mod stats;
mod time;

/// Messages compiled from `proto/`.
#[allow(missing_docs, clippy::doc_lazy_continuation, clippy::large_enum_variant)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/curvine.v1.rs"));
}

pub use method::Method;
pub use prost::Message;
pub use v1::*;
