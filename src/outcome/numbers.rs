//! Numbers as people read them.

/// A number with its thousands set apart: `144,000`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in a decimal unit with three digits or so, rounded once: `6.2 GB`, `123 kB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let count = u128::from(count);
    let mut scale: u128 = 1;
    for unit in UNITS {
        scale *= 1000;
        let tenths = (count * 10 + scale / 2) / scale;
        if tenths < 1000 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        let whole = (count + scale / 2) / scale;
        // What rounds to a thousand is one of the next unit.
        if whole < 1000 {
            return format!("{whole} {unit}");
        }
    }
    format!("{count} B")
}

#[cfg(test)]
mod tests {
    use super::{bytes, grouped};

    #[test]
    fn numbers_are_readable() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345, "12.3 kB"),
            (99_960, "100 kB"),
            (123_400, "123 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (1_000_001, "1.0 MB"),
            (6_200_000_000, "6.2 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }
}
