//! What is stored, and over what.

use bytes::Bytes;
use curvine_types::Result;
use futures::future::BoxFuture;

use crate::Expect;

/// Bytes on their way into a store. They do not change while they are read.
pub trait Source: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;

    /// Names these very bytes; kept with the object where the store can, so that an attempt whose answer was lost is recognised.
    /// Printable ASCII.
    fn token(&self) -> &str;

    /// Exactly `len` bytes from `offset`.
    fn read<'a>(&'a self, offset: u64, len: u64) -> BoxFuture<'a, Result<Bytes>>;

    /// An upload of these very bytes that was begun earlier and may not have ended: what it has is not sent again.
    fn resume(&self) -> Option<&str> {
        None
    }

    /// An upload has begun in the store and nothing of it is sent yet. When this returns its id is where it outlives the process, so
    /// that somebody can abort it; an error gives the upload up.
    fn begun<'a>(&'a self, upload: &'a str) -> BoxFuture<'a, Result<()>>;

    /// The last check before the object becomes visible.
    fn check<'a>(&'a self) -> BoxFuture<'a, Result<()>>;
}

/// What a store must have under a key before it is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever there is.
    Any,
    /// Nothing.
    Absent,
    /// This version.
    Is(Expect),
}
