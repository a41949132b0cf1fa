//! Sizes and durations with their units, as people write them: `128MB`, `1.5GiB`, `10m`, `300ms`.
//!
//! Sizes are powers of 1024 whatever the spelling (`MB` = `MiB` = `M`), as in the existing config files.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// Splits "1.5GiB" into its number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then(|| (number, text[end..].trim()))
}

/// Parses a size into bytes; a bare number is bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    let invalid = || {
        Error::new(ErrorKind::InvalidArgument, "not a size; write for example 128MB, 1.5GiB or 4096").with("text", text)
    };
    let (number, unit) = split(text).ok_or_else(invalid)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" | "ki" => 10,
        "m" | "mb" | "mib" | "mi" => 20,
        "g" | "gb" | "gib" | "gi" => 30,
        "t" | "tb" | "tib" | "ti" => 40,
        "p" | "pb" | "pib" | "pi" => 50,
        _ => return Err(invalid()),
    };
    let bytes = number * (1u64 << shift) as f64;
    if bytes >= u64::MAX as f64 {
        return Err(invalid());
    }
    Ok(bytes as u64)
}

/// Parses a duration; a bare number is refused, because nobody agrees on its unit.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let invalid = || {
        Error::new(ErrorKind::InvalidArgument, "not a duration; write for example 300ms, 10s, 5m, 24h or 7d")
            .with("text", text)
    };
    let (number, unit) = split(text).ok_or_else(invalid)?;
    let micros = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" | "sec" => 1e6,
        "m" | "min" => 60e6,
        "h" => 3600e6,
        "d" => 86_400e6,
        "" if number == 0.0 => 0.0,
        _ => return Err(invalid()),
    };
    let micros = (number * micros).round();
    if micros >= u64::MAX as f64 {
        return Err(invalid());
    }
    Ok(Duration::from_micros(micros as u64))
}

/// Bytes for people: `1.5 GiB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration in its largest whole unit, so that it parses back to itself: `90s`, `5m`, `300ms`.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    if millis == 0 && !duration.is_zero() { format!("{}us", duration.as_micros()) } else { format!("{millis}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("128MB", 128 << 20), ("1.5GiB", 3 << 29), ("5Gi", 5 << 30), (" 1 k ", 1024)]
        {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "MB", "12XB", "-1", "1e400", "99999999999PB", "1..5M"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("300ms").unwrap(), Duration::from_millis(300));
        assert_eq!(parse_duration("24h").unwrap(), Duration::from_secs(86_400));
        assert_eq!(parse_duration("0").unwrap(), Duration::ZERO);
        for bad in ["10", "", "s", "10 weeks", "-5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_reads_back(millis in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)).unwrap(), duration);
        }
    }
}
