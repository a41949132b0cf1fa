//! Identities. Numbers are plain `u64` because they travel in every message; the alias says which one is meant.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind};

/// An inode. Never reused; the root is [`ROOT_INODE`]; also the FUSE node id.
pub type InodeId = u64;
/// A client or worker session, numbered by the namespace; 0 is the master itself.
pub type SessionId = u64;
/// Which content of an inode: raised when the content is replaced as a whole or the store's object changed.
pub type Generation = u64;
/// Which replica set of a block: raised in the log whenever the set changes.
pub type BlockVersion = u64;
/// Which holder set of a write grant: raised when a writer is fenced.
pub type GrantEpoch = u64;
/// A worker, numbered by the namespace when its disks first register.
pub type WorkerId = u64;
/// An entry of the mount table of under file systems.
pub type MountId = u32;
/// A directory cookie: the insertion number of the entry in its directory, above 2.
pub type Cookie = u64;

/// The root directory of the file system.
pub const ROOT_INODE: InodeId = 1;

/// The identity of a cluster: made when it is first initialised, carried by all that belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Reads the 16 bytes of a message or a file header.
    pub fn from_slice(bytes: &[u8]) -> crate::Result<Self> {
        let id = bytes
            .try_into()
            .map_err(|_| Error::new(ErrorKind::Corrupt, "a cluster id has 16 bytes").with("length", bytes.len()))?;
        Ok(Self(id))
    }

    /// Whether this is "no cluster yet".
    pub fn is_nil(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            if matches!(position, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        let invalid = || Error::new(ErrorKind::InvalidArgument, "not a cluster uuid").with("text", text);
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        if digits.len() != 32 || !digits.is_ascii() {
            return Err(invalid());
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_survives_its_text_form() {
        let id = ClusterId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<ClusterId>().unwrap(), id);
        assert!("30313233".parse::<ClusterId>().is_err());
        assert!("zz313233-3435-3637-3839-616263646566".parse::<ClusterId>().is_err());
    }
}
