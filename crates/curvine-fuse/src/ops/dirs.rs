//! Listings.
//!
//! Always: a listing fills the caches of the client, never those of the kernel.

use curvine_client::DirItem;
use curvine_fuse_abi::kernel::{EntryOut, OpenOut, ReadIn};
use curvine_fuse_abi::{DirBuffer, IntoBytes};

use super::Call;
use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;
use crate::convert;
use crate::handles::{Listing, Opened};
use crate::handover::{HandleRecord, Kind};

/// Entries that are asked for at once: few, so that others who wait for the same threads wait for a fraction of a millisecond.
const PAGE: u32 = 64;
/// Cookies of the two entries that every directory has; those of the client are larger.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl<B: Backend> Call<'_, B> {
    pub(super) fn opendir(&self) -> Outcome {
        if !self.server.handles.has_room() {
            return Err(Failure::Errno(libc::ENFILE));
        }
        let record = HandleRecord { inode: self.inode, request: self.request(), kind: Kind::Directory };
        let opened = self.server.handles.insert(Opened::Directory(Default::default()), &record);
        let fh = opened.map_err(|_| Failure::Errno(libc::ENFILE))?;
        Ok(Answer::Opened { fh, value: OpenOut { fh, ..OpenOut::default() }.as_bytes().to_vec() })
    }

    pub(super) async fn readdir(&self, args: &ReadIn, plus: bool) -> Outcome {
        let opened = self.server.handles.get(args.fh);
        let Some(Opened::Directory(listing)) = opened.as_deref() else {
            return Err(Failure::Errno(libc::EBADF));
        };
        let mut listing = listing.lock().await;
        let mut buffer = DirBuffer::new(args.size as usize);
        if !self.push_dots(&mut buffer, args.offset, plus) {
            return Ok(Answer::Value(buffer.into_bytes()));
        }
        let start = if args.offset <= DOT_DOT { 0 } else { args.offset };
        // The start of a listing, and a seek out of what was fetched, look at the directory anew.
        let known = if start == 0 { None } else { listing.position(start) };
        let mut position = known.unwrap_or_else(|| {
            *listing = Listing::starting_after(start);
            0
        });
        while self.push_items(&mut buffer, listing.items.get(position..).unwrap_or_default(), plus) && !listing.end {
            let after = listing.last();
            let page = match self.server.backend.readdir(self.inode, after, PAGE, plus).await {
                Ok(page) => page,
                // What is packed already is right; the error comes again with the next request.
                Err(_) if !buffer.is_empty() => break,
                Err(error) => return Err(error.into()),
            };
            *listing = Listing { after, end: page.end || page.items.is_empty(), items: page.items };
            position = 0;
        }
        Ok(Answer::Value(buffer.into_bytes()))
    }

    /// `.` and `..`, if the listing starts before them; false if there is no room for what follows.
    fn push_dots(&self, buffer: &mut DirBuffer, offset: u64, plus: bool) -> bool {
        let (node, directory) = (self.header.nodeid, convert::entry_type(curvine_proto::FileKind::Directory));
        [(DOT, &b"."[..]), (DOT_DOT, b"..")].into_iter().filter(|(cookie, _)| offset < *cookie).all(|(cookie, name)| {
            if plus {
                buffer.push_plus(&EntryOut::default(), node, cookie, directory, name)
            } else {
                buffer.push(node, cookie, directory, name)
            }
        })
    }

    /// Packs what was fetched; false if the room is used up.
    fn push_items(&self, buffer: &mut DirBuffer, items: &[DirItem], plus: bool) -> bool {
        items.iter().all(|item| {
            let (node, kind) = (self.server.node(item.inode), convert::entry_type(item.kind));
            if plus {
                // No names for the kernel's cache: it stamps those of a listing with the epoch that holds when it takes them over,
                // so that a recall which overtakes the reply would be lost. The client has them, and answers lookups at once.
                buffer.push_plus(&EntryOut::default(), node, item.cookie, kind, &item.name)
            } else {
                buffer.push(node, item.cookie, kind, &item.name)
            }
        })
    }
}
