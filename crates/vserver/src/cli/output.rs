//! How a command speaks: lines on standard output and standard error, times, paths, warnings.

use std::io::{IsTerminal, Write};
use std::path::Path;

use super::args::Common;

/// Seconds, in two units at most.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A path as it may be shown on a terminal.
pub fn shown(path: &Path) -> String {
    vhashify_sys::shown::Shown::path(path).to_string()
}

/// Writes one line to standard output. That nobody reads it is no error.
pub fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Writes one line to standard error. That nobody reads it is no error.
pub fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "vserver: {line}"));
}

/// Shows this program's own warnings, and none of `libcontainer`, which are for its developers.
pub fn start_tracing(common: &Common) {
    use tracing::Level;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level = match common.verbose {
        0 if common.silent => Level::ERROR,
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .finish()
        .with(Targets::new().with_targets([("vhashify", level), ("vserver", level)]))
        .init();
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn a_time_is_told_in_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_700, "1 h 1 min"),
            (180_000, "2 d 2 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
