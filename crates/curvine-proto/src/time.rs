//! Conversions of wall-clock times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::v1::Time;

impl Time {
    /// A time from seconds and nanoseconds since 1970; nanoseconds below 10^9.
    pub fn new(sec: i64, nsec: u32) -> Self {
        Self { sec, nsec }
    }

    /// The machine's clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Seconds and nanoseconds, ordered.
    pub fn key(&self) -> (i64, u32) {
        (self.sec, self.nsec)
    }

    /// The next representable time.
    pub fn next(&self) -> Self {
        if self.nsec >= 999_999_999 { Self::new(self.sec + 1, 0) } else { Self::new(self.sec, self.nsec + 1) }
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::new(after.as_secs() as i64, after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let nanos = before.subsec_nanos();
                let borrow = i64::from(nanos > 0);
                Self::new(-(before.as_secs() as i64) - borrow, if nanos > 0 { 1_000_000_000 - nanos } else { 0 })
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let nanos = Duration::from_nanos(u64::from(time.nsec));
        let base = if time.sec >= 0 {
            UNIX_EPOCH.checked_add(Duration::from_secs(time.sec as u64))
        } else {
            UNIX_EPOCH.checked_sub(Duration::from_secs(time.sec.unsigned_abs()))
        };
        base.and_then(|base| base.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive() {
        for time in [Time::new(0, 0), Time::new(-1, 999_999_999), Time::new(-2, 0), Time::new(1_700_000_000, 5)] {
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
        assert_eq!(Time::new(4, 999_999_999).next(), Time::new(5, 0));
    }
}
