//! Patterns of names: `*`, `?`, `[abc]`, `[a-z]`, `[!x]`; `\` takes the next character as it is.

/// Whether a part of a path is a pattern.
pub(super) fn is_pattern(part: &[u8]) -> bool {
    part.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// Whether a name fits a pattern. Time is bounded by the product of both lengths.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    // Where to go on if what follows the last `*` does not fit: the `*` takes one byte more.
    let mut star: Option<(usize, usize)> = None;
    while pos < name.len() {
        let step = match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, pos));
                at += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[at..], name[pos]),
            Some(b'\\') if at + 1 < pattern.len() => (pattern[at + 1] == name[pos]).then_some(2),
            Some(byte) => (*byte == name[pos]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(step), _) => {
                at += step;
                pos += 1;
            }
            (None, Some((star_at, star_pos))) => {
                star = Some((star_at, star_pos + 1));
                (at, pos) = (star_at + 1, star_pos + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The length of the class that the pattern begins with, if the byte is in it. A `[` without an end stands for itself.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A `]` that comes first is one of the class.
    let end = pattern.iter().skip(first + 1).position(|byte| *byte == b']').map(|found| found + first + 1);
    let Some(end) = end else { return (byte == b'[').then_some(1) };
    let (mut found, mut at) = (false, first);
    while at < end {
        if at + 2 < end && pattern[at + 1] == b'-' {
            found |= (pattern[at]..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= pattern[at] == byte;
            at += 1;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("*.bin", "model.bin", true),
            ("*.bin", "model.bin.txt", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("part-??", "part-07", true),
            ("part-??", "part-7", false),
            ("[a-c]1", "b1", true),
            ("[!a-c]1", "b1", false),
            ("[]x]", "]", true),
            ("[x", "[x", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("**", "abc", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
        let evil = "a*".repeat(30) + "b";
        assert!(!fits(evil.as_bytes(), "a".repeat(200).as_bytes()));
    }
}
