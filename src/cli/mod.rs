//! The command line: what was typed ([`args`]), what it means ([`selection`]), what is shown.
//!
//! ```text
//! args ─▶ selection ─▶ the library ─▶ output ─▶ exit status
//!                        └─ progress
//! ```
//!
//! | status | meaning |
//! | --- | --- |
//! | 0 | all done |
//! | 1 | finished, but some files failed, each named; or the result could not be printed |
//! | 2 | usage or configuration; nothing was changed |
//! | 3 | refused: nothing can be protected, or the store is busy; nothing was changed |

mod args;
mod command;
mod output;
mod progress;
mod selection;

use std::process::ExitCode;

use clap::Parser;

pub use args::Arguments;

/// Parses the arguments of the process and does what they say.
#[must_use]
pub fn vhashify() -> ExitCode {
    command::run(&Arguments::parse())
}

/// A number with its thousands set apart: `144,000`.
fn grouped(number: u64) -> String {
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

/// Bytes in a unit that leaves at most four digits before the point: `6.2 GB`, decimal units.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    // Tenths of a unit, in whole numbers: no rounding surprises at the boundaries.
    let mut tenths = u128::from(count) * 10;
    let mut unit = "";
    for next in UNITS {
        if tenths < 10_000 {
            break;
        }
        tenths = tenths.div_ceil(1000).max(10);
        unit = next;
    }
    if tenths >= 1000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
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
            (12_345, "12.4 kB"),
            (123_400, "124 kB"),
            (6_200_000_000, "6.2 GB"),
            (u64::MAX, "18.5 EB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }
}
