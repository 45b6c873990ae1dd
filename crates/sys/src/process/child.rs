//! Work in a child process, a copy of this one, whose processor time and memory may count as somebody else's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, set_parent_process_death_signal};

/// A child that works. Reads what it writes. Dropping it ends it.
#[derive(Debug)]
pub struct Child {
    pid: libc::pid_t,
    output: File,
}

/// Does `work` in a child process, which writes what is to be known into the file that it is given, and ends with this
/// thread.
///
/// The child has this thread alone, and every lock that another one holds stays locked in it. So `work` may allocate, which
/// the C libraries see to, but takes no lock of this program: it neither logs nor prints.
///
/// # Errors
/// What `pipe(2)` and `fork(2)` list.
pub fn in_child(work: impl FnOnce(&File)) -> io::Result<Child> {
    let (output, input) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: `fork` touches no memory of this process. In the child only this thread goes on: it runs `work`, which the
    // contract above keeps from locks, and `_exit`, which runs no destructor and no handler of the program. glibc and
    // musl make their allocators usable in the child of a process with threads.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            go_on(output, input, work);
            // SAFETY: `_exit` takes an integer and does not return.
            unsafe { libc::_exit(0) }
        }
        pid => {
            drop(input);
            let output = File::from(output);
            Ok(Child { pid, output })
        }
    }
}

fn go_on(output: OwnedFd, input: OwnedFd, work: impl FnOnce(&File)) {
    drop(output);
    if set_parent_process_death_signal(Some(Signal::KILL)).is_ok() {
        let input = File::from(input);
        // Who reads sees that the end is missing.
        drop(catch_unwind(AssertUnwindSafe(|| work(&input))));
    }
}

impl Read for Child {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.output.read(into)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: `kill` takes two integers. The number is this child's: nobody else waits for it, so that it is given to no
        // other process before the call below.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        loop {
            // SAFETY: `waitpid` may take a null pointer for the status, and writes nothing then.
            let ended = unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
            if ended >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::in_child;

    #[test]
    fn a_child_says_what_it_has_done_and_its_memory_is_its_own() {
        let mut number = 1;
        let mut child = in_child(|mut output| {
            number += 1;
            drop(write!(output, "{number} {}", std::process::id()));
        })
        .unwrap();
        let mut said = String::new();
        child.read_to_string(&mut said).unwrap();
        assert_eq!(said, format!("2 {}", child.pid));
        drop(child);
        assert_eq!(number, 1);
    }

    #[test]
    fn a_child_that_panics_says_nothing() {
        let mut child = in_child(|_| std::panic::resume_unwind(Box::new(1))).unwrap();
        let mut said = String::new();
        child.read_to_string(&mut said).unwrap();
        assert_eq!(said, "");
    }

    #[test]
    fn a_child_that_nobody_waits_for_is_ended() {
        let child = in_child(|_| {
            loop {
                std::thread::park();
            }
        });
        drop(child.unwrap());
    }
}
