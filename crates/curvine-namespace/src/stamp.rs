//! A wall-clock time in eight bytes: 34 bits of seconds since 1901-12-13, 30 bits of nanoseconds.
//!
//! The range is that of ext4, 1901 to 2446; times outside it become its ends. Stamps order like the times they stand for.

use curvine_proto::Time;

/// Seconds from the stamp's zero to 1970.
const EPOCH: i64 = 1 << 31;
const SECONDS_MAX: i64 = (1 << 34) - 1;
const NANOS_MAX: u32 = 999_999_999;

/// A packed time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    /// The number that is stored.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Stamp::to_bits`]; any number is some time.
    pub fn from_bits(bits: u64) -> Self {
        Self::from(Time { sec: (bits >> 30) as i64 - EPOCH, nsec: (bits & ((1 << 30) - 1)) as u32 })
    }

    /// The next representable time.
    pub fn next(self) -> Self {
        Self::from(Time::from(self).next())
    }

    /// The time of a change made at `now` to what was last changed at `self`: above it even if the clock has not
    /// moved on since, so that whoever compares the two sees that there was a change.
    pub fn advanced(self, now: Stamp) -> Self {
        let ahead_by_ticks = self >= now && self.0 >> 30 <= (now.0 >> 30) + 1;
        if ahead_by_ticks { self.next() } else { now }
    }
}

impl From<Time> for Stamp {
    fn from(time: Time) -> Self {
        let seconds = time.sec.saturating_add(EPOCH);
        match seconds {
            ..0 => Self(0),
            0..=SECONDS_MAX => Self((seconds as u64) << 30 | u64::from(time.nsec.min(NANOS_MAX))),
            _ => Self((SECONDS_MAX as u64) << 30 | u64::from(NANOS_MAX)),
        }
    }
}

impl From<Stamp> for Time {
    fn from(stamp: Stamp) -> Self {
        Time { sec: (stamp.0 >> 30) as i64 - EPOCH, nsec: (stamp.0 & ((1 << 30) - 1)) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_range_survive_and_keep_their_order() {
        let times = [(-EPOCH, 0), (-1, 999_999_999), (0, 0), (0, 1), (1_700_000_000, 5), (4_294_967_296, 0)];
        let stamps = times.map(|(sec, nsec)| Stamp::from(Time { sec, nsec }));
        assert!(stamps.is_sorted_by(|a, b| a < b));
        for ((sec, nsec), stamp) in times.into_iter().zip(stamps) {
            assert_eq!(Time::from(stamp), Time { sec, nsec });
            assert_eq!(Stamp::from_bits(stamp.to_bits()), stamp);
        }
    }

    #[test]
    fn times_out_of_range_become_its_ends() {
        let first = Stamp::from(Time { sec: i64::MIN, nsec: 7 });
        let last = Stamp::from(Time { sec: i64::MAX, nsec: u32::MAX });
        assert_eq!(Time::from(first).sec, -EPOCH);
        assert_eq!(Time::from(last).sec, SECONDS_MAX - EPOCH);
        assert_eq!(Time::from(Stamp::from(Time { sec: 3, nsec: u32::MAX })).nsec, NANOS_MAX);
        assert_eq!(last.next(), last);
    }

    #[test]
    fn a_change_is_seen_even_if_the_clock_stands_still() {
        let now = Stamp::from(Time { sec: 100, nsec: 5 });
        let first = Stamp::default().advanced(now);
        let second = first.advanced(now);
        let third = second.advanced(now);
        assert!(first == now && second > first && third > second);
        let far = Stamp::from(Time { sec: 1_000_000, nsec: 0 });
        assert_eq!(far.advanced(now), now, "a time set far ahead does not stick");
    }
}
