//! What answers consist of: conversions into the kernel's structures, and the packing of directory listings.

use std::time::Duration;

use zerocopy::IntoBytes;

use crate::kernel::*;

/// An entry of LOOKUP, MKDIR, MKNOD, SYMLINK, LINK and CREATE. `nodeid` 0 is a name that is known to be absent.
pub fn entry_out(attr: &Attr, entry_valid: Duration, attr_valid: Duration) -> EntryOut {
    EntryOut {
        nodeid: attr.ino,
        generation: 0,
        entry_valid: entry_valid.as_secs(),
        attr_valid: attr_valid.as_secs(),
        entry_valid_nsec: entry_valid.subsec_nanos(),
        attr_valid_nsec: attr_valid.subsec_nanos(),
        attr: *attr,
    }
}

/// The answer to LOOKUP of an absent name that the kernel may remember for `valid`.
pub fn negative_entry_out(valid: Duration) -> EntryOut {
    EntryOut { entry_valid: valid.as_secs(), entry_valid_nsec: valid.subsec_nanos(), ..EntryOut::default() }
}

/// The answer to GETATTR and SETATTR.
pub fn attr_out(attr: &Attr, valid: Duration) -> AttrOut {
    AttrOut { attr_valid: valid.as_secs(), attr_valid_nsec: valid.subsec_nanos(), dummy: 0, attr: *attr }
}

/// The answer to STATX: what GETATTR says, and the time of birth if it is known.
pub fn statx_out(attr: &Attr, birth: Option<(i64, u32)>, valid: Duration) -> StatxOut {
    const BASIC_STATS: u32 = 0x7ff;
    const BTIME: u32 = 0x800;
    let time = |sec: u64, nsec: u32| SxTime { sec: sec as i64, nsec, reserved: 0 };
    let (sec, nsec) = birth.unwrap_or_default();
    let stat = Statx {
        mask: if birth.is_some() { BASIC_STATS | BTIME } else { BASIC_STATS },
        blksize: attr.blksize,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.mode as u16,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime, attr.atimensec),
        btime: SxTime { sec, nsec, reserved: 0 },
        ctime: time(attr.ctime, attr.ctimensec),
        mtime: time(attr.mtime, attr.mtimensec),
        // The 32-bit device number of `new_encode_dev`.
        rdev_major: (attr.rdev >> 8) & 0xfff,
        rdev_minor: (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00),
        ..Statx::default()
    };
    StatxOut { attr_valid: valid.as_secs(), attr_valid_nsec: valid.subsec_nanos(), stat, ..StatxOut::default() }
}

/// Packs a listing into the room that the kernel offers; names are padded to 8 bytes.
#[derive(Debug)]
pub struct DirBuffer {
    bytes: Vec<u8>,
    room: usize,
}

impl DirBuffer {
    /// A listing of at most `room` bytes.
    pub fn new(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room.min(64 << 10)), room }
    }

    /// Adds an entry of READDIR; false if it does not fit, and then nothing was added. `next` is the cookie that goes on
    /// after this entry, `kind` a `DT_*` number.
    #[must_use]
    pub fn push(&mut self, inode: u64, next: u64, kind: u32, name: &[u8]) -> bool {
        self.add(None, inode, next, kind, name)
    }

    /// Adds an entry of READDIRPLUS. An entry with node id 0 is a name without attributes, which the kernel does not cache.
    #[must_use]
    pub fn push_plus(&mut self, entry: &EntryOut, inode: u64, next: u64, kind: u32, name: &[u8]) -> bool {
        self.add(Some(entry), inode, next, kind, name)
    }

    fn add(&mut self, entry: Option<&EntryOut>, inode: u64, next: u64, kind: u32, name: &[u8]) -> bool {
        let entry = entry.map(IntoBytes::as_bytes).unwrap_or_default();
        let end = self.bytes.len() + entry.len() + size_of::<Dirent>() + name.len();
        let padded = end.next_multiple_of(8);
        if padded > self.room {
            return false;
        }
        self.bytes.extend_from_slice(entry);
        let head = Dirent { ino: inode, off: next, namelen: name.len() as u32, kind };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(padded, 0);
        true
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The listing as packed.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    #[test]
    fn a_listing_is_padded_and_stops_at_its_room() {
        let mut buffer = DirBuffer::new(24 + 8 + 24 + 8);
        assert!(buffer.push(5, 3, 8, b"abc"));
        assert!(!buffer.push(6, 4, 8, b"nine chars"));
        assert!(buffer.push(6, 4, 4, b"12345678"));
        assert!(!buffer.push(7, 5, 8, b""));
        let bytes = buffer.into_bytes();
        let (first, rest) = Dirent::read_from_prefix(&bytes).unwrap();
        assert_eq!((first.ino, first.off, first.namelen, first.kind), (5, 3, 3, 8));
        assert_eq!(&rest[..8], b"abc\0\0\0\0\0");
        let (second, rest) = Dirent::read_from_prefix(&rest[8..]).unwrap();
        assert_eq!((second.off, second.namelen), (4, 8));
        assert_eq!(rest, b"12345678");
    }

    #[test]
    fn a_device_number_is_split_as_the_kernel_packed_it() {
        // new_encode_dev(major 259, minor 70000)
        let rdev = (70_000 & 0xff) | (259 << 8) | ((70_000 & !0xff) << 12);
        let out = statx_out(&Attr { rdev, ..Attr::default() }, None, Duration::ZERO);
        assert_eq!((out.stat.rdev_major, out.stat.rdev_minor), (259, 70_000));
    }
}
