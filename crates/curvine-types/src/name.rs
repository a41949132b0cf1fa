//! A directory entry's name that has been checked once and need not be checked again.

use std::fmt;

use crate::limits::NAME_MAX;
use crate::{Error, ErrorKind, Result};

/// 1 to 255 bytes without `/` and NUL, neither `.` nor `..`. Not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks `bytes`; `NameTooLong` above 255 bytes, `InvalidArgument` for what no directory can hold.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > NAME_MAX {
            return Err(Error::new(ErrorKind::NameTooLong, "a name has at most 255 bytes").with("length", bytes.len()));
        }
        let reserved = matches!(bytes, b"" | b"." | b"..");
        if reserved || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a valid name of a directory entry")
                .with("name", String::from_utf8_lossy(bytes)));
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes as given.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The owned bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_directory_can_hold_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
        assert_eq!(Name::new(&[b'x'; 256]).unwrap_err().kind(), ErrorKind::NameTooLong);
        assert_eq!(Name::new(&[0xff; 255]).unwrap().as_bytes().len(), 255);
        assert!(Name::new(b"...").is_ok());
    }
}
