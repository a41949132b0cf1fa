//! Where the bytes of a read go as they come, so that whoever needs the first of them need not wait for the last.

use bytes::{Bytes, BytesMut};
use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;

/// Takes the bytes of one range. They are of the version that was expected, in their order; whether the range is whole only the end of
/// the read tells.
pub trait Sink: Send + Sync {
    /// The next part. `at`: so many bytes came before it; 0 begins anew, because an attempt that brought some of them failed.
    fn take(&self, at: u64, part: Bytes);
}

/// Most that is reserved for what is still to come.
const RESERVED_MAX: usize = 16 << 20;

/// A sink that keeps everything.
pub struct Collected {
    /// As many bytes as may come.
    capacity: usize,
    parts: Mutex<Parts>,
}

/// Most ranges come in one part, which is kept as it is.
#[derive(Default)]
enum Parts {
    #[default]
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Collected {
    /// For as many as `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        Self { capacity: usize::try_from(capacity).unwrap_or(usize::MAX), parts: Mutex::default() }
    }

    /// What has come, if that is `len` bytes. Nothing is left.
    pub fn whole(&self, len: u64) -> Result<Bytes> {
        let data = match std::mem::take(&mut *self.parts.lock()) {
            Parts::None => Bytes::new(),
            Parts::One(part) => part,
            Parts::Many(data) => data.freeze(),
        };
        if data.len() as u64 != len {
            return Err(Error::new(ErrorKind::Ufs, "the under file system delivered another length")
                .with("have", data.len())
                .with("want", len));
        }
        Ok(data)
    }

    /// A copy of `start..end` of what has come, if all of that has.
    pub fn copy(&self, start: u64, end: u64) -> Option<Bytes> {
        let parts = self.parts.lock();
        parts.bytes().get(usize::try_from(start).ok()?..usize::try_from(end).ok()?).map(Bytes::copy_from_slice)
    }
}

impl Parts {
    fn bytes(&self) -> &[u8] {
        match self {
            Parts::None => &[],
            Parts::One(part) => part,
            Parts::Many(data) => data,
        }
    }
}

impl Sink for Collected {
    fn take(&self, at: u64, part: Bytes) {
        let mut parts = self.parts.lock();
        if at == 0 {
            *parts = Parts::One(part);
            return;
        }
        match &mut *parts {
            Parts::Many(data) => data.extend_from_slice(&part),
            other => {
                let mut data = BytesMut::with_capacity(self.capacity.min(RESERVED_MAX));
                data.extend_from_slice(other.bytes());
                data.extend_from_slice(&part);
                *other = Parts::Many(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_begins_anew_replaces_what_came_before() {
        let sink = Collected::new(6);
        sink.take(0, Bytes::from_static(b"brok"));
        sink.take(4, Bytes::from_static(b"en"));
        assert_eq!((sink.copy(2, 6), sink.copy(2, 7)), (Some(Bytes::from_static(b"oken")), None));
        for (at, part) in [(0, "he"), (2, "llo"), (5, "!")] {
            sink.take(at, Bytes::from_static(part.as_bytes()));
        }
        assert_eq!((sink.copy(0, 6), sink.copy(0, 7)), (Some(Bytes::from_static(b"hello!")), None));
        assert_eq!(sink.whole(6).unwrap(), "hello!");
        let short = Collected::new(4);
        short.take(0, Bytes::from_static(b"abc"));
        assert_eq!(short.whole(4).unwrap_err().kind(), ErrorKind::Ufs);
    }
}
