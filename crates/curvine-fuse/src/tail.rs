//! The end of a file that grows while it is read through the page cache.
//!
//! The kernel fills the page that holds the end with zeroes behind it, and a reader of that page looks at the size of the file only
//! afterwards. Told of a larger size in between, it hands the zeroes out as data. So a READ that ends before a size that was told
//! since it began is done again, and a larger size waits until those who read up to the old end have had the time to look. What this
//! kernel itself writes or makes longer is in its pages, and right for whoever reads them.

use std::time::Duration;

use tokio::time::Instant;

/// How long a reader may need from the answer to its READ until it looks at the size.
const LOOK: Duration = Duration::from_millis(100);

/// What the kernel was told of the end of an open inode.
#[derive(Debug, Default)]
pub struct Tail {
    /// Counts the sizes.
    told: u64,
    size: u64,
    /// Where the last READ ended that was shorter than asked for, and when that was.
    short: Option<(u64, Instant)>,
}

impl Tail {
    /// Names the sizes that were told up to now.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// A size is about to be told: not before the time that is returned.
    pub fn tell(&mut self, size: u64) -> Option<Instant> {
        if self.told == 0 || self.size != size {
            self.told += 1;
            self.size = size;
        }
        let (end, at) = self.short?;
        let until = at + LOOK;
        (size > end && until > Instant::now()).then_some(until)
    }

    /// The kernel has made the file at least so long by itself, past none of its pages: that is no news to it.
    pub fn grew(&mut self, size: u64) {
        if let Some((end, _)) = &mut self.short {
            *end = size.max(*end);
        }
    }

    /// A READ that began when `told` was the last size ended at `end`, shorter than asked for. False: it is too old to be answered.
    pub fn ends(&mut self, told: u64, end: u64) -> bool {
        if self.told != told && self.size > end {
            return false;
        }
        self.short = Some((end, Instant::now()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_a_larger_size_overtook_is_done_again() {
        let mut tail = Tail::default();
        tail.tell(256);
        let began = tail.told();
        tail.tell(256);
        assert!(tail.ends(began, 256));
        tail.tell(320);
        assert!(!tail.ends(began, 256), "the kernel would take zeroes for the bytes from 256 to 320");
        assert!(tail.ends(began, 320));
        let again = tail.told();
        tail.tell(100);
        assert!(tail.ends(again, 100), "a file that was cut is as short as that");
        assert!(tail.ends(tail.told(), 50), "cut once more, and nobody was told");
    }

    #[test]
    fn what_the_kernel_wrote_itself_does_not_wait() {
        let mut tail = Tail::default();
        let began = tail.told();
        assert!(tail.ends(began, 256));
        tail.grew(320);
        tail.grew(300);
        assert_eq!(tail.tell(320), None);
        assert!(tail.tell(321).is_some(), "somebody else has written more");
        // A READ from before the write.
        assert!(!tail.ends(began, 256));
        assert!(tail.ends(tail.told(), 330));
        assert_eq!(tail.tell(330), None);
    }

    #[test]
    fn a_larger_size_waits_for_those_who_read_up_to_the_old_end() {
        let mut tail = Tail::default();
        assert_eq!(tail.tell(256), None);
        assert!(tail.ends(tail.told(), 256));
        assert_eq!(tail.tell(256), None);
        assert_eq!(tail.tell(100), None);
        assert!(tail.tell(320).is_some());
        std::thread::sleep(LOOK);
        assert_eq!(tail.tell(320), None);
    }
}
