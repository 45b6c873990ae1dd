//! The threads that serve the calls of a guest.
//!
//! Each listener has a few threads of its own. One of them waits for the next call, and lets the next
//! one wait as soon as it has one: so no call is handed from thread to thread, and at most one is stuck
//! where a call was given up in the instant of its reception. What is in hand at once is bounded by the
//! threads; all else waits in the kernel, at its callers' cost.

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

/// Whoever says what becomes of the calls of a guest.
pub trait Judge: Send + Sync {
    /// Does what is to be done before a call goes on, and says whether it does.
    fn judge(&self, listener: &Listener, notification: &Notification) -> Verdict;
}

/// Lets every call go on: for a guest in which nothing can be broken.
#[derive(Debug, Clone, Copy)]
pub struct LetGo;

impl Judge for LetGo {
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
            listener.receive()
        };
        let notification = match received {
            Ok(Some(notification)) => notification,
            Ok(None) => return,
            Err(errno) => {
                tracing::error!(%errno, "the broker cannot receive calls");
                return;
            }
        };
        let verdict = judge(broker, listener, &notification);
        if let Err(errno) = listener.answer(&notification, verdict) {
            tracing::error!(%errno, "the broker cannot answer");
        }
    }
}

/// What becomes of a call, whatever happens here: a caller must never wait for a thread that is gone.
fn judge<J: Judge + ?Sized>(
    broker: &J,
    listener: &Listener,
    notification: &Notification,
) -> Verdict {
    let judged = catch_unwind(AssertUnwindSafe(|| broker.judge(listener, notification)));
    judged.unwrap_or(Verdict::Fail(Errno::IO))
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
