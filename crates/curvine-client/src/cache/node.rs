//! What is cached of one inode, and which of two states of it is the newer.

use std::time::Duration;

use curvine_proto::{Attr, FileKind, LiveAttr, Time};
use curvine_types::{FastMap, Generation, InodeId};

#[derive(Default)]
pub(super) struct Node {
    /// Nothing below is believed without it.
    pub lease: Option<Held>,
    pub attr: Option<Attr>,
    pub names: Names,
    /// Highest change of the directory that a cached name came with.
    pub names_change: u64,
    /// Open files and operations that must not lose the lease by eviction.
    pub pins: u32,
    /// Used since the last look of the eviction hand.
    pub hot: bool,
    /// Tenure of the lease and generation under which the kernel may have got pages.
    pub pages: Option<(u64, Generation)>,
}

impl Node {
    /// Whether a name that is not among the known ones is absent: as many are known to be there as the directory has entries, and both
    /// were seen at the same change. A directory of an under file system has more names than entries.
    pub(super) fn knows_all_names(&self) -> bool {
        let Some(attr) = self.attr.filter(|attr| attr.kind() == FileKind::Directory && attr.mount == 0) else {
            return false;
        };
        let same_time = match self.names.present {
            0 => attr.change >= self.names_change,
            _ => attr.change == self.names_change,
        };
        same_time && attr.size == self.names.present
    }
}

/// The known names of a directory.
#[derive(Default)]
pub(super) struct Names {
    known: FastMap<Box<[u8]>, KnownName>,
    /// How many of them are there.
    present: u64,
}

impl Names {
    pub(super) fn get(&self, name: &[u8]) -> Option<&KnownName> {
        self.known.get(name)
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it was not known before.
    pub(super) fn insert(&mut self, name: &[u8], known: KnownName) -> bool {
        self.present += u64::from(known.is_present());
        let before = self.known.insert(name.into(), known);
        self.present -= u64::from(before.is_some_and(|before| before.is_present()));
        before.is_none()
    }

    /// Whether it was known.
    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        let before = self.known.remove(name);
        self.present -= u64::from(before.is_some_and(|before| before.is_present()));
        before.is_some()
    }
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Number of the newest grant.
    pub number: u64,
    /// Number of the first grant without a break since; names this tenure.
    pub tenure: u64,
    /// Boot time at which it ends by itself.
    pub ends: Duration,
    /// Tick at which this tenure began. What was asked for later was seen under it.
    began: u64,
    /// Ticks of the requests whose replies brought the newest grants, with the numbers of these: what came along was seen
    /// under them, too, though it was asked for earlier.
    brought: [(u64, u64); GRANTS],
}

/// Grants of one tenure that are remembered: as many as come in while it begins. What came with others is not cached.
const GRANTS: usize = 8;

impl Held {
    /// A tenure begins at tick `now` with a grant that a request sent at tick `sent` brought.
    pub(super) fn begin(number: u64, ends: Duration, now: u64, sent: u64) -> Self {
        let mut held = Self { number, tenure: number, ends, began: now, brought: [(0, 0); GRANTS] };
        held.note(number, sent);
        held
    }

    /// Another grant in the same tenure.
    pub(super) fn renew(&mut self, number: u64, ends: Duration, sent: u64) {
        self.note(number, sent);
        if number > self.number {
            self.number = number;
            self.ends = ends;
        }
    }

    /// What is left after a recall at tick `now` that voids the grants up to `number`.
    pub(super) fn recalled(&self, number: u64, now: u64) -> Option<Self> {
        let brought = self.brought.map(|grant| if grant.1 > number { grant } else { (0, 0) });
        let left = Self { tenure: self.number, began: now, brought, ..*self };
        (self.number > number).then_some(left)
    }

    /// Whether what a request sent at tick `sent` learnt was seen under this lease, so that a change of it would recall the lease.
    pub(super) fn covers(&self, sent: u64) -> bool {
        sent > self.began || self.brought.iter().any(|(by, _)| *by == sent && sent != 0)
    }

    fn note(&mut self, number: u64, sent: u64) {
        self.brought.rotate_right(1);
        self.brought[0] = (sent, number);
    }
}

/// A name present (inode) or absent (0), as of a change of its directory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct KnownName {
    pub inode: InodeId,
    pub change: u64,
}

impl KnownName {
    fn is_present(&self) -> bool {
        self.inode != 0
    }
}

/// Which state of an inode was seen. The log's `change` decides; within one change of a live file its strictly rising mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Version {
    change: u64,
    mtime: Option<(i64, u32)>,
}

impl Version {
    pub(super) fn of(attr: &Attr) -> Self {
        let mtime = if attr.live { attr.mtime.as_ref().map(Time::key) } else { None };
        Self { change: attr.change, mtime }
    }

    /// Whether this state is at least as new. Sealed and live with one change: the seal keeps what was live, so either will do.
    pub(super) fn reaches(self, known: Version) -> bool {
        match self.change.cmp(&known.change) {
            std::cmp::Ordering::Equal => self.mtime.is_none() || self.mtime >= known.mtime,
            order => order.is_gt(),
        }
    }
}

/// Takes what the primary worker said, unless something newer from it is in `attr` already.
pub(super) fn merge_live(attr: &mut Attr, live: &LiveAttr) {
    let key = |time: &Option<Time>| time.as_ref().map(Time::key);
    if attr.live && key(&live.mtime) < key(&attr.mtime) {
        return;
    }
    attr.live = true;
    attr.size = live.size;
    attr.blocks = live.blocks;
    if live.mtime.is_some() {
        attr.mtime = live.mtime;
        if key(&attr.ctime) < key(&live.mtime) {
            attr.ctime = live.mtime;
        }
    }
}
