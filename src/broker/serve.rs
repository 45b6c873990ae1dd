//! The threads that serve the calls of a guest.
//!
//! Each listener has a few threads of its own. One of them waits for calls and answers at once what a
//! glance tells: nearly all calls are about files that nobody shares. For one that takes longer it lets
//! the next thread wait in its place ([`Reception`]): so no call is handed from thread to thread, none waits for
//! another one's copy, and at most one is stuck where a call was given up in the instant of its reception. To wake
//! the next thread for each call instead would cost more than the answer.
//! What is in hand at once is bounded by the threads; all else waits in the kernel, at its callers' cost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use vhashify_sys::lease::ignore_break_signal;
use vhashify_sys::seccomp::{Listener, Notification, Verdict};

/// Threads for the calls of a guest's init and all that comes of it.
pub const THREADS_OF_INIT: usize = 4;
/// Threads for the calls of one command that entered it.
pub const THREADS_OF_COMMAND: usize = 2;

/// Memory of a thread's stack: a path, a copy's buffers and the walk of a guest.
pub const STACK: usize = 512 << 10;

/// What becomes of a call in whose judgement there was a panic: its caller must never wait for a thread that
/// is gone.
const FAILED: Verdict = Verdict::Fail(Errno::IO);

/// Whoever says what becomes of the calls of a guest.
pub trait Judge: Send + Sync {
    /// Does what is to be done before a call goes on, and says whether it does.
    ///
    /// Before it reads from a disk, copies, or waits for somebody, it leaves the `reception` to another thread.
    fn judge(
        &self,
        listener: &Listener,
        notification: &Notification,
        reception: &mut Reception<'_>,
    ) -> Verdict;
}

/// The right to receive calls, which one thread has at a time.
#[derive(Debug)]
pub struct Reception<'a>(Option<MutexGuard<'a, ()>>);

impl<'a> Reception<'a> {
    fn take(first: &'a Mutex<()>) -> Self {
        Self(Some(first.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Lets another thread receive the next call. This one comes back for it when it is done.
    pub fn leave_to_another(&mut self) {
        self.0 = None;
    }

    fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// Lets every call go on: for a guest in which nothing can be broken.
#[derive(Debug, Clone, Copy)]
pub struct LetGo;

impl Judge for LetGo {
    fn judge(
        &self,
        _listener: &Listener,
        _notification: &Notification,
        _reception: &mut Reception<'_>,
    ) -> Verdict {
        Verdict::Continue
    }
}

/// Serves the calls of `listener` until nobody has its filter any more.
///
/// # Errors
/// No thread can be made; then the listener is closed, and its calls fail with `ENOSYS`.
pub fn serve<J: Judge + ?Sized + 'static>(
    broker: &Arc<J>,
    listener: Listener,
    threads: usize,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    ignore_break_signal();
    listener.prefer_one_processor();
    let listener = Arc::new((listener, Mutex::new(())));
    (0..threads)
        .map(|_| {
            let (broker, listener) = (Arc::clone(broker), Arc::clone(&listener));
            thread::Builder::new()
                .name("broker".to_owned())
                .stack_size(STACK)
                .spawn(move || work(&*broker, &listener.0, &listener.1))
        })
        .collect()
}

fn work<J: Judge + ?Sized>(broker: &J, listener: &Listener, first: &Mutex<()>) {
    obey_quotas();
    loop {
        let mut reception = Reception::take(first);
        while reception.is_held() {
            let notification = match listener.receive() {
                Ok(Some(notification)) => notification,
                // No process has the filter any more.
                Ok(None) => return,
                Err(errno) => {
                    tracing::error!(%errno, "the broker cannot receive calls");
                    return;
                }
            };
            let verdict = judged(broker, listener, &notification, &mut reception);
            if let Err(errno) = listener.answer(&notification, verdict) {
                tracing::error!(%errno, "the broker cannot answer");
            }
        }
    }
}

fn judged<J: Judge + ?Sized>(
    broker: &J,
    listener: &Listener,
    notification: &Notification,
    reception: &mut Reception<'_>,
) -> Verdict {
    let judge = AssertUnwindSafe(|| broker.judge(listener, notification, reception));
    catch_unwind(judge).unwrap_or(FAILED)
}

/// Judges a call that somebody else has received and will answer.
pub fn judge_for_another<J: Judge + ?Sized>(
    broker: &J,
    listener: &Listener,
    notification: &Notification,
) -> Verdict {
    judged(broker, listener, notification, &mut Reception(None))
}

/// Gives up, for this thread, what lets root write over a quota: the copy is the guest's.
pub fn obey_quotas() {
    if let Ok(had) = capabilities(None) {
        let sets = CapabilitySets {
            effective: had.effective.difference(CapabilitySet::SYS_RESOURCE),
            ..had
        };
        // A thread that cannot lower its own capabilities keeps them.
        let _ = set_capabilities(None, sets);
    }
}
