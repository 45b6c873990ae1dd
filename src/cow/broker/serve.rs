//! The threads that serve the calls of a guest.
//!
//! Each listener has a few threads of its own. One of them waits for calls and answers at once what a
//! glance tells: nearly all calls are about files that nobody shares. For one that takes longer it lets
//! the next thread wait in its place: so no call is handed from thread to thread, none waits for another
//! one's copy, and at most one is stuck where a call was given up in the instant of its reception. To wake
//! the next thread for each call instead would cost more than the answer.
//! What is in hand at once is bounded by the threads; all else waits in the kernel, at its callers' cost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::sys::lease::ignore_break_signal;
use crate::sys::notification::{Listener, Notification, Verdict};

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
    /// What becomes of a call, where that can be said without reading from a disk, copying, or waiting for
    /// somebody; else `None`. While it lasts no other call is received.
    fn glance(&self, listener: &Listener, notification: &Notification) -> Option<Verdict>;

    /// Does what is to be done before a call goes on, and says whether it does.
    fn judge(&self, listener: &Listener, notification: &Notification) -> Verdict;
}

/// Lets every call go on: for a guest in which nothing can be broken.
#[derive(Debug, Clone, Copy)]
pub struct LetGo;

impl Judge for LetGo {
    fn glance(&self, _listener: &Listener, _notification: &Notification) -> Option<Verdict> {
        Some(Verdict::Continue)
    }

    fn judge(&self, _listener: &Listener, _notification: &Notification) -> Verdict {
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
        let received = {
            let _turn = first.lock().unwrap_or_else(PoisonError::into_inner);
            next_to_judge(broker, listener)
        };
        match received {
            Ok(Some(notification)) => {
                let verdict = unpanicking(|| broker.judge(listener, &notification));
                answer(listener, &notification, verdict.unwrap_or(FAILED));
            }
            Ok(None) => return,
            Err(errno) => {
                tracing::error!(%errno, "the broker cannot receive calls");
                return;
            }
        }
    }
}

/// Answers calls until there is one for which a glance is not enough; `None` once no process has the
/// filter any more.
fn next_to_judge<J: Judge + ?Sized>(
    broker: &J,
    listener: &Listener,
) -> Result<Option<Notification>, Errno> {
    while let Some(notification) = listener.receive()? {
        match unpanicking(|| broker.glance(listener, &notification)).unwrap_or(Some(FAILED)) {
            Some(verdict) => answer(listener, &notification, verdict),
            None => return Ok(Some(notification)),
        }
    }
    Ok(None)
}

fn answer(listener: &Listener, notification: &Notification, verdict: Verdict) {
    if let Err(errno) = listener.answer(notification, verdict) {
        tracing::error!(%errno, "the broker cannot answer");
    }
}

fn unpanicking<T>(judge: impl FnOnce() -> T) -> thread::Result<T> {
    catch_unwind(AssertUnwindSafe(judge))
}

/// Gives up, for this thread, what lets root write over a quota: the copy is the guest's.
fn obey_quotas() {
    if let Ok(had) = capabilities(None) {
        let sets = CapabilitySets {
            effective: had.effective.difference(CapabilitySet::SYS_RESOURCE),
            ..had
        };
        // A thread that cannot lower its own capabilities keeps them.
        let _ = set_capabilities(None, sets);
    }
}
