//! Quantities of Kubernetes: `5Gi`, `100G`, `1e3`, `0.5Ti`, `1500m`.
//!
//! Source: the grammar in apimachinery's `resource.Quantity`: a signed decimal number, then a binary suffix (`Ki` ... `Ei`), a
//! decimal one (`n u m` none `k M G T P E`) or an exponent (`e3`, `E-2`). What is no whole number of bytes is rounded up.

/// Parses into bytes; the error says what was expected.
pub fn parse(text: &str) -> Result<u64, String> {
    let expected = || format!("a quantity of Kubernetes such as 5Gi, 100G or 1e9, not {text:?}");
    let trimmed = text.strip_prefix('+').unwrap_or(text);
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(expected());
    }
    let (numerator, denominator) = scale(suffix).ok_or_else(expected)?;
    let digits: String = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let value: u128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| expected())? };
    let places =
        u32::try_from(fraction.len()).ok().and_then(|places| 10u128.checked_pow(places)).ok_or_else(expected)?;
    let scaled = value.checked_mul(numerator).ok_or_else(expected)?;
    let divisor = denominator.checked_mul(places).ok_or_else(expected)?;
    u64::try_from(scaled.div_ceil(divisor)).map_err(|_| expected())
}

/// A suffix as a fraction.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1u128 << (10 * power), 1));
    let decimal = |power: u32| Some((10u128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "m" => Some((1, 1000)),
        "u" => Some((1, 1_000_000)),
        "n" => Some((1, 1_000_000_000)),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_whole_grammar_is_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1Ki", 1024),
            ("5Gi", 5 << 30),
            ("0.5Ti", 512 << 30),
            (".5Gi", 512 << 20),
            ("1.Gi", 1 << 30),
            ("+2Mi", 2 << 20),
            ("100G", 100_000_000_000),
            ("1k", 1000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("12e-1", 2),
            ("1E", 1_000_000_000_000_000_000),
            ("1Ei", 1 << 60),
            ("1500m", 2),
            ("1000000u", 1),
            ("1n", 1),
            ("007", 7),
            ("1.5Gi", 3 << 29),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_told_so() {
        for bad in
            ["", "Gi", ".", "-1", "1GB", "1gi", "1 Gi", "1..5G", "1e", "1e+", "16Ei", "1e400", "99999999999E", "0x10"]
        {
            assert!(parse(bad).unwrap_err().contains("5Gi"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,24}") {
            let _ = parse(&text);
        }
    }
}
