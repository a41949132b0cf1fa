//! Attributes and names that the client may believe, because it holds leases on their inodes. No I/O, no async.
//!
//! Always:
//! * nothing is believed without a lease in the present *term*; a term ends when all leases are given up (reconnection, expiry);
//! * a reply is cached only under the lease that it brought itself, or that was held already when its request was sent, and only
//!   if it is at least as new as everything known of the inode, from replies and from own changes, however they overtook each
//!   other (`Ticket`, `Held`, `Recent`);
//! * what was evicted is reported to the master only when the kernel's copies have run out, and a lease that was granted
//!   before such a report was answered is not believed.

mod node;
mod recent;
mod shard;

#[cfg(test)]
mod cache_test;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use curvine_proto::{Attr, Lease, LiveAttr};
use curvine_types::{FastSet, Generation, InodeId};
use parking_lot::Mutex;

use shard::Shard;

/// Power of two.
const SHARDS: usize = 16;

/// Limits of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheLimits {
    pub inodes: usize,
    pub names: usize,
    /// Recalls and own changes that are remembered.
    pub recent: usize,
    /// Longest time that the kernel believes anything.
    pub max_ttl: Duration,
}

/// Taken when a request is sent; decides what of its reply may be cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// Term of the connection; 0: leases in the reply do not count.
    term: u64,
    /// Its own; own changes and grants that came before have smaller ones.
    tick: u64,
    /// Boot time.
    sent: Duration,
}

/// See the module.
pub(crate) struct Cache {
    shards: Vec<Mutex<Shard>>,
    term: AtomicU64,
    tick: AtomicU64,
    /// Boot time in nanoseconds up to which the session is certainly alive.
    valid_until: AtomicU64,
    evicted: Mutex<Evicted>,
    max_ttl: Duration,
}

#[derive(Default)]
struct Evicted {
    /// Not yet reported, with the boot time from which they may be.
    waiting: VecDeque<(Duration, InodeId)>,
    /// In a heartbeat that is on its way.
    reported: FastSet<InodeId>,
}

impl Cache {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        let share = |total: usize| (total / SHARDS).max(1);
        let shard = || Mutex::new(Shard::new(share(limits.inodes), share(limits.names), share(limits.recent)));
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            term: AtomicU64::new(1),
            tick: AtomicU64::new(1),
            valid_until: AtomicU64::new(0),
            evicted: Mutex::default(),
            max_ttl: limits.max_ttl,
        }
    }

    fn shard(&self, inode: InodeId) -> &Mutex<Shard> {
        // Inodes are numbered in sequence, so the low bits spread well.
        &self.shards[inode as usize % SHARDS]
    }

    /// For a request that is about to be sent over a connection of `term`.
    pub(crate) fn ticket(&self, term: u64, now: Duration) -> Ticket {
        Ticket { term, tick: self.next_tick(), sent: now }
    }

    fn next_tick(&self) -> u64 {
        self.tick.fetch_add(1, Ordering::SeqCst)
    }

    fn holds(&self, ticket: &Ticket) -> bool {
        ticket.term != 0 && ticket.term == self.term.load(Ordering::SeqCst)
    }

    /// The tick of a ticket; of an earlier term, before everything. Asked for under a shard's lock, as in `grant`.
    fn sent(&self, ticket: &Ticket) -> u64 {
        if self.holds(ticket) { ticket.tick } else { 0 }
    }

    /// The session is alive at least until this boot time.
    pub(crate) fn set_valid_until(&self, until: Duration) {
        self.valid_until.store(until.as_nanos() as u64, Ordering::SeqCst);
    }

    /// How long the session is certainly alive.
    pub(crate) fn session_left(&self, now: Duration) -> Duration {
        Duration::from_nanos(self.valid_until.load(Ordering::SeqCst)).saturating_sub(now)
    }

    fn ttl(&self, ends: Duration, now: Duration) -> Duration {
        self.session_left(now).min(ends.saturating_sub(now)).min(self.max_ttl)
    }

    /// Gives up everything and begins a new term; what was cached, as (directories, all inodes).
    pub(crate) fn new_term(&self) -> (u64, Vec<InodeId>, Vec<InodeId>) {
        let term = self.term.fetch_add(1, Ordering::SeqCst) + 1;
        let (mut dirs, mut inodes) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            shard.lock().clear(&mut dirs, &mut inodes);
        }
        let mut evicted = self.evicted.lock();
        inodes.extend(evicted.waiting.drain(..).map(|(_, inode)| inode));
        evicted.reported.clear();
        (term, dirs, inodes)
    }

    /// Takes the leases of a reply.
    pub(crate) fn grant(&self, ticket: &Ticket, leases: &[Lease], now: Duration) {
        for lease in leases {
            // The term is looked at under the shard's lock, so that `new_term` finds either nothing or this lease.
            let mut shard = self.shard(lease.inode).lock();
            if !self.holds(ticket) || self.evicted.lock().reported.contains(&lease.inode) {
                continue;
            }
            let ends = match lease.valid_ms {
                0 => Duration::MAX,
                millis => ticket.sent + Duration::from_millis(millis),
            };
            let evicted = shard.grant(lease.inode, lease.number, ends, ticket.tick, self.next_tick(), now);
            self.note_evicted(evicted, now);
        }
    }

    fn note_evicted(&self, inodes: Vec<InodeId>, now: Duration) {
        if !inodes.is_empty() {
            let from = now + self.max_ttl;
            self.evicted.lock().waiting.extend(inodes.into_iter().map(|inode| (from, inode)));
        }
    }

    /// The newest attributes known after a reply with `attr`, and how long they may be believed.
    pub(crate) fn settle_attr(&self, ticket: &Ticket, attr: Attr, now: Duration) -> (Attr, Duration) {
        let mut shard = self.shard(attr.inode).lock();
        if !self.holds(ticket) {
            return (attr, Duration::ZERO);
        }
        let (attr, ends) = shard.settle_attr(ticket.tick, attr, now);
        (attr, ends.map_or(Duration::ZERO, |ends| self.ttl(ends, now)))
    }

    /// How long the answer to a lookup may be believed; `parent` as the reply had it, `inode` 0: no such name.
    pub(crate) fn settle_name(
        &self,
        ticket: &Ticket,
        parent: &Attr,
        name: &[u8],
        inode: InodeId,
        now: Duration,
    ) -> Duration {
        let mut shard = self.shard(parent.inode).lock();
        if !self.holds(ticket) {
            return Duration::ZERO;
        }
        match shard.settle_name(ticket.tick, parent, name, inode, now) {
            Some(ends) => self.ttl(ends, now),
            None => Duration::ZERO,
        }
    }

    /// An own change that was first sent with `ticket` left these attributes. Returns the newest known, and how long they may be
    /// believed.
    pub(crate) fn changed_attr(&self, ticket: &Ticket, attr: Attr, now: Duration) -> (Attr, Duration) {
        let tick = self.next_tick();
        let mut shard = self.shard(attr.inode).lock();
        let (attr, ends) = shard.changed_attr(self.sent(ticket), tick, attr, now);
        (attr, ends.map_or(Duration::ZERO, |ends| self.ttl(ends, now)))
    }

    /// An own change that was first sent with `ticket` made a name stand for `inode` (0: removed it) and left its directory as
    /// `parent`.
    pub(crate) fn changed_name(
        &self,
        ticket: &Ticket,
        parent: &Attr,
        name: &[u8],
        inode: InodeId,
        now: Duration,
    ) -> Duration {
        let tick = self.next_tick();
        let mut shard = self.shard(parent.inode).lock();
        match shard.changed_name(self.sent(ticket), tick, parent, name, inode, now) {
            Some(ends) => self.ttl(ends, now),
            None => Duration::ZERO,
        }
    }

    /// An own change of a name whose outcome does not tell what it stands for now.
    pub(crate) fn forget_name(&self, parent: &Attr, name: &[u8]) {
        let tick = self.next_tick();
        self.shard(parent.inode).lock().forget_name(tick, parent, name);
    }

    /// A write to a live file was acknowledged.
    pub(crate) fn wrote(&self, inode: InodeId, live: &LiveAttr, now: Duration) {
        let tick = self.next_tick();
        self.shard(inode).lock().wrote(tick, inode, live, now);
    }

    /// Something unknown happened to these inodes: nothing of them is believed until asked for anew.
    pub(crate) fn doubt(&self, inodes: &[InodeId]) {
        for inode in inodes {
            let tick = self.next_tick();
            self.shard(*inode).lock().doubt(tick, *inode);
        }
    }

    /// Attributes under a lease.
    pub(crate) fn attr(&self, inode: InodeId, now: Duration) -> Option<(Attr, Duration)> {
        let (attr, ends) = self.shard(inode).lock().attr(inode, now)?;
        let ttl = self.ttl(ends, now);
        (!ttl.is_zero()).then_some((attr, ttl))
    }

    /// What a name stands for under a lease on its directory; `Some((0, _))`: there is no such name.
    pub(crate) fn name(&self, parent: InodeId, name: &[u8], now: Duration) -> Option<(InodeId, Duration)> {
        let (inode, ends) = self.shard(parent).lock().name(parent, name, now)?;
        let ttl = self.ttl(ends, now);
        (!ttl.is_zero()).then_some((inode, ttl))
    }

    /// Which unbroken lease is held on the inode, if one is.
    pub(crate) fn tenure(&self, inode: InodeId, now: Duration) -> Option<u64> {
        if self.session_left(now).is_zero() {
            return None;
        }
        self.shard(inode).lock().tenure(inode, now)
    }

    /// All leases on the inodes up to `number` are void. Returns those that are, or may be, directories.
    pub(crate) fn recall(&self, number: u64, inodes: &[InodeId]) -> Vec<InodeId> {
        let recalled = |inode: &InodeId| {
            let mut shard = self.shard(*inode).lock();
            shard.recall(*inode, number, self.next_tick())
        };
        inodes.iter().copied().filter(recalled).collect()
    }

    /// Keeps the inode from eviction while it is open.
    pub(crate) fn pin(&self, inode: InodeId) {
        self.shard(inode).lock().pin(inode);
    }

    /// Ends a `pin`.
    pub(crate) fn unpin(&self, inode: InodeId) {
        self.shard(inode).lock().unpin(inode);
    }

    /// The kernel may keep pages of an open of this generation from now on. Whether those of an earlier open are still right.
    pub(crate) fn keep_pages(&self, inode: InodeId, generation: Generation, now: Duration) -> bool {
        let session_alive = !self.session_left(now).is_zero();
        self.shard(inode).lock().keep_pages(inode, generation, now, session_alive)
    }

    /// Evicted inodes whose leases can be reported as dropped now, at most `limit`. `reported` must follow.
    pub(crate) fn take_dropped(&self, now: Duration, limit: usize) -> Vec<InodeId> {
        let mut due = Vec::new();
        {
            let mut evicted = self.evicted.lock();
            while due.len() < limit && evicted.waiting.front().is_some_and(|(from, _)| *from <= now) {
                due.extend(evicted.waiting.pop_front().map(|(_, inode)| inode));
            }
        }
        // Leased again meanwhile: not dropped. Checked and marked under the shard's lock, as `grant` does.
        due.retain(|inode| {
            let shard = self.shard(*inode).lock();
            let dropped = !shard.is_leased(*inode);
            if dropped {
                self.evicted.lock().reported.insert(*inode);
            }
            dropped
        });
        due
    }

    /// The report of dropped leases was answered, or its connection is gone: leases granted from now on count.
    pub(crate) fn reported(&self, inodes: &[InodeId]) {
        for inode in inodes {
            let mut shard = self.shard(*inode).lock();
            shard.block(*inode, self.next_tick());
            self.evicted.lock().reported.remove(inode);
        }
    }

    /// Cached inodes, names and leases.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        self.shards.iter().fold((0, 0, 0), |(inodes, names, leases), shard| {
            let (more_inodes, more_names, more_leases) = shard.lock().sizes();
            (inodes + more_inodes, names + more_names, leases + more_leases)
        })
    }
}
