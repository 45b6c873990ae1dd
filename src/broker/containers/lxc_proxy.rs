//! Answers the calls that LXC's monitor receives and passes on, by the proxy protocol of `lxc.seccomp.notify.proxy`
//! (`seccomp_notify_handler`, src/lxc/seccomp.c of LXC).
//!
//! ```text
//! sent      struct seccomp_notify_proxy_msg │ struct seccomp_notif │ …_resp │ cookie     + the listener
//! answered  the same                        │ the same             │ filled │
//! ```
//!
//! The monitor waits for the answer, and passes it on to the kernel. Once init is executed, all calls of a container and
//! of commands that enter it come this way; [`lxc_hook`](super::lxc_hook) answers those before.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use vhashify_sys::seccomp::{Listener, Notification, Response};

use super::Containers;
use super::error::ConnectionError;
use crate::broker::message::receive;
use crate::broker::serve::{Handler, obey_quotas, respond_for_another};

/// The most bytes of a message. Its cookie is any text that the administrator wrote.
const LONGEST: usize = 16 << 10;

/// Bytes of a `struct seccomp_notify_proxy_msg`: eight reserved ones, the process numbers of the monitor and of
/// init, the sizes of three structures, the length of the cookie.
const HEAD: usize = 32;
const INIT: usize = 12;
const SIZES: usize = 16;

/// Answers the calls of a container until its monitor closes the connection.
///
/// # Errors
/// [`ConnectionError`]. LXC then makes the container's calls fail with `ENOSYS`.
pub fn serve_connection(
    connection: BorrowedFd<'_>,
    containers: &Containers,
) -> Result<(), ConnectionError> {
    obey_quotas();
    let failed = |errno: Errno| ConnectionError::Receive(errno.into());
    let mut buffer = vec![0; LONGEST];
    // If a container reboots, it gets another init but keeps its monitor.
    let mut known: Option<(i32, Arc<dyn Handler>)> = None;
    loop {
        let received = receive(connection, &mut buffer).map_err(failed)?;
        if received.length == 0 {
            return Ok(());
        }
        let call = Call::parse(&buffer[..received.length]).ok_or(ConnectionError::NotProxied)?;
        let is_listener = |descriptor: &_| Listener::is_one(AsFd::as_fd(descriptor));
        let listener = received.descriptors.into_iter().find(is_listener);
        let listener = Listener::from(listener.ok_or(ConnectionError::NoListener)?);
        let handler = match &known {
            Some((init, handler)) if *init == call.init => Arc::clone(handler),
            _ => {
                let name = format!("the LXC container of process {}", call.init);
                let handler = containers.choose(call.init, &name)?.handler;
                known = Some((call.init, Arc::clone(&handler)));
                handler
            }
        };
        let response = respond_for_another(&*handler, &listener, &call.notification);
        let answer = call.answer(&mut buffer, response);
        send(connection, answer, SendFlags::NOSIGNAL).map_err(failed)?;
    }
}

/// A call in the monitor's message.
struct Call {
    /// The number of init's process.
    init: i32,
    notification: Notification,
    /// The offset of the answer in the message.
    response: usize,
    /// Bytes of the message without the cookie.
    length: usize,
}

impl Call {
    fn parse(message: &[u8]) -> Option<Self> {
        let size = |at: usize| Some(usize::from(u16::from_ne_bytes(part(message, at)?)));
        let (notification, response) = (size(SIZES)?, size(SIZES + 2)?);
        if notification < Notification::SIZE || response < Response::SIZE {
            return None;
        }
        let length = HEAD + notification + response;
        if message.len() < length {
            return None;
        }
        Some(Self {
            init: i32::from_ne_bytes(part(message, INIT)?),
            notification: Notification::from_bytes(&part(message, HEAD)?),
            response: HEAD + notification,
            length,
        })
    }

    /// Fills the answer in, and returns the message to send back.
    fn answer<'a>(&self, message: &'a mut [u8], response: Response) -> &'a [u8] {
        let bytes = response.to_bytes(self.notification.id);
        message[self.response..][..bytes.len()].copy_from_slice(&bytes);
        &message[..self.length]
    }
}

fn part<const LENGTH: usize>(message: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    message.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::{Call, HEAD};
    use vhashify_sys::seccomp::{Notification, Response};

    /// A message of a kernel whose structures have these sizes.
    fn message(notification: u16, response: u16, cookie: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 8];
        message.extend(100_i32.to_ne_bytes());
        message.extend(200_i32.to_ne_bytes());
        for size in [notification, response, 64, 0] {
            message.extend(size.to_ne_bytes());
        }
        message.extend((cookie.len() as u64).to_ne_bytes());
        assert_eq!(message.len(), HEAD);
        message.extend(7_u64.to_ne_bytes());
        message.resize(HEAD + usize::from(notification) + usize::from(response), 0);
        message.extend(cookie);
        message
    }

    #[test]
    fn the_answer_stands_where_lxc_looks_for_it() {
        for (notification, response) in [(80, 24), (96, 32)] {
            let mut bytes = message(notification, response, b"web");
            let call = Call::parse(&bytes).unwrap();
            assert_eq!((call.init, call.notification.id), (200, 7));
            let answer = call.answer(&mut bytes, Response::Continue);
            let at = HEAD + usize::from(notification);
            assert_eq!(answer.len(), at + usize::from(response));
            assert_eq!(
                answer[at..][..Response::SIZE],
                Response::Continue.to_bytes(7)
            );
        }
    }

    #[test]
    fn a_message_that_lxc_does_not_send_is_refused() {
        let whole = message(80, 24, b"");
        for length in 0..whole.len() {
            assert!(Call::parse(&whole[..length]).is_none(), "{length}");
        }
        assert!(Call::parse(&message(79, 24, b"")).is_none());
        assert!(Call::parse(&message(80, 23, b"")).is_none());
        assert_eq!(Notification::SIZE, 80);
    }
}
