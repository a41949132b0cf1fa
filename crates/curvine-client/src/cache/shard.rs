//! One shard of the cache: the inodes whose numbers fall to it. Called under its lock.

use std::collections::VecDeque;
use std::time::Duration;

use curvine_proto::{Attr, FileKind, LiveAttr};
use curvine_types::{FastMap, Generation, InodeId};

use super::node::{Held, KnownName, Node, Version, merge_live};
use super::recent::{Recent, Since};

/// Part of a shard that one eviction frees.
const EVICT_PART: usize = 16;

/// What an own change did to an inode.
#[derive(Clone, Copy)]
enum Own {
    /// It left this state.
    Left(Version),
    /// What it left is not known: replies to requests sent before do not count.
    Doubt,
}

pub(super) struct Shard {
    nodes: FastMap<InodeId, Node>,
    /// The hand of the clock goes round here.
    ring: VecDeque<InodeId>,
    names: usize,
    /// By the number of the recall.
    recalls: Recent<()>,
    own: Recent<Own>,
    inode_limit: usize,
    name_limit: usize,
}

impl Shard {
    pub(super) fn new(inode_limit: usize, name_limit: usize, recent: usize) -> Self {
        Self {
            nodes: FastMap::default(),
            ring: VecDeque::new(),
            names: 0,
            recalls: Recent::new(recent),
            own: Recent::new(recent),
            inode_limit,
            name_limit,
        }
    }

    pub(super) fn clear(&mut self, dirs: &mut Vec<InodeId>, inodes: &mut Vec<InodeId>) {
        self.nodes.retain(|inode, node| {
            if node.lease.is_some() {
                inodes.push(*inode);
                let kind = node.attr.as_ref().map(|attr| attr.kind());
                if node.names.len() > 0 || kind.is_none_or(|kind| kind == FileKind::Directory) {
                    dirs.push(*inode);
                }
            }
            *node = Node { pins: node.pins, ..Node::default() };
            node.pins > 0
        });
        self.names = 0;
        let nodes = &self.nodes;
        self.ring.retain(|inode| nodes.contains_key(inode));
    }

    fn node(&mut self, inode: InodeId) -> &mut Node {
        self.nodes.entry(inode).or_insert_with(|| {
            self.ring.push_back(inode);
            Node { hot: true, ..Node::default() }
        })
    }

    /// Whether what a request sent at tick `sent` learnt of the inode was seen under the lease that is held.
    fn is_covered(&self, inode: InodeId, sent: u64, now: Duration) -> bool {
        let lease = self.nodes.get(&inode).and_then(|node| node.lease);
        lease.is_some_and(|lease| lease.ends > now && lease.covers(sent))
    }

    /// The node, if a lease on it is valid.
    fn leased(&mut self, inode: InodeId, now: Duration) -> Option<(&mut Node, Duration)> {
        let node = self.nodes.get_mut(&inode)?;
        let ends = node.lease.filter(|lease| lease.ends > now)?.ends;
        node.hot = true;
        Some((node, ends))
    }

    /// Returns what had to be evicted for it.
    pub(super) fn grant(
        &mut self,
        inode: InodeId,
        number: u64,
        ends: Duration,
        sent: u64,
        tick: u64,
        now: Duration,
    ) -> Vec<InodeId> {
        let recalled = !matches!(self.recalls.since(inode, number), Since::Nothing);
        let blocked = match self.own.since(inode, sent) {
            Since::Event(Own::Doubt) | Since::Unknown => true,
            Since::Event(Own::Left(_)) | Since::Nothing => false,
        };
        if recalled || blocked {
            return Vec::new();
        }
        let node = self.node(inode);
        node.hot = true;
        match &mut node.lease {
            Some(held) if held.ends > now => held.renew(number, ends, sent),
            lapsed => {
                *lapsed = Some(Held::begin(number, ends, tick, sent));
                node.attr = None;
                let names = std::mem::take(&mut node.names).len();
                node.names_change = 0;
                self.names -= names;
            }
        }
        self.evict()
    }

    /// Whether a state that a reply of a request sent at `tick` brought is not older than what own changes left.
    fn is_current(&self, inode: InodeId, tick: u64, seen: Version) -> bool {
        match self.own.since(inode, tick) {
            Since::Unknown | Since::Event(Own::Doubt) => false,
            Since::Event(Own::Left(version)) => seen.reaches(*version),
            Since::Nothing => true,
        }
    }

    /// The newest attributes known, and until when they may be believed; `None`: not at all.
    pub(super) fn settle_attr(&mut self, tick: u64, attr: Attr, now: Duration) -> (Attr, Option<Duration>) {
        let seen = Version::of(&attr);
        let current = self.is_current(attr.inode, tick, seen) && self.is_covered(attr.inode, tick, now);
        let Some((node, ends)) = self.leased(attr.inode, now) else { return (attr, None) };
        match &node.attr {
            Some(known) if !seen.reaches(Version::of(known)) => (*known, Some(ends)),
            _ if current => {
                node.attr = Some(attr);
                (attr, Some(ends))
            }
            _ => (attr, None),
        }
    }

    /// `sent`: tick at which the change was first sent.
    pub(super) fn changed_attr(&mut self, sent: u64, tick: u64, attr: Attr, now: Duration) -> (Attr, Option<Duration>) {
        let seen = Version::of(&attr);
        let newest = match self.own.newest(attr.inode) {
            Some(Own::Left(version)) if !seen.reaches(*version) => *version,
            _ => seen,
        };
        self.own.record(attr.inode, tick, Own::Left(newest));
        let covered = self.is_covered(attr.inode, sent, now);
        let Some((node, ends)) = self.leased(attr.inode, now) else { return (attr, None) };
        match &node.attr {
            Some(known) if !seen.reaches(Version::of(known)) => (*known, Some(ends)),
            _ if newest == seen && covered => {
                node.attr = Some(attr);
                (attr, Some(ends))
            }
            _ => {
                // What is known is older than the change.
                node.attr = None;
                (attr, None)
            }
        }
    }

    pub(super) fn settle_name(
        &mut self,
        tick: u64,
        parent: &Attr,
        name: &[u8],
        inode: InodeId,
        now: Duration,
    ) -> Option<Duration> {
        if !self.is_current(parent.inode, tick, Version::of(parent)) {
            return None;
        }
        if !self.is_covered(parent.inode, tick, now) {
            return None;
        }
        let (node, ends) = self.leased(parent.inode, now)?;
        if parent.change < node.names_change {
            return None;
        }
        if let Some(known) = node.names.get(name)
            && known.change > parent.change
        {
            return None;
        }
        node.names_change = parent.change;
        self.insert_name(parent.inode, name, KnownName { inode, change: parent.change });
        Some(ends)
    }

    /// `sent` as for `changed_attr`.
    pub(super) fn changed_name(
        &mut self,
        sent: u64,
        tick: u64,
        parent: &Attr,
        name: &[u8],
        inode: InodeId,
        now: Duration,
    ) -> Option<Duration> {
        self.note_parent(tick, parent);
        if !self.is_covered(parent.inode, sent, now) {
            self.drop_name(parent, name);
            return None;
        }
        let (node, ends) = self.leased(parent.inode, now)?;
        let newer_known = parent.change < node.names_change;
        match node.names.get(name) {
            Some(known) if known.change > parent.change => return None,
            // A later change of this directory is known, and perhaps one of this name was known and is forgotten.
            None if newer_known => return None,
            _ => {}
        }
        node.names_change = node.names_change.max(parent.change);
        self.insert_name(parent.inode, name, KnownName { inode, change: parent.change });
        Some(ends)
    }

    pub(super) fn forget_name(&mut self, tick: u64, parent: &Attr, name: &[u8]) {
        self.note_parent(tick, parent);
        self.drop_name(parent, name);
    }

    /// What the name stood for before `parent` is not known to be true any more.
    fn drop_name(&mut self, parent: &Attr, name: &[u8]) {
        if let Some(node) = self.nodes.get_mut(&parent.inode) {
            node.names_change = node.names_change.max(parent.change);
            if node.names.remove(name) {
                self.names -= 1;
            }
        }
    }

    fn note_parent(&mut self, tick: u64, parent: &Attr) {
        let seen = Version::of(parent);
        let newest = match self.own.newest(parent.inode) {
            Some(Own::Left(version)) if !seen.reaches(*version) => *version,
            _ => seen,
        };
        self.own.record(parent.inode, tick, Own::Left(newest));
    }

    fn insert_name(&mut self, parent: InodeId, name: &[u8], known: KnownName) {
        let is_known = |node: &Node| node.names.get(name).is_some();
        if self.names >= self.name_limit && !self.nodes.get(&parent).is_some_and(is_known) {
            self.drop_names();
        }
        if let Some(node) = self.nodes.get_mut(&parent)
            && node.names.insert(name, known)
        {
            self.names += 1;
        }
    }

    /// Forgets the names of directories, in the order of the ring, until a good part is free.
    fn drop_names(&mut self) {
        let goal = self.name_limit - self.name_limit / EVICT_PART - 1;
        for inode in &self.ring {
            if self.names <= goal {
                break;
            }
            if let Some(node) = self.nodes.get_mut(inode) {
                // `names_change` stays: what is older than it is still not taken.
                self.names -= std::mem::take(&mut node.names).len();
            }
        }
    }

    pub(super) fn wrote(&mut self, tick: u64, inode: InodeId, live: &LiveAttr, now: Duration) {
        let known = self.leased(inode, now).and_then(|(node, _)| node.attr.as_mut());
        let event = match known {
            Some(attr) => {
                merge_live(attr, live);
                Own::Left(Version::of(attr))
            }
            // Replies that are on their way may be older than this write, and nothing here could tell.
            None => Own::Doubt,
        };
        self.own.record(inode, tick, event);
    }

    pub(super) fn doubt(&mut self, tick: u64, inode: InodeId) {
        self.own.record(inode, tick, Own::Doubt);
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.attr = None;
            self.names -= std::mem::take(&mut node.names).len();
        }
    }

    pub(super) fn block(&mut self, inode: InodeId, tick: u64) {
        self.own.record(inode, tick, Own::Doubt);
    }

    pub(super) fn attr(&mut self, inode: InodeId, now: Duration) -> Option<(Attr, Duration)> {
        let (node, ends) = self.leased(inode, now)?;
        Some((node.attr?, ends))
    }

    pub(super) fn name(&mut self, parent: InodeId, name: &[u8], now: Duration) -> Option<(InodeId, Duration)> {
        let (node, ends) = self.leased(parent, now)?;
        match node.names.get(name) {
            Some(known) => Some((known.inode, ends)),
            None => node.knows_all_names().then_some((0, ends)),
        }
    }

    pub(super) fn tenure(&mut self, inode: InodeId, now: Duration) -> Option<u64> {
        let (node, _) = self.leased(inode, now)?;
        node.lease.map(|lease| lease.tenure)
    }

    pub(super) fn is_leased(&self, inode: InodeId) -> bool {
        self.nodes.get(&inode).is_some_and(|node| node.lease.is_some())
    }

    /// Whether the inode is, or may be, a directory.
    pub(super) fn recall(&mut self, inode: InodeId, number: u64, tick: u64) -> bool {
        self.recalls.record(inode, number, ());
        let Some(node) = self.nodes.get_mut(&inode) else { return true };
        let directory = node.attr.as_ref().is_none_or(|attr| attr.kind() == FileKind::Directory);
        let Some(lease) = node.lease else { return true };
        if lease.tenure <= number {
            // A grant after the recall is kept, but nothing that came before it.
            node.lease = lease.recalled(number, tick);
            node.pages = None;
            node.attr = None;
            self.names -= std::mem::take(&mut node.names).len();
            node.names_change = 0;
        }
        directory
    }

    pub(super) fn pin(&mut self, inode: InodeId) {
        self.node(inode).pins += 1;
    }

    pub(super) fn unpin(&mut self, inode: InodeId) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.pins = node.pins.saturating_sub(1);
        }
    }

    pub(super) fn keep_pages(
        &mut self,
        inode: InodeId,
        generation: Generation,
        now: Duration,
        session_alive: bool,
    ) -> bool {
        let Some(node) = self.nodes.get_mut(&inode) else { return false };
        let lease = node.lease.filter(|lease| session_alive && lease.ends > now);
        let pages = lease.map(|lease| (lease.tenure, generation));
        let keep = pages.is_some() && node.pages == pages;
        node.pages = pages;
        keep
    }

    /// Evicts a part of the shard if it is full; the inodes whose leases went.
    fn evict(&mut self) -> Vec<InodeId> {
        let mut gone = Vec::new();
        if self.nodes.len() <= self.inode_limit {
            return gone;
        }
        let goal = self.inode_limit - self.inode_limit / EVICT_PART;
        // Twice round at most: the first may only cool what is hot.
        for _ in 0..2 * self.ring.len() {
            if self.nodes.len() <= goal {
                break;
            }
            let Some(inode) = self.ring.pop_front() else { break };
            let Some(node) = self.nodes.get_mut(&inode) else { continue };
            if node.pins > 0 || std::mem::take(&mut node.hot) {
                self.ring.push_back(inode);
                continue;
            }
            if let Some(node) = self.nodes.remove(&inode) {
                self.names -= node.names.len();
                if node.lease.is_some() {
                    gone.push(inode);
                }
            }
        }
        gone
    }

    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.names, self.nodes.values().filter(|node| node.lease.is_some()).count())
    }
}
