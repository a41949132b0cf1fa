//! Between the messages of the protocol and the structures of the kernel.

use curvine_fuse_abi::kernel::{self, FileLock, SetattrIn, fattr};
use curvine_proto::{FileKind, LockHolder, LockKind, LockType, SetAttr, SetLock, Time};
use curvine_types::limits::PIECE_SIZE;

/// The kernel's largest offset; as the end of a lock it means the end of the file.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// The file type bits of a mode.
pub fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
        FileKind::File | FileKind::Unknown => libc::S_IFREG,
    }
}

/// What MKNOD makes of a mode; `None` for what it cannot make.
pub fn node_kind(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Some(FileKind::File),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

/// The `DT_*` number of a listing.
pub fn entry_type(kind: FileKind) -> u32 {
    type_bits(kind) >> 12
}

/// The permission bits, setuid, setgid and sticky.
pub fn permissions(mode: u32) -> u32 {
    mode & 0o7777
}

/// Attributes as the kernel wants them; `node` is the inode's number in this mount.
pub fn attr(attr: &curvine_proto::Attr, node: u64) -> kernel::Attr {
    let time = |time: &Option<Time>| time.as_ref().map_or((0, 0), |time| (time.sec as u64, time.nsec));
    let (atime, atimensec) = time(&attr.atime);
    let (mtime, mtimensec) = time(&attr.mtime);
    let (ctime, ctimensec) = time(&attr.ctime);
    kernel::Attr {
        ino: node,
        size: attr.size,
        blocks: attr.blocks,
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        mode: type_bits(attr.kind()) | permissions(attr.mode),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        // What programs size their buffers by: the unit that is checksummed and so fetched anyway.
        blksize: PIECE_SIZE as u32,
        flags: 0,
    }
}

/// The change that SETATTR asks for.
pub fn setattr(args: &SetattrIn) -> SetAttr {
    let wants = |bit: u32| args.valid & bit != 0;
    let time = |bit: u32, now: u32, sec: u64, nsec: u32| {
        (wants(bit) && !wants(now)).then(|| Time::new(sec as i64, nsec.min(999_999_999)))
    };
    let owner_changes = wants(fattr::UID) || wants(fattr::GID);
    // chown(-1, -1) comes without any bit that says what changes.
    const CHANGES: u32 = fattr::MODE
        | fattr::UID
        | fattr::GID
        | fattr::SIZE
        | fattr::ATIME
        | fattr::MTIME
        | fattr::CTIME
        | fattr::ATIME_NOW
        | fattr::MTIME_NOW;
    let nothing_else = args.valid & CHANGES == 0;
    SetAttr {
        mode: wants(fattr::MODE).then(|| permissions(args.mode)),
        uid: wants(fattr::UID).then_some(args.uid),
        gid: wants(fattr::GID).then_some(args.gid),
        size: wants(fattr::SIZE).then_some(args.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, args.atime, args.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, args.mtime, args.mtimensec),
        ctime: wants(fattr::CTIME).then(|| Time::new(args.ctime as i64, args.ctimensec)),
        atime_now: wants(fattr::ATIME_NOW),
        mtime_now: wants(fattr::MTIME_NOW),
        // HANDLE_KILLPRIV_V2: a change of owner drops setuid and setgid whoever asks, unless the mode is set along with it.
        kill_privileges: wants(fattr::KILL_SUIDGID) || ((owner_changes || nothing_else) && !wants(fattr::MODE)),
        ..SetAttr::default()
    }
}

/// A lock as the kernel describes it; `None` for a type that does not exist.
pub fn lock(args: &kernel::LkIn) -> Option<SetLock> {
    let kind = match i32::try_from(args.lock.kind).ok()? {
        libc::F_RDLCK => LockType::Read,
        libc::F_WRLCK => LockType::Write,
        libc::F_UNLCK => LockType::Unlock,
        _ => return None,
    };
    let flock = args.flags & kernel::LK_FLOCK != 0;
    Some(SetLock {
        kind: if flock { LockKind::Flock } else { LockKind::Posix }.into(),
        r#type: kind.into(),
        start: if flock { 0 } else { args.lock.start },
        end: if flock || args.lock.end >= OFFSET_MAX { u64::MAX } else { args.lock.end },
        owner: args.owner,
        pid: args.lock.pid,
        ..SetLock::default()
    })
}

/// The dropping of a whole flock.
pub fn flock_unlock(owner: u64) -> SetLock {
    SetLock {
        kind: LockKind::Flock.into(),
        r#type: LockType::Unlock.into(),
        end: u64::MAX,
        owner,
        ..SetLock::default()
    }
}

/// The answer to GETLK.
pub fn conflict(holder: Option<&LockHolder>) -> FileLock {
    let Some(holder) = holder else {
        return FileLock { kind: libc::F_UNLCK as u32, ..FileLock::default() };
    };
    let kind = if holder.r#type() == LockType::Write { libc::F_WRLCK } else { libc::F_RDLCK };
    FileLock { start: holder.start, end: holder.end.min(OFFSET_MAX), kind: kind as u32, pid: holder.pid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_type_bits_and_comes_back() {
        let made = [FileKind::File, FileKind::Fifo, FileKind::Socket, FileKind::CharDevice, FileKind::BlockDevice];
        for kind in made {
            assert_eq!(node_kind(type_bits(kind) | 0o644), Some(kind));
        }
        assert_eq!(node_kind(libc::S_IFDIR), None);
        assert_eq!(entry_type(FileKind::Directory), u32::from(libc::DT_DIR));
        assert_eq!(entry_type(FileKind::Symlink), u32::from(libc::DT_LNK));
    }

    #[test]
    fn a_change_of_owner_drops_privileges_and_a_change_of_mode_sets_them() {
        let change = |valid| setattr(&SetattrIn { valid, mode: 0o104755, uid: 7, ..SetattrIn::default() });
        assert!(change(fattr::UID).kill_privileges);
        assert!(change(0).kill_privileges);
        assert!(!change(fattr::UID | fattr::MODE).kill_privileges);
        assert_eq!(change(fattr::MODE).mode, Some(0o4755));
        assert!(!change(fattr::SIZE | fattr::FH).kill_privileges);
        assert!(change(fattr::SIZE | fattr::KILL_SUIDGID).kill_privileges);
        assert_eq!(change(fattr::UID).gid, None);
    }

    #[test]
    fn now_is_left_to_the_master() {
        let args =
            SetattrIn { valid: fattr::ATIME | fattr::ATIME_NOW | fattr::MTIME, mtime: 5, ..SetattrIn::default() };
        let change = setattr(&args);
        assert!(change.atime_now && change.atime.is_none());
        assert_eq!((change.mtime_now, change.mtime), (false, Some(Time::new(5, 0))));
    }

    #[test]
    fn a_lock_to_the_end_of_the_file_stays_one() {
        let file_lock = FileLock { start: 10, end: OFFSET_MAX, kind: libc::F_WRLCK as u32, pid: 3 };
        let args = kernel::LkIn { owner: 9, lock: file_lock, ..Default::default() };
        let lock = lock(&args).unwrap();
        assert_eq!((lock.start, lock.end, lock.owner, lock.r#type()), (10, u64::MAX, 9, LockType::Write));
        let holder =
            LockHolder { r#type: lock.r#type, start: lock.start, end: lock.end, pid: lock.pid, ..Default::default() };
        assert_eq!(conflict(Some(&holder)), file_lock);
        assert_eq!(conflict(None).kind, libc::F_UNLCK as u32);
        assert!(super::lock(&kernel::LkIn { lock: FileLock { kind: 77, ..file_lock }, ..args }).is_none());
    }
}
