//! Progress on a terminal, by indicatif; without one, notes alone.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::args::{Common, When};
use crate::outcome::Progress;

/// How often a bar is drawn.
const DRAWN_A_SECOND: u8 = 10;

/// One bar on standard error, a stage at a time.
#[derive(Debug)]
pub struct Bar {
    current: Mutex<ProgressBar>,
    is_drawn: bool,
    is_quiet: bool,
}

impl Bar {
    /// A bar as the options ask for it.
    #[must_use]
    pub fn new(common: &Common) -> Self {
        let is_drawn = !common.quiet
            && match common.progress {
                When::Auto => io::stderr().is_terminal(),
                When::Always => true,
                When::Never => false,
            };
        Self {
            current: Mutex::new(ProgressBar::hidden()),
            is_drawn,
            is_quiet: common.quiet,
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar().finish_and_clear();
    }

    fn bar(&self) -> ProgressBar {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Progress for Bar {
    fn stage(&self, name: &'static str, total: Option<u64>) {
        if !self.is_drawn {
            return;
        }
        self.clear();
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(DRAWN_A_SECOND)
        } else {
            ProgressDrawTarget::term_like_with_hz(Box::new(Elsewhere), DRAWN_A_SECOND)
        };
        let bar = ProgressBar::with_draw_target(total, target).with_message(name);
        let template = match (total, name) {
            (Some(_), "verify") => "{msg:>8} {wide_bar} {human_pos}/{human_len} {eta:>4}",
            (Some(_), _) => "{msg:>8} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {eta:>4}",
            (None, _) => "{msg:>8} {spinner} {human_pos}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        // Here, and not first by the ticking thread: a short stage is over before that one runs.
        bar.tick();
        bar.enable_steady_tick(Duration::from_millis(100));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = bar;
    }

    fn advance(&self, by: u64) {
        if self.is_drawn {
            self.bar().inc(by);
        }
    }

    fn note(&self, line: &str) {
        if !self.is_quiet {
            self.bar().suspend(|| {
                // Nobody is left to tell when standard error is gone.
                drop(writeln!(io::stderr(), "vhashify: {line}"));
            });
        }
    }
}

/// Standard error that is no terminal, for `--progress always`: indicatif draws nothing there by
/// itself. Whatever reads it (a pager, a terminal behind a pipe) is treated as a terminal of 80 columns.
#[derive(Debug)]
struct Elsewhere;

impl TermLike for Elsewhere {
    fn width(&self) -> u16 {
        80
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.moved(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.moved(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.moved(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.moved(columns, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        writeln!(io::stderr(), "{line}")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        write!(io::stderr(), "{text}")
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write_str("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Elsewhere {
    /// Moves the cursor; a count of 0 would be taken for 1.
    fn moved(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.write_str(&format!("\x1b[{count}{direction}"))
    }
}
