//! The table: a header of named words, then the handles, then the requests. Sizes are fixed when it is made.
//!
//! Always: a table of another format, or one whose header does not fit its memory, is refused by name; it is never guessed at.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_fuse_abi::{Negotiated, SharedWords};
use curvine_types::{ClusterId, Error, ErrorKind, Result, SessionId};
use parking_lot::Mutex;

use super::handles::HANDLE_WORDS;
use super::notes::NOTE_WORDS;
use super::requests::REQUEST_WORDS;

/// The format that is written.
pub const VERSION: u64 = 1;
/// The oldest format that is read: an upgrade may come from the version before.
pub const OLDEST: u64 = 1;
/// "CVHANDOV"
const MAGIC: u64 = u64::from_be_bytes(*b"CVHANDOV");
const HEADER_WORDS: usize = 64;
/// Most of each kind: handle numbers hold the place in 24 bits.
const PLACES_MAX: usize = 1 << 24;

/// The words of the header. Numbers are never used again for something else.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Field {
    Magic = 0,
    Version = 1,
    HandlePlaces = 2,
    RequestPlaces = 3,
    /// Two words.
    Cluster = 4,
    Session = 6,
    NextNumber = 7,
    Incarnation = 8,
    Instance = 9,
    Root = 10,
    Minor = 11,
    Flags = 12,
    Offered = 13,
    MaxWrite = 14,
    MaxReadahead = 15,
    /// Of the next handle.
    NextHandle = 16,
    /// Places below this one have been used.
    HandleHigh = 17,
    RequestHigh = 18,
    HandlesUsed = 19,
    RequestsUsed = 20,
    NotePlaces = 21,
    NoteHigh = 22,
}

/// How many records there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub handles: usize,
    pub requests: usize,
    /// Of who may hold locks.
    pub notes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    words: SharedWords,
    pub(super) limits: Limits,
    pub(super) free_handles: Mutex<Vec<u32>>,
    pub(super) free_requests: Mutex<Vec<u32>>,
    pub(super) free_notes: Mutex<Vec<u32>>,
}

impl Table {
    /// An empty one.
    pub fn create(limits: Limits) -> Result<Self> {
        let bounded = |places: usize| places.clamp(1, PLACES_MAX);
        let limits = Limits {
            handles: bounded(limits.handles),
            requests: bounded(limits.requests),
            notes: bounded(limits.notes),
        };
        let table = Self::over(SharedWords::create("curvine-mount", words_of(limits))?, limits);
        table.set(Field::HandlePlaces, limits.handles as u64);
        table.set(Field::RequestPlaces, limits.requests as u64);
        table.set(Field::NotePlaces, limits.notes as u64);
        table.set(Field::NextHandle, 1);
        table.set(Field::NextNumber, 1);
        table.set(Field::Version, VERSION);
        table.set(Field::Magic, MAGIC);
        Ok(table)
    }

    /// That of a predecessor. `NotSupported`: of a format that this version does not read; `Corrupt`: damaged.
    pub fn open(fd: OwnedFd) -> Result<Self> {
        let words = SharedWords::map(fd)?;
        let damaged = |what: &str| Error::new(ErrorKind::Corrupt, format!("the hand-over table is damaged: {what}"));
        if words.len() < HEADER_WORDS {
            return Err(damaged("too short"));
        }
        let none = Limits { handles: 0, requests: 0, notes: 0 };
        let mut table = Self::over(words, none);
        if table.get(Field::Magic) != MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        check_version(table.get(Field::Version))?;
        let places = |field| usize::try_from(table.get(field)).unwrap_or(usize::MAX);
        let limits = Limits {
            handles: places(Field::HandlePlaces),
            requests: places(Field::RequestPlaces),
            notes: places(Field::NotePlaces),
        };
        let fits = [limits.handles, limits.requests, limits.notes].iter().all(|places| *places <= PLACES_MAX);
        if !fits || words_of(limits) != table.words.len() {
            return Err(damaged("its sizes contradict each other"));
        }
        let used = [Field::HandleHigh, Field::RequestHigh, Field::NoteHigh].map(places);
        if used.iter().zip([limits.handles, limits.requests, limits.notes]).any(|(used, limit)| *used > limit) {
            return Err(damaged("more places are used than there are"));
        }
        table.limits = limits;
        Ok(table)
    }

    fn over(words: SharedWords, limits: Limits) -> Self {
        let free = Mutex::default;
        Self { words, limits, free_handles: free(), free_requests: free(), free_notes: free() }
    }

    /// The descriptor, for a successor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }

    pub(super) fn get(&self, field: Field) -> u64 {
        self.word(field as usize).load(Ordering::Acquire)
    }

    pub(super) fn set(&self, field: Field, value: u64) {
        self.word(field as usize).store(value, Ordering::Release);
    }

    pub(super) fn add(&self, field: Field, value: u64) -> u64 {
        self.word(field as usize).fetch_add(value, Ordering::AcqRel)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words.words()[at]
    }

    /// The words of a handle's place, which is below the limit.
    pub(super) fn handle_words(&self, place: u32) -> &[AtomicU64] {
        let start = HEADER_WORDS + place as usize * HANDLE_WORDS;
        &self.words.words()[start..start + HANDLE_WORDS]
    }

    /// The words of a request's place, which is below the limit.
    pub(super) fn request_words(&self, place: u32) -> &[AtomicU64] {
        let start = HEADER_WORDS + self.limits.handles * HANDLE_WORDS + place as usize * REQUEST_WORDS;
        &self.words.words()[start..start + REQUEST_WORDS]
    }

    /// The words of a note's place, which is below the limit.
    pub(super) fn note_words(&self, place: u32) -> &[AtomicU64] {
        let others = self.limits.handles * HANDLE_WORDS + self.limits.requests * REQUEST_WORDS;
        let start = HEADER_WORDS + others + place as usize * NOTE_WORDS;
        &self.words.words()[start..start + NOTE_WORDS]
    }

    /// The place of a new record: one that was given back, or else the next that was never used.
    pub(super) fn take_place(&self, free: &Mutex<Vec<u32>>, high: Field, limit: usize) -> Option<u32> {
        let mut free = free.lock();
        if let Some(place) = free.pop() {
            return Some(place);
        }
        let next = self.get(high);
        if next as usize >= limit {
            return None;
        }
        self.set(high, next + 1);
        Some(next as u32)
    }

    /// One more process begins to serve; its number.
    pub fn begin_instance(&self) -> u64 {
        self.add(Field::Instance, 1) + 1
    }

    /// How many processes have served.
    pub fn instance(&self) -> u64 {
        self.get(Field::Instance)
    }

    /// The session and the leader that its leases come from.
    pub fn set_session(&self, session: SessionId, cluster: ClusterId, incarnation: u64) {
        for (half, bytes) in cluster.0.as_chunks::<8>().0.iter().enumerate() {
            self.word(Field::Cluster as usize + half).store(u64::from_le_bytes(*bytes), Ordering::Release);
        }
        self.set(Field::Incarnation, incarnation);
        if self.get(Field::Session) != session {
            self.set(Field::NextNumber, 1);
            self.set(Field::Session, session);
        }
    }

    /// 0: there is none yet.
    pub fn session(&self) -> SessionId {
        self.get(Field::Session)
    }

    /// Nil: not known yet.
    pub fn cluster(&self) -> ClusterId {
        let mut id = [0; 16];
        for (half, bytes) in id.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *bytes = self.word(Field::Cluster as usize + half).load(Ordering::Acquire).to_le_bytes();
        }
        ClusterId(id)
    }

    /// What INIT agreed upon: the kernel says it only once.
    pub fn set_negotiated(&self, negotiated: &Negotiated) {
        self.set(Field::Flags, negotiated.flags);
        self.set(Field::Offered, negotiated.offered);
        self.set(Field::MaxWrite, negotiated.max_write.into());
        self.set(Field::MaxReadahead, negotiated.max_readahead.into());
        self.set(Field::Minor, negotiated.minor.into());
    }

    /// `None`: nothing is mounted yet.
    pub fn negotiated(&self) -> Option<Negotiated> {
        let small = |field| u32::try_from(self.get(field)).unwrap_or_default();
        let negotiated = Negotiated {
            minor: small(Field::Minor),
            flags: self.get(Field::Flags),
            offered: self.get(Field::Offered),
            max_write: small(Field::MaxWrite),
            max_readahead: small(Field::MaxReadahead),
        };
        (negotiated.minor != 0 && negotiated.max_write != 0).then_some(negotiated)
    }

    /// The inode that the kernel knows as node 1; 0: not known yet.
    pub fn root(&self) -> u64 {
        self.get(Field::Root)
    }

    pub fn set_root(&self, root: u64) {
        self.set(Field::Root, root);
    }

    /// Handles and requests that are recorded.
    pub fn used(&self) -> (u64, u64) {
        (self.get(Field::HandlesUsed), self.get(Field::RequestsUsed))
    }
}

/// Whether this version reads a table of that format.
pub fn check_version(version: u64) -> Result<()> {
    if (OLDEST..=VERSION).contains(&version) {
        return Ok(());
    }
    let message = "the hand-over table is of a format that this version does not read; unmount and mount again";
    Err(Error::new(ErrorKind::NotSupported, message).with("have", version).with("reads", format!("{OLDEST}-{VERSION}")))
}

fn words_of(limits: Limits) -> usize {
    HEADER_WORDS + limits.handles * HANDLE_WORDS + limits.requests * REQUEST_WORDS + limits.notes * NOTE_WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { handles: 100, requests: 10, notes: 5 };

    fn reopen(table: &Table) -> Result<Table> {
        Table::open(table.descriptor().try_clone_to_owned().unwrap())
    }

    #[test]
    fn a_successor_reads_what_was_written() {
        let table = Table::create(LIMITS).unwrap();
        assert_eq!((table.begin_instance(), table.begin_instance()), (1, 2));
        assert_eq!((table.session(), table.negotiated()), (0, None));
        let cluster = ClusterId(std::array::from_fn(|byte| byte as u8 * 7));
        table.set_session(7, cluster, 3);
        let negotiated = Negotiated { minor: 45, flags: 5, offered: u64::MAX, max_write: 1 << 20, max_readahead: 9 };
        table.set_negotiated(&negotiated);
        table.set_root(1);
        let again = reopen(&table).unwrap();
        assert_eq!((again.session(), again.cluster(), again.root(), again.instance()), (7, cluster, 1, 2));
        assert_eq!((again.negotiated(), again.limits), (Some(negotiated), LIMITS));
    }

    #[test]
    fn a_damaged_table_is_refused_by_what_is_wrong() {
        let table = Table::create(LIMITS).unwrap();
        let refused = |field: Field, value: u64, text: &str| {
            let before = table.get(field);
            table.set(field, value);
            let error = reopen(&table).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            table.set(field, before);
            error.kind()
        };
        assert_eq!(refused(Field::Magic, 0, "does not begin"), ErrorKind::Corrupt);
        assert_eq!(refused(Field::Version, VERSION + 1, "format"), ErrorKind::NotSupported);
        assert_eq!(refused(Field::Version, OLDEST - 1, "format"), ErrorKind::NotSupported);
        assert_eq!(refused(Field::HandlePlaces, 101, "sizes"), ErrorKind::Corrupt);
        assert_eq!(refused(Field::RequestPlaces, u64::MAX, "sizes"), ErrorKind::Corrupt);
        assert_eq!(refused(Field::HandleHigh, 101, "places"), ErrorKind::Corrupt);
        reopen(&table).unwrap();
        let short = SharedWords::create("short", 3).unwrap();
        assert_eq!(Table::open(short.as_fd().try_clone_to_owned().unwrap()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
