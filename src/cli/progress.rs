//! Progress on a terminal, by indicatif; without one, notes alone.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{Common, When};
use crate::report::Progress;

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
                When::Auto => std::io::stderr().is_terminal(),
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
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let bar = ProgressBar::with_draw_target(total, target).with_message(name);
        let template = match (total, name) {
            (Some(_), "verify") => "{msg:>8} {wide_bar} {human_pos}/{human_len} {eta:>4}",
            (Some(_), _) => "{msg:>8} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {eta:>4}",
            (None, _) => "{msg:>8} {spinner} {human_pos}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
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
                drop(writeln!(std::io::stderr(), "vhashify: {line}"));
            });
        }
    }
}
