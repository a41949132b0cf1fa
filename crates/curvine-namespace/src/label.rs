//! The bytes of a name in 24 bytes of memory, if they are short; shared when a tree's node is copied.

use std::fmt;
use std::sync::Arc;

/// Longest name without an allocation.
const SHORT_MAX: usize = 22;

/// An immutable byte string; ordered as its bytes.
#[derive(Clone)]
pub enum Label {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Arc<[u8]>),
}

impl Label {
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; SHORT_MAX];
        match bytes.get_mut(..name.len()) {
            Some(start) => {
                start.copy_from_slice(name);
                Label::Short { len: name.len() as u8, bytes }
            }
            None => Label::Long(name.into()),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Label::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Label::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Label {}

impl PartialOrd for Label {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Label {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_keeps_its_bytes() {
        assert_eq!(size_of::<Label>(), 24);
        for len in [0, 1, 21, 22, 23, 255] {
            let name = vec![b'x'; len];
            assert_eq!(Label::new(&name).as_bytes(), name);
        }
        assert!(Label::new(b"a") < Label::new(&[b'b'; 40]) && Label::new(&[b'b'; 40]) < Label::new(b"c"));
    }
}
