//! A process that is held in the middle of `open(2)`: it counts as a writer already, and has not come as
//! far as to ask for the lease. Where the machine has more to do than processors, any process can be
//! held there by the scheduler; here a permission event of `fanotify(7)` does it.
#![allow(unsafe_code)] // fanotify has no safe wrapper among the crates in use.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the process appends to the file once it is let go.
pub const APPENDED: &[u8] = b"appended\n";

/// How long the process may take to come to its `open`.
const PATIENCE: Duration = Duration::from_mins(1);

/// The process. When this is dropped it goes on.
pub struct HeldWriter {
    child: Child,
    is_let_go: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

impl HeldWriter {
    /// Starts a process that opens `path` for writing, and returns once it is held. Others that open
    /// the file are not.
    pub fn start(path: &Path) -> Self {
        let events = listen(path).unwrap();
        let child = Command::new("sh")
            .args(["-c", "echo appended >>\"$1\"", "sh"])
            .arg(path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let writer = i32::try_from(child.id()).unwrap();
        let is_let_go = Arc::new(AtomicBool::new(false));
        let is_held = Arc::new(AtomicBool::new(false));
        let (let_go, held) = (Arc::clone(&is_let_go), Arc::clone(&is_held));
        let answering = std::thread::spawn(move || {
            let mut waiting = None;
            // When the descriptor is closed the kernel lets all go on.
            while !let_go.load(Ordering::SeqCst) {
                while let Some((file, process)) = next(&events) {
                    if process == writer {
                        waiting = Some(file);
                        held.store(true, Ordering::SeqCst);
                    } else {
                        allow(&events, &file);
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if let Some(file) = waiting {
                allow(&events, &file);
            }
        });
        let this = Self {
            child,
            is_let_go,
            answering: Some(answering),
        };
        let begun = Instant::now();
        while !is_held.load(Ordering::SeqCst) {
            assert!(begun.elapsed() < PATIENCE, "it does not open the file");
            std::thread::sleep(Duration::from_millis(1));
        }
        this
    }

    /// Lets it open the file and write, and gives what became of it.
    pub fn let_go(mut self) -> Output {
        self.go_on();
        let none = Command::new("true").spawn().unwrap();
        std::mem::replace(&mut self.child, none)
            .wait_with_output()
            .unwrap()
    }

    fn go_on(&mut self) {
        self.is_let_go.store(true, Ordering::SeqCst);
        if let Some(answering) = self.answering.take() {
            answering.join().unwrap();
        }
    }
}

impl Drop for HeldWriter {
    fn drop(&mut self) {
        self.go_on();
        self.child.wait().unwrap();
    }
}

/// Asks to be asked whenever the file is opened.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    // SAFETY: the call takes two integers.
    let events = unsafe { libc::fanotify_init(flags, libc::O_RDONLY.cast_unsigned()) };
    if events < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    let events = unsafe { OwnedFd::from_raw_fd(events) };
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the descriptor is open, and the path is a string that ends with a NUL and lives.
    let marked = unsafe {
        libc::fanotify_mark(
            events.as_raw_fd(),
            libc::FAN_MARK_ADD,
            libc::FAN_OPEN_PERM,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    };
    if marked < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(events)
}

/// The next event: a descriptor of the file, and the process that waits. `None` where there is none yet.
fn next(events: &OwnedFd) -> Option<(OwnedFd, i32)> {
    let mut event = std::mem::MaybeUninit::<libc::fanotify_event_metadata>::uninit();
    // A buffer that takes one event gets one.
    let size = size_of::<libc::fanotify_event_metadata>();
    // SAFETY: the buffer is as long as is said, and lives.
    let read = unsafe { libc::read(events.as_raw_fd(), event.as_mut_ptr().cast(), size) };
    if read != isize::try_from(size).unwrap() {
        assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock);
        return None;
    }
    // SAFETY: the kernel wrote all of it, and any bytes are one.
    let event = unsafe { event.assume_init() };
    // SAFETY: the kernel opened this descriptor for the reader of the event.
    Some((unsafe { OwnedFd::from_raw_fd(event.fd) }, event.pid))
}

fn allow(events: &OwnedFd, file: &OwnedFd) {
    let response = libc::fanotify_response {
        fd: file.as_raw_fd(),
        response: libc::FAN_ALLOW,
    };
    let size = size_of::<libc::fanotify_response>();
    // SAFETY: the buffer is a whole response, as long as is said, and lives.
    let written = unsafe {
        libc::write(
            events.as_raw_fd(),
            std::ptr::from_ref(&response).cast(),
            size,
        )
    };
    assert_eq!(written, isize::try_from(size).unwrap());
}
