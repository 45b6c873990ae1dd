//! Serves the calls of a guest with a few threads for each listener.
//!
//! One thread at a time has the [`ReceiveToken`] and receives calls. It answers at once what it can classify without
//! waiting: nearly all calls are about private files. For a call that takes longer it hands the token over, and another
//! thread receives the next call. So no call changes its thread, none waits for another one's copy, and at most one
//! thread is stuck where the kernel gave a call up in the instant of its reception. Waking another thread for each
//! call instead would cost more than the answer.
//!
//! The number of threads bounds the calls in hand; all others wait in the kernel, at their callers' cost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use vhashify_sys::lease::ignore_break_signal;
use vhashify_sys::seccomp::{Listener, Notification, Response};

/// Threads for the calls of a guest's init and its descendants.
pub const THREADS_OF_INIT: usize = 4;
/// Threads for the calls of one command that entered a guest.
pub const THREADS_OF_COMMAND: usize = 2;

/// Bytes of a thread's stack: room for a path, a copy's buffers and the walk of a guest.
pub const STACK: usize = 512 << 10;

/// The response to a call whose handler panicked: its caller must never wait for a thread that has ended.
const FAILED: Response = Response::Fail(Errno::IO);

/// Handles the calls of a guest.
pub trait Handler: Send + Sync {
    /// Prepares the guest for a call, and responds to it.
    ///
    /// Before it reads from a disk, copies, or waits for anything, it hands the `token` over to another thread.
    fn handle(
        &self,
        listener: &Listener,
        notification: &Notification,
        token: &mut ReceiveToken<'_>,
    ) -> Response;
}

/// The right to receive calls, which one thread has at a time.
#[derive(Debug)]
pub struct ReceiveToken<'a>(Option<MutexGuard<'a, ()>>);

impl<'a> ReceiveToken<'a> {
    fn take(first: &'a Mutex<()>) -> Self {
        Self(Some(first.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Lets another thread receive the next call. This thread takes the token again when it is done.
    pub fn hand_over(&mut self) {
        self.0 = None;
    }

    fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// Lets every call go on: for a guest that shares no files.
#[derive(Debug, Clone, Copy)]
pub struct AllowAll;

impl Handler for AllowAll {
    fn handle(
        &self,
        _listener: &Listener,
        _notification: &Notification,
        _token: &mut ReceiveToken<'_>,
    ) -> Response {
        Response::Continue
    }
}

/// Starts threads that serve the calls of `listener` until no process has its filter any more.
///
/// # Errors
/// A thread cannot be made; then the listener is closed, and its calls fail with `ENOSYS`.
pub fn serve<H: Handler + ?Sized + 'static>(
    handler: &Arc<H>,
    listener: Listener,
    threads: usize,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    ignore_break_signal();
    listener.prefer_one_processor();
    let listener = Arc::new((listener, Mutex::new(())));
    (0..threads)
        .map(|_| {
            let (handler, listener) = (Arc::clone(handler), Arc::clone(&listener));
            thread::Builder::new()
                .name("broker".to_owned())
                .stack_size(STACK)
                .spawn(move || work(&*handler, &listener.0, &listener.1))
        })
        .collect()
}

fn work<H: Handler + ?Sized>(handler: &H, listener: &Listener, first: &Mutex<()>) {
    obey_quotas();
    loop {
        let mut token = ReceiveToken::take(first);
        while token.is_held() {
            let notification = match listener.receive() {
                Ok(Some(notification)) => notification,
                // No process has the filter any more.
                Ok(None) => return,
                Err(errno) => {
                    tracing::error!(%errno, "the broker cannot receive calls");
                    return;
                }
            };
            let response = respond(handler, listener, &notification, &mut token);
            if let Err(errno) = listener.answer(&notification, response) {
                tracing::error!(%errno, "the broker cannot answer");
            }
        }
    }
}

fn respond<H: Handler + ?Sized>(
    handler: &H,
    listener: &Listener,
    notification: &Notification,
    token: &mut ReceiveToken<'_>,
) -> Response {
    let handle = AssertUnwindSafe(|| handler.handle(listener, notification, token));
    catch_unwind(handle).unwrap_or(FAILED)
}

/// The response to a call that another process has received and will answer.
pub fn respond_for_another<H: Handler + ?Sized>(
    handler: &H,
    listener: &Listener,
    notification: &Notification,
) -> Response {
    respond(handler, listener, notification, &mut ReceiveToken(None))
}

/// Drops this thread's `CAP_SYS_RESOURCE`, by which root exceeds quotas: the copies are the guest's.
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
