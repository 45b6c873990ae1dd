//! When all calls have ended that may have found a file before its names were exchanged: a grace period in the sense of
//! RCU, for replacements that no guard makes final.
//!
//! A thread that has resolved a name to the displaced inode and has not changed it yet is seen by nothing: it holds no
//! lock and counts as no writer. But it is inside a system call, and when it has left that call it has changed the inode,
//! so that the last look finds the change, or it never will. So a replacement may become final when every thread that
//! there was at the exchange was seen outside of such a call since:
//!
//! | a thread that | is outside at the instant at which |
//! | --- | --- |
//! | sleeps in a call that leads from no path to a change ([`procfs::changes_no_path`]) | that is seen |
//! | runs, or waits for a processor or in a call that might | it gets on ([`ThreadProgress`]): a tick meets it in its own program, or it reads or writes |
//! | is gone | that is seen |
//! | was made since | it was made: it begins in its program |
//!
//! One look at all threads of the host serves all replacements of a run that were begun before it. Who cannot be told
//! from a thread in the middle of `open(2)` is looked at again and again.
//!
//! It does not see threads of the kernel itself that change files by path for somebody else (`nfsd`, `ksmbd`), and where
//! the run has a PID namespace of its own, no process outside of that.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::procfs;
use vhashify_sys::thread_progress::{Progress, ThreadProgress};

/// How long a replacement is waited for, because of a thread that cannot be told from one in the middle of a call, before
/// it is put aside.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How long it is waited for at the end, when there is nothing else to do. On a host with far more to do than processors a
/// thread gets none for seconds.
pub const LAST_PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at threads that could not be told.
const PAUSE: Duration = Duration::from_millis(1);

/// After so many looks that told nothing a thread is one to be named.
const LOOKS_IN_VAIN: u32 = 5;

/// Between two looks at all threads, while there is something else to do: all that is replaced meanwhile is served by one
/// look. And at least so many times as long as a look takes, on a host of many threads.
const ROUND: Duration = Duration::from_millis(20);
const TIMES_A_LOOK: u32 = 30;

/// Knows of one instant before which every call has ended.
#[derive(Debug, Default)]
pub struct Grace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `None` before it is first asked for; with an error where the kernel has none: then only who sleeps is told.
    progress: Option<Result<ThreadProgress, Errno>>,
    /// Threads that may have been inside of a call when they were last looked at.
    doubtful: HashMap<i32, Doubtful>,
    /// When the last look at all threads began, and how long it took.
    all: Option<(Instant, Duration)>,
    /// When the last look at any of them ended.
    looked: Option<Instant>,
}

/// A thread that may be inside of a call.
#[derive(Debug, Clone, Copy)]
struct Doubtful {
    /// It was outside at some instant after this.
    was_outside: Option<Instant>,
    /// How far it was at some instant after [`Self::looked`].
    progress: Option<Progress>,
    looked: Instant,
    /// Looks since it was last seen to have been outside.
    in_vain: u32,
}

impl Grace {
    /// Whether every call has ended that may have begun before `since`. Looks, where nobody else does just now and the
    /// last look is a while ago.
    #[must_use]
    pub fn is_over(&self, since: Instant) -> bool {
        self.ask(since, false)
    }

    fn ask(&self, since: Instant, is_waited_for: bool) -> bool {
        if is_untold() {
            return false;
        }
        if fault::is_omitted(Point::Grace) {
            return true;
        }
        let mut state = match self.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // What they find is asked for the next time.
            Err(TryLockError::WouldBlock) => return false,
        };
        state.is_over(since, is_waited_for)
    }

    /// Waits until every call has ended that may have begun before `since`, at most until `end`. Returns whether they have.
    #[must_use]
    pub fn wait(&self, since: Instant, end: Instant) -> bool {
        loop {
            if self.ask(since, true) {
                return true;
            }
            if Instant::now() >= end || is_untold() {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for the calls that are under way now, as long as it makes sense. Returns whether all have ended.
    pub fn wait_for_now(&self) -> bool {
        let now = Instant::now();
        self.wait(now, now + LAST_PATIENCE)
    }

    /// The threads that could not be told at the last looks, the longest first.
    #[must_use]
    pub fn doubtful(&self) -> Vec<i32> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut threads: Vec<(u32, i32)> = state
            .doubtful
            .iter()
            .map(|(&thread, doubtful)| (doubtful.in_vain, thread))
            .filter(|&(in_vain, _)| in_vain >= LOOKS_IN_VAIN)
            .collect();
        threads.sort_unstable_by_key(|&(in_vain, thread)| (Reverse(in_vain), thread));
        threads.into_iter().map(|(_, thread)| thread).collect()
    }
}

/// Whether a test has it that nobody can be told.
fn is_untold() -> bool {
    fault::at(Point::Grace, || Ok::<_, Errno>(())).is_err()
}

impl State {
    fn is_over(&mut self, since: Instant, is_waited_for: bool) -> bool {
        if self.ended_before().is_some_and(|instant| since < instant) {
            return true;
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < PAUSE) {
            return false;
        }
        match self.all {
            Some((began, _)) if since < began => self.look_again(),
            Some((began, took))
                if !is_waited_for && began.elapsed() < ROUND.max(took * TIMES_A_LOOK) =>
            {
                return false;
            }
            _ => self.look_at_all(),
        }
        self.looked = Some(Instant::now());
        self.ended_before().is_some_and(|instant| since < instant)
    }

    /// Every call that began before this has ended.
    fn ended_before(&self) -> Option<Instant> {
        let (all, _) = self.all?;
        let mut threads = self.doubtful.values();
        threads.try_fold(all, |least, thread| Some(least.min(thread.was_outside?)))
    }

    /// Looks at every thread of the host but those of this process, which changes what it means to.
    fn look_at_all(&mut self) {
        let began = Instant::now();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let Ok(processes) = procfs::processes() else {
            // Without `/proc` nothing can be told: nobody was seen.
            return;
        };
        let mut before = std::mem::take(&mut self.doubtful);
        for process in processes.into_iter().filter(|&process| process != own) {
            self.look_at_process(process, &mut before);
        }
        self.all = Some((began, began.elapsed()));
    }

    fn look_at_process(&mut self, process: i32, before: &mut HashMap<i32, Doubtful>) {
        /// A process whose threads end as fast as they are listed: what goes on of it is listed one of these times.
        const MOST_LISTS: u32 = 16;
        for _ in 0..MOST_LISTS {
            let Ok(threads) = procfs::threads(process) else {
                return;
            };
            let mut has_lost_one = false;
            for thread in threads {
                let known = self.doubtful.remove(&thread);
                let known = known.or_else(|| before.remove(&thread));
                has_lost_one |= self.look(thread, known).is_err();
            }
            if !has_lost_one {
                return;
            }
        }
    }

    /// Looks once more at those that could not be told.
    fn look_again(&mut self) {
        for (thread, known) in std::mem::take(&mut self.doubtful) {
            // It may have gone.
            let _ = self.look(thread, Some(known));
        }
    }

    /// Looks at a thread of which `known` is known, and keeps what is known of it then if it may be inside.
    ///
    /// # Errors
    /// It has gone.
    fn look(&mut self, thread: i32, known: Option<Doubtful>) -> Result<(), Errno> {
        let looked = Instant::now();
        match procfs::changes_no_path(thread) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(errno) if procfs::is_gone(errno) => return Err(errno),
            // Neither seen nor gone.
            Err(errno) => tracing::debug!(thread, %errno, "a thread cannot be looked at"),
        }
        let measure = self.progress.get_or_insert_with(ThreadProgress::new);
        let progress = match measure.as_ref().map(|measure| measure.of(thread)) {
            Ok(Err(Errno::SRCH)) => return Err(Errno::SRCH),
            Ok(progress) => progress.ok(),
            Err(_) => None,
        };
        let got_on = |before: &Doubtful| {
            let both = before.progress.zip(progress);
            both.is_some_and(|(before, now)| before != now)
        };
        let (was_outside, in_vain) = match known {
            None => (None, 0),
            // It got on after it was measured, and that was after the look before this one began.
            Some(before) if got_on(&before) => (Some(before.looked), 0),
            Some(before) => (before.was_outside, before.in_vain.saturating_add(1)),
        };
        let now = Doubtful {
            was_outside,
            progress,
            looked,
            in_vain,
        };
        self.doubtful.insert(thread, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn started(script: &str) -> Child {
        let command = ["-c", script];
        let child = Command::new("sh")
            .args(command)
            .stdin(Stdio::piped())
            .spawn();
        child.unwrap()
    }

    fn stopped(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn who_runs_its_own_program_is_waited_for_no_longer_than_a_few_ticks() {
        let running = started("while :; do :; done");
        let grace = Grace::default();
        assert!(grace.wait_for_now(), "{:?}", grace.doubtful());
        stopped(running);
    }

    #[test]
    fn who_makes_the_host_busy_is_waited_for_no_longer_than_its_calls_take() {
        let mut busy = Command::new("dd");
        let busy = busy
            .args(["if=/dev/zero", "of=/dev/null", "bs=4M"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let grace = Grace::default();
        assert!(grace.wait_for_now(), "{:?}", grace.doubtful());
        stopped(busy);
    }

    #[test]
    fn a_thread_that_does_not_get_on_is_waited_for_and_named() {
        let grace = Grace::default();
        assert!(grace.wait_for_now());
        let now = Instant::now();
        let doubtful = Doubtful {
            was_outside: None,
            progress: None,
            looked: now,
            in_vain: LOOKS_IN_VAIN,
        };
        let mut state = grace.0.lock().unwrap();
        state.look_at_all();
        state.doubtful.clear();
        assert!(state.ended_before().is_some_and(|instant| instant > now));
        state.doubtful.insert(i32::MAX, doubtful);
        assert_eq!(state.ended_before(), None);
        drop(state);
        assert_eq!(grace.doubtful(), [i32::MAX]);
    }

    #[test]
    fn a_growth_counts_from_the_look_before_it() {
        let running = started("while :; do :; done");
        let thread = i32::try_from(running.id()).unwrap();
        let mut state = State::default();
        let end = Instant::now() + Duration::from_secs(20);
        let mut last: Option<Doubtful> = None;
        while last.is_none_or(|last| last.was_outside.is_none()) {
            assert!(Instant::now() < end);
            state.look(thread, last).unwrap();
            // Where it has just lost its processor, it is told, and the next look is a first one.
            let now = state.doubtful.remove(&thread);
            match (last, now) {
                (None, Some(now)) => assert_eq!(now.was_outside, None, "one look tells nothing"),
                (Some(last), Some(now)) if now.progress != last.progress => {
                    assert_eq!(now.was_outside, Some(last.looked));
                }
                _ => {}
            }
            last = now;
        }
        stopped(running);
        assert!(state.look(thread, last).is_err());
        assert!(state.doubtful.is_empty());
    }
}
