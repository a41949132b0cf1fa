//! File leases (fcntl(2), F_SETLEASE), which no safe wrapper offers: the kernel's word on who else has a file open.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `include/uapi/asm-generic/fcntl.h`; libc lacks it.
const F_SETSIG: libc::c_int = 10;

/// Whether nobody else has the file open or mapped. `file` must be this process's only open of it.
pub(crate) fn is_alone(file: &File) -> io::Result<bool> {
    probe(file, libc::F_WRLCK)
}

/// Whether nobody has the file open for writing or mapped what was open so. `file` must be open for reading only.
pub(crate) fn has_no_writer(file: &File) -> io::Result<bool> {
    probe(file, libc::F_RDLCK)
}

/// Takes a lease and gives it back: the kernel grants it only if there is no conflicting open. The caller sees to it that none
/// is made by this process meanwhile; another process that comes in between waits until the lease is given back.
fn probe(file: &File, kind: libc::c_int) -> io::Result<bool> {
    // Whoever breaks the lease has the kernel send a signal; the default one would end the process, this one is ignored.
    fcntl(file, F_SETSIG, libc::SIGURG)?;
    match fcntl(file, libc::F_SETLEASE, kind) {
        Ok(()) => fcntl(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; both commands take an int and no pointer.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
