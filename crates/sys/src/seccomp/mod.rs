//! System calls that wait for another process's answer (`SECCOMP_RET_USER_NOTIF`).
//!
//! | file | what |
//! | --- | --- |
//! | `adopt` | takes over the listener that libseccomp has made |
//! | `listener` | receives calls, answers them, replaces a caller's descriptor |
//! | `numbers` | refuses calls by their numbers |
//! | `wire` | the kernel's structures and their bytes |
//!
//! See `seccomp_unotify(2)` and `Documentation/userspace-api/seccomp_filter.rst` in the kernel's tree.

mod adopt;
mod listener;
mod numbers;
mod wire;

pub use adopt::adopt;
pub use listener::Listener;
pub use numbers::{FIRST_COMMON, refuse_numbers};
pub use wire::{Notification, Response};
