//! Reads a state back, believing nothing that a checksum has not confirmed.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use curvine_proto::{FileKind, Message, NoteTreeMove, WorkerState};
use curvine_types::limits::{INLINE_MAX, NAME_MAX};
use curvine_types::{ClusterId, Error, ErrorKind, Result};

use super::record_forms::*;
use super::{BLOCK_HEADER_LEN, BLOCK_MAX, HEADER_LEN, MAGIC, Section, VERSION, crc32c};
use crate::api::WorkerRecord;
use crate::label::Label;
use crate::memory::Memory;
use crate::record::*;
use crate::stamp::Stamp;
use crate::state::{Meta, State};
use crate::store::Store;

/// Reads a whole snapshot.
pub(crate) fn restore(reader: &mut dyn Read) -> Result<State> {
    let mut input = Input { reader, offset: 0, section: Section::End };
    let header: [u8; HEADER_LEN] = input.array()?;
    if header[..8] != MAGIC {
        return Err(input.foreign("not a snapshot of a namespace"));
    }
    if word(&header[28..]) != crc32c(&header[..28]) {
        return Err(input.corrupt("checksum of the header differs"));
    }
    let version = word(&header[8..12]);
    if version != VERSION {
        return Err(input.foreign("the format is not one that this version reads").with("version", version));
    }
    let cluster = ClusterId::from_slice(&header[12..28])?;
    let mut state = State { store: Memory::new(cluster.0), ..State::default() };
    state.meta.cluster = (!cluster.is_nil()).then_some(cluster);

    let mut locks = BTreeMap::new();
    let mut total = 0;
    for number in 0.. {
        let (section, records, payload) = input.block(number)?;
        let mut rest = payload.as_slice();
        for _ in 0..records {
            if section == Section::End {
                let end: EndForm = input.record(&mut rest)?;
                if end.records != total {
                    return Err(input.corrupt("records are missing"));
                }
                break;
            }
            total += 1;
            take_record(&mut state, &mut locks, &input, section, &mut rest)?;
        }
        if !rest.is_empty() {
            return Err(input.corrupt("a block is longer than its records"));
        }
        if section == Section::End {
            break;
        }
    }
    state.store.index_names();
    for (inode, list) in locks {
        state.locks.insert(inode, Arc::new(list));
    }
    Ok(state)
}

pub(super) fn take_record(
    state: &mut State,
    locks: &mut BTreeMap<u64, Vec<Lock>>,
    input: &Input,
    section: Section,
    rest: &mut &[u8],
) -> Result<()> {
    let is_new = match section {
        Section::End => true,
        Section::Meta => {
            let form: MetaForm = input.record(rest)?;
            state.meta = Meta {
                cluster: state.meta.cluster,
                feature_level: form.feature_level,
                now: Stamp::from_bits(form.now),
                next_inode: form.next_inode,
                next_cookie: form.next_cookie,
                next_session: form.next_session,
                next_worker: form.next_worker,
                next_mount: form.next_mount,
                next_order: form.next_order,
                // Of a version without jobs.
                next_job: form.next_job.max(1),
                stores: form.stores,
                pins_change: form.pins_change,
                // Of a version without trash.
                next_trash: form.next_trash.max(1),
                tally: state.meta.tally,
            };
            true
        }
        Section::Sessions => take_session(state, input.record(rest)?),
        Section::Results => take_result(state, input.record(rest)?),
        Section::Workers => {
            let form: WorkerForm = input.record(rest)?;
            let uuid = form.uuid.try_into().map_err(|_| input.corrupt("a worker's uuid has 16 bytes"))?;
            // A state that only a later version knows keeps new content away as well.
            let service = WorkerState::try_from(form.state).unwrap_or(WorkerState::Decommissioned);
            let (id, hostname, rpc_port, socket) = (form.id, form.hostname, form.rpc_port, form.socket);
            let record = WorkerRecord { id, uuid, hostname, rpc_port, socket, state: service };
            state.workers.insert(id, record).is_none()
        }
        Section::Mounts => {
            let form: MountForm = input.record(rest)?;
            let mount = Mount {
                url: form.url,
                options: form.options,
                secrets: form.secrets,
                settings: form.settings.unwrap_or_default(),
                change: form.change,
                root: form.root,
                many_removed: Stamp::from_bits(form.many_removed),
            };
            state.mounts.insert(form.id, Arc::new(mount)).is_none()
        }
        Section::Inodes => take_inode(state, input, input.record(rest)?)?,
        Section::Dentries => take_dentry(state, input, input.record(rest)?)?,
        Section::Links => {
            let form: LinkForm = input.record(rest)?;
            state.store.put_link(form.inode, form.dir, form.cookie);
            true
        }
        Section::Xattrs => {
            let form: XattrForm = input.record(rest)?;
            let is_new = state.store.xattr(form.inode, &form.name).is_none();
            state.store.put_xattr(form.inode, &form.name, form.value.into());
            is_new
        }
        Section::Inline => take_inline(state, input, input.record(rest)?)?,
        Section::Placed => {
            let form: PlacedForm = input.record(rest)?;
            let is_new = state.store.placed(form.inode).is_none();
            let inode = form.inode;
            let placed = placed(form).ok_or_else(|| input.foreign("an unknown kind of layout"))?;
            state.store.put_placed(inode, Arc::new(placed));
            is_new
        }
        Section::UfsDirs => {
            let form: UfsDirForm = input.record(rest)?;
            let complete_at = form.complete_at.checked_sub(1).map(Stamp::from_bits);
            let dir = UfsDirectory { mount: form.mount, prefix: form.prefix.into(), complete_at, stored: form.stored };
            state.ufs_dirs.insert(form.inode, dir).is_none()
        }
        Section::Grants => {
            let form: GrantForm = input.record(rest)?;
            for writer in &form.writers {
                state.held.insert((*writer, Held::Write, form.inode), ());
            }
            state.grants.insert(form.inode, GrantRecord { epoch: form.epoch, writers: form.writers }).is_none()
        }
        Section::Orphans => {
            let form: OrphanForm = input.record(rest)?;
            state.held.insert((form.session, Held::Orphan, form.inode), ());
            state.orphans.insert((form.inode, form.session), ()).is_none()
        }
        Section::Locks => {
            let form: LockForm = input.record(rest)?;
            state.held.insert((form.session, Held::Lock, form.inode), ());
            locks.entry(form.inode).or_default().push(lock(&form));
            true
        }
        Section::Garbage => {
            let form: GarbageForm = input.record(rest)?;
            state.garbage.insert((form.worker, form.inode, form.generation), ()).is_none()
        }
        Section::Doomed => {
            let form: DoomedForm = input.record(rest)?;
            state.doomed.insert(form.table, ()).is_none()
        }
        Section::Jobs => {
            let form: JobForm = input.record(rest)?;
            let job = curvine_proto::Job::decode(&form.job[..]);
            let job = job.map_err(|error| input.corrupt("a job cannot be read").caused_by(error))?;
            if job.id != form.id {
                return Err(input.corrupt("a job of another number"));
            }
            state.insert_job(job)
        }
        Section::Ttls => {
            let TtlForm { inode, millis, delete } = input.record(rest)?;
            state.ttls.insert(inode, Ttl { millis, delete }).is_none()
        }
        Section::TreeMoves => {
            let TreeMoveForm { mount, from, to, millis, worker, rename, session, sequence } = input.record(rest)?;
            let rename = if rename.is_empty() { None } else { Some(curvine_proto::Rename::decode(&rename[..])) };
            let rename =
                rename.transpose().map_err(|error| input.corrupt("a rename cannot be read").caused_by(error))?;
            let key = (mount, from.as_str().into());
            let noted =
                NoteTreeMove { mount, from, to, lasts_ms: millis, over: false, worker, rename, session, sequence };
            state.tree_moves.insert(key, Arc::new(noted)).is_none()
        }
        Section::Trash => {
            let form: TrashForm = input.record(rest)?;
            let entry = curvine_proto::TrashEntry::decode(&form.entry[..]);
            let entry =
                entry.map_err(|error| input.corrupt("an entry of the trash cannot be read").caused_by(error))?;
            if entry.id != form.id {
                return Err(input.corrupt("an entry of the trash of another number"));
            }
            state.insert_trash(entry)
        }
        Section::Pins => {
            let form: PinForm = input.record(rest)?;
            state.pins.insert(form.inode, ()).is_none()
        }
        Section::Quotas => {
            let QuotaForm { inode, bytes, files, used_bytes, used_files, counted } = input.record(rest)?;
            state.quotas.insert(inode, Quota { bytes, files, used_bytes, used_files, counted }).is_none()
        }
    };
    if is_new { Ok(()) } else { Err(input.corrupt("a record is there twice")) }
}

fn take_session(state: &mut State, form: SessionForm) -> bool {
    let session = Session {
        kind: form.kind,
        client: form.client.into(),
        hostname: form.hostname.into(),
        opened: Stamp::from_bits(form.opened),
        lowest_unacked: form.lowest_unacked,
        kept: 0,
        spent: form.spent.as_chunks().0.iter().map(|[first, last]| (*first, *last)).collect(),
        ending: form.ending,
    };
    if form.ending {
        state.ending.insert(form.id, ());
    }
    state.clients.insert((session.client.clone(), form.id), ());
    state.sessions.insert(form.id, session).is_none()
}

fn take_result(state: &mut State, form: ResultForm) -> bool {
    if let Some(session) = state.sessions.get_mut(&form.session) {
        session.kept += 1;
    }
    let kept = Kept { order: form.order, outcome: form.outcome.into() };
    state.results.insert((form.session, form.sequence), kept).is_none()
}

fn take_inode(state: &mut State, input: &Input, form: InodeForm) -> Result<bool> {
    let kind = i32::try_from(form.kind).ok().and_then(|kind| FileKind::try_from(kind).ok());
    let kind = kind.ok_or_else(|| input.foreign("an unknown kind of inode"))?;
    let mut inode = Inode::new(kind, form.mode, form.uid, form.gid, Stamp::default());
    inode.flags = u8::try_from(form.flags).map_err(|_| input.foreign("an unknown flag of an inode"))?;
    inode.nlink = form.nlink;
    inode.size = form.size;
    inode.content = form.content;
    inode.change = form.change;
    inode.atime = Stamp::from_bits(form.atime);
    inode.mtime = Stamp::from_bits(form.mtime);
    inode.ctime = Stamp::from_bits(form.ctime);
    inode.btime = Stamp::from_bits(form.btime);
    inode.parent = form.parent;
    inode.cookie = form.cookie;
    if inode.has(LIVE) {
        state.live.insert(form.id, ());
    }
    let is_new = state.store.inode(form.id).is_none();
    state.meta.tally.count(&inode, true);
    state.store.put_inode(form.id, inode);
    Ok(is_new)
}

fn take_dentry(state: &mut State, input: &Input, form: DentryForm) -> Result<bool> {
    if form.state != 0 {
        return Err(input.foreign("an entry that waits to be written to its under file system"));
    }
    if form.name.is_empty() || form.name.len() > NAME_MAX {
        return Err(input.corrupt("a name has 1 to 255 bytes"));
    }
    let dentry = Dentry { name: Label::new(&form.name), child: form.child };
    Ok(state.store.load_dentry(form.table, form.cookie, dentry))
}

fn take_inline(state: &mut State, input: &Input, form: InlineForm) -> Result<bool> {
    if form.data.len() > INLINE_MAX {
        return Err(input.corrupt("inline content is too large"));
    }
    let is_new = state.store.inline(form.inode).is_none();
    state.meta.tally.inline_bytes += form.data.len() as u64;
    state.store.put_inline(form.inode, form.data.into());
    Ok(is_new)
}

fn placed(form: PlacedForm) -> Option<Placed> {
    match (form.blocks, form.ufs) {
        (Some(blocks), None) => {
            let extents = blocks.extents.into_iter().map(|extent| Extent {
                first_block: extent.first_block,
                block_count: extent.block_count,
                version: extent.version,
                workers: extent.workers,
            });
            let (block_size, allocated) = (blocks.block_size, blocks.allocated);
            Some(Placed::Blocks(Blocks { block_size, allocated, extents: extents.collect() }))
        }
        (None, Some(ufs)) => Some(Placed::Ufs(UfsObject {
            mount: ufs.mount,
            key: ufs.key.into(),
            etag: ufs.etag.into(),
            size: ufs.size,
            mtime: Stamp::from_bits(ufs.mtime),
            stored: ufs.stored,
        })),
        _ => None,
    }
}

fn lock(form: &LockForm) -> Lock {
    Lock {
        flock: form.flock,
        write: form.write,
        start: form.start,
        end: form.end,
        session: form.session,
        owner: form.owner,
        pid: form.pid,
    }
}

/// A little-endian number of four bytes.
pub(super) fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// The source, and where in it we are, for errors.
pub(super) struct Input<'a> {
    pub reader: &'a mut dyn Read,
    pub offset: u64,
    pub section: Section,
}

impl Input<'_> {
    /// The next block: its section, the number of its records, its payload.
    fn block(&mut self, number: u32) -> Result<(Section, u32, Vec<u8>)> {
        let header: [u8; BLOCK_HEADER_LEN] = self.array()?;
        let field = |index: usize| header.get(index * 4..).map_or(0, word);
        if field(5) != crc32c(&header[..BLOCK_HEADER_LEN - 4]) {
            return Err(self.corrupt("checksum of a block's header differs"));
        }
        let section = Section::from_number(field(0));
        let section = section.ok_or_else(|| self.foreign("a section that only a newer version knows"))?;
        if field(1) != number || section < self.section && section != Section::End {
            return Err(self.corrupt("blocks are out of order"));
        }
        self.section = section;
        let length = field(3) as usize;
        if length > BLOCK_MAX {
            return Err(self.corrupt("a block is too long").with("length", length));
        }
        let mut payload = vec![0; length];
        self.fill(&mut payload)?;
        if field(4) != crc32c(&payload) {
            return Err(self.corrupt("checksum of a block differs"));
        }
        Ok((section, field(2), payload))
    }

    fn record<M: Message + Default>(&self, rest: &mut &[u8]) -> Result<M> {
        M::decode_length_delimited(rest).map_err(|error| self.corrupt("a record cannot be read").caused_by(error))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt("the snapshot ends early"),
            _ => Error::from_io(error, "cannot read the snapshot").with("offset", self.offset),
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn corrupt(&self, message: &str) -> Error {
        self.at(ErrorKind::Corrupt, message)
    }

    fn foreign(&self, message: &str) -> Error {
        self.at(ErrorKind::Foreign, message)
    }

    fn at(&self, kind: ErrorKind, message: &str) -> Error {
        Error::new(kind, message).with("section", format!("{:?}", self.section)).with("offset", self.offset)
    }
}
