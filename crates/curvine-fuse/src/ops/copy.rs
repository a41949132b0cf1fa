//! Copies within the file system, files without names, and syncing everything.

use curvine_client::NewFile;
use curvine_fuse_abi::IntoBytes;
use curvine_fuse_abi::kernel::{CopyFileRangeIn, CopyFileRangeOut, WriteOut};

use super::Call;
use super::files::open_flags;
use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;
use crate::convert;

impl<B: Backend> Call<'_, B> {
    /// The kernel has checked the ranges, written mapped pages back, and drops those of the target that are copied over.
    pub(super) async fn copy_file_range(&self, args: &CopyFileRangeIn, wide: bool) -> Outcome {
        if args.flags != 0 {
            return Err(Failure::Errno(libc::EINVAL));
        }
        let (_, from) = self.file(args.fh_in)?;
        let (_, to) = self.file(args.fh_out)?;
        let (from, to) = ((&from, args.off_in), (&to, args.off_out));
        // The narrow answer has 32 bits.
        let length = if wide { args.len } else { args.len.min(u64::from(u32::MAX)) };
        let copied = self.server.backend.copy_range(from, to, length, self.drops_privileges()).await?;
        Ok(if wide {
            Answer::value(&CopyFileRangeOut { bytes_copied: copied })
        } else {
            Answer::value(&WriteOut { size: u32::try_from(copied).unwrap_or(u32::MAX), padding: 0 })
        })
    }

    /// Whether a change of data by this caller drops setuid and setgid. With writes the kernel says so; here it does not, so that
    /// the user decides: root has CAP_FSETID.
    pub(super) fn drops_privileges(&self) -> bool {
        self.header.uid != 0
    }

    /// O_TMPFILE; the header's node is the directory.
    pub(super) async fn tmpfile(&self, flags: u32, mode: u32, umask: u32) -> Outcome {
        self.check_room()?;
        let wanted = open_flags(flags);
        let new = NewFile {
            mode: convert::permissions(mode),
            umask,
            uid: self.header.uid,
            gid: self.header.gid,
            exclusive: flags as i32 & libc::O_EXCL != 0,
            open: Some(wanted),
        };
        let (entry, handle) = self.server.backend.create_unnamed(self.inode, new).await?;
        let (fh, out) = self.opened(entry.attr.inode, handle, wanted, Some(self.inode)).await?;
        let entry = curvine_client::Entry { attr_ttl: std::time::Duration::ZERO, ..entry };
        let mut value = self.entry(&entry).as_bytes().to_vec();
        value.extend_from_slice(out.as_bytes());
        Ok(Answer::Opened { fh, value })
    }

    /// Only virtiofs and mounts of block devices ask for it; the kernel answers syncfs(2) on others by itself.
    pub(super) async fn syncfs(&self) -> Outcome {
        self.server.backend.sync().await?;
        Ok(Answer::Done)
    }
}
