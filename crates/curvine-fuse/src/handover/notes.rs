//! The records of who may hold locks through which handle.

use std::sync::atomic::Ordering;

use curvine_types::InodeId;

use super::table::{Field, Table};

pub(super) const NOTE_WORDS: usize = 4;

// The words of a place; the first one is 0 while it is free.
const FH: usize = 0;
const INODE: usize = 1;
const OWNER: usize = 2;

/// An owner that may hold locks of an inode through a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockNote {
    pub inode: InodeId,
    pub fh: u64,
    pub owner: u64,
}

impl Table {
    /// Records a note; `None` if there is no room.
    pub fn add_note(&self, note: &LockNote) -> Option<u32> {
        let place = self.take_place(&self.free_notes, Field::NoteHigh, self.limits.notes)?;
        let words = self.note_words(place);
        words[INODE].store(note.inode, Ordering::Relaxed);
        words[OWNER].store(note.owner, Ordering::Relaxed);
        words[FH].store(note.fh, Ordering::Release);
        Some(place)
    }

    /// The locks are gone.
    pub fn drop_note(&self, place: u32) {
        self.note_words(place)[FH].store(0, Ordering::Release);
        self.free_notes.lock().push(place);
    }

    /// The notes of a predecessor, with their places. From now on free places are used again.
    pub fn take_notes(&self) -> Vec<(u32, LockNote)> {
        let (mut found, mut free) = (Vec::new(), Vec::new());
        for place in (0..self.get(Field::NoteHigh) as u32).rev() {
            let words = self.note_words(place);
            let get = |at: usize| words[at].load(Ordering::Relaxed);
            match words[FH].load(Ordering::Acquire) {
                0 => free.push(place),
                fh => found.push((place, LockNote { inode: get(INODE), fh, owner: get(OWNER) })),
            }
        }
        *self.free_notes.lock() = free;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Limits;

    #[test]
    fn notes_are_found_again_until_the_locks_are_gone() {
        let table = Table::create(Limits { handles: 1, requests: 1, notes: 2 }).unwrap();
        let note = |owner| LockNote { inode: 5, fh: 9, owner };
        let first = table.add_note(&note(1)).unwrap();
        let second = table.add_note(&note(2)).unwrap();
        assert_eq!(table.add_note(&note(3)), None);
        table.drop_note(first);
        let next = Table::open(table.descriptor().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(next.take_notes(), [(second, note(2))]);
        assert_eq!(next.add_note(&note(3)), Some(first));
    }
}
