//! POSIX access control lists (POSIX.1e draft 17) in the form of Linux's `system.posix_acl_*` attributes.
//!
//! Always: the list of an inode and its permission bits say the same: owner and other are the bits, and the group's bits are the mask.
//! A list that says no more than the bits is not kept.

use curvine_types::{ErrorKind, Result};

use crate::state::fail;

/// Who may access an inode.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// What is made in a directory begins with it.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_LEN: usize = 4;
const ENTRY_LEN: usize = 8;
/// Without an id.
const NOBODY: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    /// Read 4, write 2, execute 1.
    perm: u16,
    id: u32,
}

/// A valid list: owner, named users, owning group, named groups, mask if there are named ones, other; in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

/// Whether the attribute is one of the two.
pub(crate) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

impl Acl {
    /// Reads the value of an attribute; `None` is an empty list, which stands for none.
    pub(crate) fn parse(value: &[u8]) -> Result<Option<Self>> {
        let invalid = || fail(ErrorKind::InvalidArgument, "not a valid access control list");
        let (header, rest) = value.split_at_checked(HEADER_LEN).ok_or_else(invalid)?;
        if header != VERSION.to_le_bytes() || !rest.len().is_multiple_of(ENTRY_LEN) {
            return Err(invalid());
        }
        let entry = |bytes: &[u8; ENTRY_LEN]| {
            let [t, ag, p, erm, a, b, c, d] = *bytes;
            Entry {
                tag: u16::from_le_bytes([t, ag]),
                perm: u16::from_le_bytes([p, erm]),
                id: u32::from_le_bytes([a, b, c, d]),
            }
        };
        let entries: Vec<Entry> = rest.as_chunks().0.iter().map(entry).collect();
        if entries.is_empty() {
            return Ok(None);
        }
        if is_valid(&entries) { Ok(Some(Self(entries))) } else { Err(invalid()) }
    }

    /// The value of the attribute.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            value.extend(entry.tag.to_le_bytes());
            value.extend(entry.perm.to_le_bytes());
            value.extend(entry.id.to_le_bytes());
        }
        value
    }

    /// Whether it says more than nine permission bits can.
    pub(crate) fn is_extended(&self) -> bool {
        self.0.iter().any(|entry| !matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    fn perm(&self, tag: u16) -> Option<u32> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm.into())
    }

    /// The nine permission bits that go with it.
    pub(crate) fn mode(&self) -> u32 {
        let of = |tag| self.perm(tag).unwrap_or(0);
        of(USER_OBJ) << 6 | self.perm(MASK).unwrap_or(of(GROUP_OBJ)) << 3 | of(OTHER)
    }

    /// Changes it as chmod does.
    pub(crate) fn set_mode(&mut self, mode: u32) {
        let group = if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ };
        for entry in &mut self.0 {
            let bits = match entry.tag {
                USER_OBJ => mode >> 6,
                OTHER => mode,
                tag if tag == group => mode >> 3,
                _ => continue,
            };
            entry.perm = (bits & 7) as u16;
        }
    }

    /// Of a directory's default list: the list of what is made in it, for a creator who asked for `mode`.
    pub(crate) fn inherited(&self, mode: u32) -> Self {
        let mut made = self.clone();
        made.set_mode(self.mode() & mode);
        made
    }

    /// Whether somebody may do all of `want` (read 4, write 2, execute 1) to an inode of this owner and group.
    pub fn allows(&self, owner: (u32, u32), uid: u32, is_member: impl Fn(u32) -> bool, want: u32) -> bool {
        let grants = |perm: u32| perm & want == want;
        let mask = self.perm(MASK).unwrap_or(7);
        if uid == owner.0 {
            return self.perm(USER_OBJ).is_some_and(grants);
        }
        if let Some(named) = self.0.iter().find(|entry| entry.tag == USER && entry.id == uid) {
            return grants(u32::from(named.perm) & mask);
        }
        let mut in_a_group = false;
        for entry in &self.0 {
            let group = match entry.tag {
                GROUP_OBJ => owner.1,
                GROUP => entry.id,
                _ => continue,
            };
            if is_member(group) {
                in_a_group = true;
                if grants(u32::from(entry.perm) & mask) {
                    return true;
                }
            }
        }
        !in_a_group && self.perm(OTHER).is_some_and(grants)
    }
}

fn is_valid(entries: &[Entry]) -> bool {
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    let named = count(USER) + count(GROUP) > 0;
    entries.is_sorted_by_key(|entry| entry.tag)
        && entries.iter().all(|entry| {
            let is_named = matches!(entry.tag, USER | GROUP);
            entry.perm <= 7 && (entry.id != NOBODY || !is_named)
        })
        && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
        && (count(MASK) == 1 || count(MASK) == 0 && !named)
        && entries.iter().all(|entry| [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&entry.tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|(tag, perm, id)| Entry { tag: *tag, perm: *perm, id: *id }).collect())
    }

    fn sample() -> Acl {
        acl(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 6, 10),
            (GROUP_OBJ, 5, NOBODY),
            (GROUP, 3, 20),
            (MASK, 5, NOBODY),
            (OTHER, 1, NOBODY),
        ])
    }

    #[test]
    fn a_list_comes_back_and_what_is_none_is_refused() {
        let value = sample().encode();
        assert_eq!(Acl::parse(&value).unwrap(), Some(sample()));
        assert_eq!(Acl::parse(&value[..4]).unwrap(), None);
        for length in [0, 3, 5, value.len() - 1] {
            assert!(Acl::parse(&value[..length]).is_err(), "{length}");
        }
        let bits = [(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)];
        assert!(!Acl::parse(&acl(&bits).encode()).unwrap().unwrap().is_extended());
        let swapped = [bits[1], bits[0], bits[2]];
        let without_mask = [bits[0], (USER, 1, 1), bits[1], bits[2]];
        let (twice, too_much, strange) = (
            [bits[0], bits[0], bits[1], bits[2]],
            [(USER_OBJ, 8, 0), bits[1], bits[2]],
            [bits[0], bits[1], bits[2], (0x40, 1, 1)],
        );
        for wrong in [&swapped[..], &without_mask, &twice, &too_much, &strange, &bits[..2]] {
            assert!(Acl::parse(&acl(wrong).encode()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_groups_bits_are_the_mask() {
        let mut list = sample();
        assert_eq!(list.mode(), 0o751);
        list.set_mode(0o640);
        assert_eq!((list.mode(), list.perm(GROUP_OBJ), list.perm(MASK)), (0o640, Some(5), Some(4)));
        let made = sample().inherited(0o666);
        assert_eq!((made.mode(), made.perm(GROUP_OBJ), made.perm(USER)), (0o640, Some(5), Some(6)));
    }

    #[test]
    fn the_first_entry_that_fits_decides_and_groups_add_up() {
        let list = sample();
        let may = |uid: u32, groups: &[u32], want| list.allows((1, 2), uid, |group| groups.contains(&group), want);
        assert!(may(1, &[], 7));
        assert!(may(10, &[2], 4) && !may(10, &[2], 2), "the mask takes writing away");
        assert!(!may(10, &[], 1), "a named user is not other");
        assert!(may(11, &[2], 5) && !may(11, &[2], 2));
        assert!(may(11, &[20], 1) && !may(11, &[20], 4));
        assert!(may(11, &[2, 20], 4) && may(11, &[99], 1) && !may(11, &[99], 4));
    }
}
