//! Writes a frozen state as bytes.

use std::io::{self, Write};

use curvine_proto::Message;
use curvine_types::ClusterId;
use serde::Serialize;

use super::record_forms::*;
use super::{BLOCK_HEADER_LEN, BLOCK_TARGET, MAGIC, Section, Snapshot, VERSION, crc32c};
use crate::record::*;
use crate::state::State;
use crate::store::Store;

impl Snapshot {
    /// Writes the state; readable by `Namespace::restore`. Needs no more memory than one block.
    pub fn write_to(&self, writer: &mut dyn Write) -> io::Result<()> {
        let state = &self.state;
        let mut blocks = Blocks::begin(writer, state.meta.cluster.unwrap_or_default())?;
        write_state(state, &mut blocks)?;
        blocks.finish()
    }
}

/// Takes the records of a state, section by section.
pub(super) trait Sink {
    fn put<M: Message + Serialize>(&mut self, section: Section, record: &M) -> io::Result<()>;
}

/// All records of a state but the end.
pub(super) fn write_state(state: &State, sink: &mut impl Sink) -> io::Result<()> {
    write_cluster(state, sink)?;
    write_tree(state, sink)?;
    write_content(state, sink)?;
    write_holdings(state, sink)
}

fn write_cluster(state: &State, blocks: &mut impl Sink) -> io::Result<()> {
    let meta = &state.meta;
    let form = MetaForm {
        feature_level: meta.feature_level,
        now: meta.now.to_bits(),
        next_inode: meta.next_inode,
        next_cookie: meta.next_cookie,
        next_session: meta.next_session,
        next_worker: meta.next_worker,
        next_mount: meta.next_mount,
        next_order: meta.next_order,
        next_job: meta.next_job,
        stores: meta.stores,
        pins_change: meta.pins_change,
        next_trash: meta.next_trash,
    };
    blocks.put(Section::Meta, &form)?;
    for (id, session) in state.sessions.iter() {
        let form = SessionForm {
            id: *id,
            kind: session.kind,
            client: session.client.to_string(),
            hostname: session.hostname.to_string(),
            opened: session.opened.to_bits(),
            lowest_unacked: session.lowest_unacked,
            spent: session.spent.iter().flat_map(|(first, last)| [*first, *last]).collect(),
            ending: session.ending,
        };
        blocks.put(Section::Sessions, &form)?;
    }
    for ((session, sequence), kept) in state.results.iter() {
        let (order, outcome) = (kept.order, kept.outcome.to_vec());
        blocks.put(Section::Results, &ResultForm { session: *session, sequence: *sequence, order, outcome })?;
    }
    for (id, worker) in state.workers.iter() {
        let form = WorkerForm {
            id: *id,
            uuid: worker.uuid.to_vec(),
            hostname: worker.hostname.clone(),
            rpc_port: worker.rpc_port,
            socket: worker.socket.clone(),
            state: worker.state.into(),
        };
        blocks.put(Section::Workers, &form)?;
    }
    for (id, mount) in state.mounts.iter() {
        let form = MountForm {
            id: *id,
            url: mount.url.clone(),
            options: mount.options.clone(),
            secrets: mount.secrets.clone(),
            settings: Some(mount.settings.clone()),
            change: mount.change,
            root: mount.root,
            many_removed: mount.many_removed.to_bits(),
        };
        blocks.put(Section::Mounts, &form)?;
    }
    Ok(())
}

fn write_tree(state: &State, blocks: &mut impl Sink) -> io::Result<()> {
    for (id, inode) in state.store.inodes() {
        blocks.put(Section::Inodes, &inode_form(id, &inode))?;
    }
    for (table, cookie, dentry) in state.store.dentries() {
        let name = dentry.name.as_bytes().to_vec();
        blocks.put(Section::Dentries, &DentryForm { table, cookie, name, child: dentry.child, state: 0 })?;
    }
    for (inode, dir, cookie) in state.store.links() {
        blocks.put(Section::Links, &LinkForm { inode, dir, cookie })?;
    }
    for (inode, name, value) in state.store.xattrs() {
        let form = XattrForm { inode, name: name.as_bytes().to_vec(), value: value.to_vec() };
        blocks.put(Section::Xattrs, &form)?;
    }
    Ok(())
}

fn write_content(state: &State, blocks: &mut impl Sink) -> io::Result<()> {
    for (inode, data) in state.store.all_inline() {
        blocks.put(Section::Inline, &InlineForm { inode, data: data.to_vec() })?;
    }
    for (inode, placed) in state.store.all_placed() {
        blocks.put(Section::Placed, &placed_form(inode, placed))?;
    }
    for (inode, dir) in state.ufs_dirs.iter() {
        let form = UfsDirForm {
            inode: *inode,
            mount: dir.mount,
            prefix: dir.prefix.to_string(),
            complete_at: dir.complete_at.map_or(0, |at| at.to_bits() + 1),
            stored: dir.stored,
        };
        blocks.put(Section::UfsDirs, &form)?;
    }
    Ok(())
}

fn write_holdings(state: &State, blocks: &mut impl Sink) -> io::Result<()> {
    for (inode, grant) in state.grants.iter() {
        let form = GrantForm { inode: *inode, epoch: grant.epoch, writers: grant.writers.clone() };
        blocks.put(Section::Grants, &form)?;
    }
    for ((inode, session), ()) in state.orphans.iter() {
        blocks.put(Section::Orphans, &OrphanForm { inode: *inode, session: *session })?;
    }
    for (inode, locks) in state.locks.iter() {
        for lock in locks.iter() {
            blocks.put(Section::Locks, &lock_form(*inode, lock))?;
        }
    }
    for ((worker, inode, generation), ()) in state.garbage.iter() {
        let form = GarbageForm { worker: *worker, inode: *inode, generation: *generation };
        blocks.put(Section::Garbage, &form)?;
    }
    for (table, ()) in state.doomed.iter() {
        blocks.put(Section::Doomed, &DoomedForm { table: *table })?;
    }
    for (id, job) in state.jobs.iter() {
        blocks.put(Section::Jobs, &JobForm { id: *id, job: job.encode_to_vec() })?;
    }
    for (inode, quota) in state.quotas.iter() {
        let Quota { bytes, files, used_bytes, used_files, counted } = *quota;
        blocks.put(Section::Quotas, &QuotaForm { inode: *inode, bytes, files, used_bytes, used_files, counted })?;
    }
    for (inode, ()) in state.pins.iter() {
        blocks.put(Section::Pins, &PinForm { inode: *inode })?;
    }
    for (id, entry) in state.trash.iter() {
        blocks.put(Section::Trash, &TrashForm { id: *id, entry: entry.encode_to_vec() })?;
    }
    for (inode, ttl) in state.ttls.iter() {
        blocks.put(Section::Ttls, &TtlForm { inode: *inode, millis: ttl.millis, delete: ttl.delete })?;
    }
    for (_, noted) in state.tree_moves.iter() {
        let form = TreeMoveForm {
            mount: noted.mount,
            from: noted.from.clone(),
            to: noted.to.clone(),
            millis: noted.lasts_ms,
            worker: noted.worker,
            rename: noted.rename.as_ref().map(|rename| rename.encode_to_vec()).unwrap_or_default(),
            session: noted.session,
            sequence: noted.sequence,
        };
        blocks.put(Section::TreeMoves, &form)?;
    }
    Ok(())
}

fn inode_form(id: u64, inode: &Inode) -> InodeForm {
    InodeForm {
        id,
        kind: inode.kind() as u32,
        mode: inode.mode(),
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        flags: inode.flags.into(),
        size: inode.size,
        content: inode.content,
        change: inode.change,
        atime: inode.atime.to_bits(),
        mtime: inode.mtime.to_bits(),
        ctime: inode.ctime.to_bits(),
        btime: inode.btime.to_bits(),
        parent: inode.parent,
        cookie: inode.cookie,
    }
}

fn placed_form(inode: u64, placed: &Placed) -> PlacedForm {
    match placed {
        Placed::Blocks(blocks) => {
            let extents = blocks.extents.iter().map(|extent| curvine_proto::Extent {
                first_block: extent.first_block,
                block_count: extent.block_count,
                version: extent.version,
                workers: extent.workers.clone(),
            });
            let form =
                BlocksForm { block_size: blocks.block_size, allocated: blocks.allocated, extents: extents.collect() };
            PlacedForm { inode, blocks: Some(form), ufs: None }
        }
        Placed::Ufs(object) => {
            let form = UfsForm {
                mount: object.mount,
                key: object.key.to_string(),
                etag: object.etag.to_string(),
                size: object.size,
                mtime: object.mtime.to_bits(),
                stored: object.stored,
            };
            PlacedForm { inode, blocks: None, ufs: Some(form) }
        }
    }
}

fn lock_form(inode: u64, lock: &Lock) -> LockForm {
    LockForm {
        inode,
        flock: lock.flock,
        write: lock.write,
        start: lock.start,
        end: lock.end,
        session: lock.session,
        owner: lock.owner,
        pid: lock.pid,
    }
}

/// Gathers records into blocks.
pub(super) struct Blocks<'a> {
    writer: &'a mut dyn Write,
    section: Section,
    number: u32,
    records: u32,
    total: u64,
    payload: Vec<u8>,
}

impl Sink for Blocks<'_> {
    fn put<M: Message + Serialize>(&mut self, section: Section, record: &M) -> io::Result<()> {
        if section != self.section || self.payload.len() >= BLOCK_TARGET {
            self.close()?;
            self.section = section;
        }
        record.encode_length_delimited(&mut self.payload).map_err(io::Error::other)?;
        self.records += 1;
        self.total += 1;
        Ok(())
    }
}

impl<'a> Blocks<'a> {
    /// Writes the header.
    pub fn begin(writer: &'a mut dyn Write, cluster: ClusterId) -> io::Result<Self> {
        let mut header = [&MAGIC[..], &VERSION.to_le_bytes(), &cluster.0].concat();
        header.extend(crc32c(&header).to_le_bytes());
        writer.write_all(&header)?;
        Ok(Self { writer, section: Section::End, number: 0, records: 0, total: 0, payload: Vec::new() })
    }

    /// The section of the last record.
    pub fn section(&self) -> Section {
        self.section
    }

    fn close(&mut self) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        let mut header = Vec::with_capacity(BLOCK_HEADER_LEN);
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        for number in [self.section as u32, self.number, self.records, length, crc32c(&self.payload)] {
            header.extend(number.to_le_bytes());
        }
        header.extend(crc32c(&header).to_le_bytes());
        self.writer.write_all(&header)?;
        self.writer.write_all(&self.payload)?;
        self.payload.clear();
        self.records = 0;
        self.number = self.number.wrapping_add(1);
        Ok(())
    }

    /// Writes the end.
    pub fn finish(mut self) -> io::Result<()> {
        let records = self.total;
        self.put(Section::End, &EndForm { records })?;
        self.close()
    }
}
