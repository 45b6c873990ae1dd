//! What a monitor and its broker have to say: in `monitor.log` of the state directory, which is bounded, and in the journal if
//! the host has one.
//!
//! The standard streams of a monitor are `/dev/null`: nobody reads them. A guest can make its broker complain as often as it
//! likes, so only so many lines are kept in a time.

use std::fmt::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use vhashify_sys::shown::Shown;

use super::super::bounded_log::BoundedLog;
use super::super::state::StateDirectory;

/// The name in the state directory.
const NAME: &str = "monitor.log";
/// The length at which it becomes `monitor.log.1`.
const LONGEST: u64 = 256 << 10;
/// The longest message; the rest of it is cut off.
const LONGEST_MESSAGE: usize = 2048;
/// How many lines are taken in each [`INTERVAL`].
const LINES: u32 = 200;
const INTERVAL: Duration = Duration::from_secs(30);
/// Where the journal takes messages (systemd.journal-fields(7), *Native Journal Protocol*).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Begins to log, for the rest of this process's life. Panics are logged, too.
pub fn start(state: &StateDirectory) {
    let ours = Level::INFO;
    let targets = Targets::new().with_targets([
        ("vhashify", ours),
        ("vserver", ours),
        ("libcontainer", Level::ERROR),
    ]);
    let log = MonitorLog {
        guest: state.name().to_owned(),
        kept: Mutex::new(Kept {
            file: BoundedLog::open(state.at(NAME), LONGEST),
            lines: Lines::new(Instant::now()),
        }),
        journal: UnixDatagram::unbound()
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .ok(),
    };
    // It is the only one of this process.
    drop(
        tracing_subscriber::registry()
            .with(log)
            .with(targets)
            .try_init(),
    );
    std::panic::set_hook(Box::new(|panic| tracing::error!("a bug: {panic}")));
}

struct MonitorLog {
    guest: String,
    kept: Mutex<Kept>,
    journal: Option<UnixDatagram>,
}

struct Kept {
    file: BoundedLog,
    lines: Lines,
}

impl<S: Subscriber> Layer<S> for MonitorLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let message = text.finish();
        let level = *event.metadata().level();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Taken { is_taken, missed } = kept.lines.take(Instant::now());
        if missed > 0 {
            let words = format!(
                "{missed} lines of the last {} s are missing",
                INTERVAL.as_secs()
            );
            self.write(&mut kept.file, Level::WARN, &words);
        }
        if is_taken {
            self.write(&mut kept.file, level, &message);
        }
    }
}

impl MonitorLog {
    fn write(&self, file: &mut BoundedLog, level: Level, message: &str) {
        let mut line = String::new();
        // The clock is readable, or there is no time.
        let _ = SystemTime.format_time(&mut Writer::new(&mut line));
        let _ = writeln!(line, " {level:>5} {message}");
        file.append(line.as_bytes());
        let priority = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        if let Some(journal) = &self.journal {
            let guest = &self.guest;
            // No value has a line break: a guest's name has none, and `Text` shows those of a message.
            let entry = format!(
                "SYSLOG_IDENTIFIER=vserver\nPRIORITY={priority}\nVSERVER_GUEST={guest}\nMESSAGE={guest}: {message}\n"
            );
            // There may be none, or it may be full.
            drop(journal.send_to(entry.as_bytes(), Path::new(JOURNAL)));
        }
    }
}

/// The message of an event and its fields, on one printable line.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(self) -> String {
        let mut bytes = self.message.into_bytes();
        bytes.extend_from_slice(self.fields.as_bytes());
        bytes.truncate(LONGEST_MESSAGE);
        Shown::bytes(bytes).to_string()
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// How many lines were taken in this interval.
struct Lines {
    since: Instant,
    count: u32,
    missed: u32,
}

/// Whether a line is taken, and how many were not in the interval that has just ended.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    is_taken: bool,
    missed: u32,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            missed: 0,
        }
    }

    fn take(&mut self, now: Instant) -> Taken {
        let mut missed = 0;
        if now.saturating_duration_since(self.since) >= INTERVAL {
            missed = self.missed;
            *self = Self::new(now);
        }
        let is_taken = self.count < LINES;
        self.count += u32::from(is_taken);
        self.missed += u32::from(!is_taken);
        Taken { is_taken, missed }
    }
}

#[cfg(test)]
mod tests {
    use super::{INTERVAL, Instant, LINES, Lines, Taken};

    #[test]
    fn so_many_lines_are_taken_in_an_interval_and_the_rest_is_counted() {
        let begun = Instant::now();
        let mut lines = Lines::new(begun);
        let taken = |is_taken, missed| Taken { is_taken, missed };
        for _ in 0..LINES {
            assert_eq!(lines.take(begun), taken(true, 0));
        }
        for _ in 0..7 {
            assert_eq!(lines.take(begun + INTERVAL / 2), taken(false, 0));
        }
        assert_eq!(lines.take(begun + INTERVAL), taken(true, 7));
        assert_eq!(lines.take(begun + INTERVAL), taken(true, 0));
    }
}
