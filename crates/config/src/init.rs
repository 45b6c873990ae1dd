//! `apps/init`: how a guest is started and stopped.

use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ConfigError;
use super::values::{arguments, invalid, text, value, words};

/// What process 1 of the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Style {
    /// A small reaper, which runs the start command and stays until the guest's last process exits.
    #[default]
    Sysv,
    /// The start command itself, by default the guest's `/sbin/init`.
    Plain,
    /// The guest's systemd, which boots the guest.
    Systemd,
    /// The guest's minit, which boots the guest.
    Minit,
}

impl Style {
    /// Whether process 1 boots a whole system. It has a console that is a terminal, a cgroup tree of its
    /// own, and `/run` and `/tmp` in memory then.
    #[must_use]
    pub fn boots(self) -> bool {
        matches!(self, Self::Systemd | Self::Minit)
    }
}

/// One step of stopping: a signal, and how long its effect is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillStep {
    /// The signal.
    pub signal: i32,
    /// Seconds to wait for the end of the guest.
    pub seconds: u64,
}

/// The settings in `apps/init`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitSettings {
    /// `style`.
    pub style: Style,
    /// `cmd.start`, one argument a line.
    pub start: Option<Vec<String>>,
    /// `cmd.stop`, one argument a line.
    pub stop: Option<Vec<String>>,
    /// `killseq`.
    pub kill_sequence: Option<Vec<KillStep>>,
    /// `runlevel`, or `runlevel.start`, as `rc` takes it.
    pub runlevel: Option<String>,
    /// `mark`: the group of guests that are started together at boot.
    pub mark: Option<String>,
    /// `depends`: guests that must run before.
    pub depends: Vec<String>,
}

impl InitSettings {
    /// Reads `apps/init` of a guest.
    ///
    /// # Errors
    /// A file that cannot be read, or whose value means nothing.
    pub fn read(directory: &Path) -> Result<Self, ConfigError> {
        let style = match value(&directory.join("style"))?.as_deref() {
            None | Some("sysv") => Style::Sysv,
            Some("plain") => Style::Plain,
            Some("systemd") => Style::Systemd,
            Some("minit") => Style::Minit,
            Some(other) => {
                let reason = format!(
                    "the style {other:?} cannot be started here; write systemd, minit or sysv, or \
                     plain, and the command into cmd.start"
                );
                return Err(invalid(&directory.join("style"), &reason));
            }
        };
        let runlevel = match value(&directory.join("runlevel.start"))? {
            None => value(&directory.join("runlevel"))?,
            own => own,
        };
        let kill_sequence = kill_sequence(&directory.join("killseq"))?;
        Ok(Self {
            style,
            start: command(&directory.join("cmd.start"))?,
            stop: command(&directory.join("cmd.stop"))?,
            kill_sequence,
            runlevel,
            mark: value(&directory.join("mark"))?,
            depends: words(&directory.join("depends"))?,
        })
    }
}

/// A command of at least one argument, its program named by a path or looked up in the guest.
fn command(path: &Path) -> Result<Option<Vec<String>>, ConfigError> {
    match arguments(path)? {
        Some(arguments) if arguments.first().is_none_or(String::is_empty) => {
            let reason = "it holds no program; write one argument a line, or remove it";
            Err(invalid(path, reason))
        }
        found => Ok(found),
    }
}

fn kill_sequence(path: &Path) -> Result<Option<Vec<KillStep>>, ConfigError> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    parse_kill_sequence(&text)
        .map(Some)
        .map_err(|error| invalid(path, &error.to_string()))
}

/// A word of `killseq` that is no signal.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{word:?} is no signal; write SIGNAL SECONDS …")]
struct UnknownSignal {
    word: String,
}

/// `SIGNAL [SECONDS] …`: a number after a signal is a time.
fn parse_kill_sequence(text: &str) -> Result<Vec<KillStep>, UnknownSignal> {
    let mut steps: Vec<KillStep> = Vec::new();
    let mut is_timed = true;
    for word in text.split_whitespace() {
        if let (false, Ok(seconds), Some(last)) = (is_timed, word.parse(), steps.last_mut()) {
            last.seconds = seconds;
            is_timed = true;
            continue;
        }
        let signal = signal_number(word).ok_or_else(|| UnknownSignal {
            word: word.to_owned(),
        })?;
        steps.push(KillStep { signal, seconds: 0 });
        is_timed = false;
    }
    Ok(steps)
}

/// The number of a signal that is given by number or by name, with or without `SIG`.
#[must_use]
pub fn signal_number(word: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 31] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ILL", libc::SIGILL),
        ("TRAP", libc::SIGTRAP),
        ("ABRT", libc::SIGABRT),
        ("BUS", libc::SIGBUS),
        ("FPE", libc::SIGFPE),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("SEGV", libc::SIGSEGV),
        ("USR2", libc::SIGUSR2),
        ("PIPE", libc::SIGPIPE),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("STKFLT", libc::SIGSTKFLT),
        ("CHLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
        ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF),
        ("WINCH", libc::SIGWINCH),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("SYS", libc::SIGSYS),
    ];
    if let Ok(number) = word.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(above) = name.strip_prefix("RTMIN+") {
        let number = libc::SIGRTMIN() + above.parse::<u8>().ok().map(i32::from)?;
        return (number <= libc::SIGRTMAX()).then_some(number);
    }
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::{KillStep, parse_kill_sequence, signal_number};

    #[test]
    fn a_kill_sequence_is_signals_and_times() {
        let step = |signal, seconds| KillStep { signal, seconds };
        for (text, steps) in [
            ("", vec![]),
            ("15", vec![step(15, 0)]),
            ("15 30 9", vec![step(15, 30), step(9, 0)]),
            (
                "TERM 5 SIGINT kill",
                vec![step(15, 5), step(2, 0), step(9, 0)],
            ),
            ("SIGRTMIN+3\n90\n9\n", vec![step(37, 90), step(9, 0)]),
        ] {
            assert_eq!(parse_kill_sequence(text), Ok(steps), "{text}");
        }
        for bad in ["NOTHING", "15 5 5000", "0", "-9", "TERM -1"] {
            assert!(parse_kill_sequence(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_signal_has_names_and_a_number() {
        for word in ["15", "TERM", "term", "SIGTERM"] {
            assert_eq!(signal_number(word), Some(15));
        }
        assert_eq!(signal_number("RTMIN+200"), None);
    }
}
