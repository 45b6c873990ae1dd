//! Keeps account of calls that give an object further names in a running guest.
//!
//! The broker lets a `link(2)` of an object run: the new name is a name of the guest's same file, and a later break
//! relinks both to the copy. So a package manager that links a backup beside each file that it replaces costs no copy.
//!
//! The kernel does not say when a call that goes on has made its name. The call looks up its source first and
//! makes the name later (`do_linkat`, fs/namei.c), and may wait for a journal in between:
//!
//! ```text
//! thread 1: link(N, M) … finds N ─▶ object                    … makes M ─▶ object
//! thread 2:                                 open(N): N ─▶ copy             M and N are two files now
//! ```
//!
//! So a break waits until each call that may give its object a name is over. A thread is in one call at
//! most, and while it sleeps `/proc/T/syscall` says which. `/proc/T/wchan` says whether it waits for the broker's
//! answer to a further call. The scheduler may hold a thread that is awake for as long as it likes: the broker waits
//! until that thread has had some processor time of its own, more than a call needs that does not sleep. The
//! thread whose next call causes the break has no earlier call under way.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vhashify_sys::procfs::{self, is_gone};

/// How long a break waits for a call that hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Processor time of an awake thread after which its call is over.
const OWN_TIME: Duration = Duration::from_millis(20);
/// Between two looks at a call.
const LOOK: Duration = Duration::from_millis(1);
/// Objects that are remembered. Where a guest links more of them before a break walks it, the broker breaks their links
/// instead.
const MOST_OBJECTS: usize = 1 << 16;
/// From this many remembered calls on, those that are over are forgotten now and then.
const MANY_CALLS: usize = 1024;

/// The objects of one guest that may have got names since its last walk, and the calls that give them.
#[derive(Debug, Default)]
pub struct PendingLinks {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the last such call of each object began, by the object's inode.
    objects: HashMap<u64, Instant>,
    /// The last such call of each thread.
    calls: HashMap<u32, Call>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    object: u64,
    /// The call's number, as the thread's architecture has it.
    number: i32,
    since: Instant,
}

impl PendingLinks {
    /// Remembers that call `number` of `thread` may give the object a name. The caller lets it go on after this, and
    /// before anybody can [`wait`](Self::wait) for the object.
    /// False where too many objects are remembered: then the call must not go on.
    #[must_use]
    pub fn begin(&self, object: u64, thread: u32, number: i32) -> bool {
        let mut known = self.known();
        if known.objects.len() >= MOST_OBJECTS && !known.objects.contains_key(&object) {
            return false;
        }
        let since = Instant::now();
        known.objects.insert(object, since);
        let calls = &mut known.calls;
        if calls.len() >= MANY_CALLS && calls.len().is_power_of_two() {
            calls.retain(|&thread, call| !call.is_over(thread));
        }
        let call = Call {
            object,
            number,
            since,
        };
        calls.insert(thread, call);
        true
    }

    /// Waits until no call may still give the object a name, but for one of the thread `asking`.
    ///
    /// # Errors
    /// `EBUSY` after ten seconds.
    pub fn wait(&self, object: u64, asking: u32) -> Result<(), Errno> {
        let calls: Vec<(u32, Call)> = {
            let mut known = self.known();
            known.calls.remove(&asking);
            let of_object = known.calls.iter().filter(|(_, call)| call.object == object);
            of_object.map(|(&thread, &call)| (thread, call)).collect()
        };
        let begun = Instant::now();
        for (thread, call) in calls {
            let mut awake_since = None;
            loop {
                let lasts = match call.state(thread) {
                    State::Over | State::Asks => false,
                    State::Sleeps => {
                        awake_since = None;
                        true
                    }
                    State::Awake(now) => now < *awake_since.get_or_insert(now) + OWN_TIME,
                };
                if !lasts {
                    break;
                }
                if begun.elapsed() > PATIENCE {
                    return Err(Errno::BUSY);
                }
                thread::sleep(LOOK);
            }
            let mut known = self.known();
            if known.calls.get(&thread).is_some_and(|last| *last == call) {
                known.calls.remove(&thread);
            }
        }
        Ok(())
    }

    /// Whether the object may have got names since the last walk.
    #[must_use]
    pub fn may_have_new_names(&self, object: u64) -> bool {
        self.known().objects.contains_key(&object)
    }

    /// The objects to which no call gives names at the moment: a walk that begins now finds all their names.
    #[must_use]
    pub fn without_calls(&self) -> WithoutCalls {
        let mut known = self.known();
        known.calls.retain(|&thread, call| !call.is_over(thread));
        let mut objects = known.objects.clone();
        for call in known.calls.values() {
            objects.remove(&call.object);
        }
        WithoutCalls(objects)
    }

    /// Forgets these objects after that walk, but for those that may have got further names since.
    pub fn forget(&self, found: &WithoutCalls) {
        let known = &mut self.known().objects;
        known.retain(|object, since| found.0.get(object) != Some(since));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects to which no call gives names at the moment.
#[derive(Debug)]
pub struct WithoutCalls(HashMap<u64, Instant>);

/// What a thread does after the broker has let its call go on.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The call is over.
    Over,
    /// It waits for the broker's answer: to this call, which is then still to come, or to a further one.
    Asks,
    /// It sleeps in the call.
    Sleeps,
    /// It is awake, in the call or after it, and has had this much processor time.
    Awake(Duration),
}

impl Call {
    fn is_over(&self, thread: u32) -> bool {
        self.state(thread) == State::Over
    }

    fn state(&self, thread: u32) -> State {
        // "running", or the number of the call, or -1: proc_pid_syscall(5).
        let status = match procfs::read(thread, "syscall") {
            Ok(status) => status,
            Err(errno) if is_gone(errno) => return State::Over,
            Err(_) => String::new(),
        };
        match first::<i32>(&status) {
            Some(number) if number != self.number => State::Over,
            // `seccomp_do_user_notification`, kernel/seccomp.c.
            Some(_) => match procfs::read(thread, "wchan") {
                Ok(place) if place.contains("seccomp") => State::Asks,
                _ => State::Sleeps,
            },
            None => State::Awake(self.own_time(thread)),
        }
    }

    /// The thread's processor time; where the kernel does not count it, the time that has passed.
    fn own_time(&self, thread: u32) -> Duration {
        // In nanoseconds: Documentation/scheduler/sched-stats.rst.
        let statistics = procfs::read(thread, "schedstat").unwrap_or_default();
        first(&statistics).map_or_else(|| self.since.elapsed(), Duration::from_nanos)
    }
}

/// The first word, where it is a number.
fn first<T: FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::sync::mpsc::channel;

    use super::*;

    const OBJECT: u64 = 7;
    const LASTS: Duration = Duration::from_millis(80);

    fn number_of_read() -> i32 {
        i32::try_from(libc::SYS_read).unwrap_or_default()
    }

    /// A thread that sleeps in `read(2)` until the second value is dropped.
    fn sleeper() -> (u32, io::PipeWriter, thread::JoinHandle<()>) {
        let (mut end, writer) = io::pipe().unwrap();
        let (say, said) = channel();
        let handle = thread::spawn(move || {
            say.send(rustix::thread::gettid()).unwrap();
            assert_eq!(end.read(&mut [0; 2]).unwrap(), 1);
        });
        let id = said.recv().unwrap().as_raw_pid().cast_unsigned();
        (id, writer, handle)
    }

    #[test]
    fn a_break_waits_for_a_call_that_sleeps() {
        let links = PendingLinks::default();
        let (thread, mut writer, handle) = sleeper();
        assert!(links.begin(OBJECT, thread, number_of_read()));
        assert_eq!(links.wait(OBJECT + 1, 0), Ok(()));
        let begun = Instant::now();
        let waker = thread::spawn(move || {
            thread::sleep(LASTS);
            writer.write_all(b"x").unwrap();
        });
        assert_eq!(links.wait(OBJECT, 0), Ok(()));
        assert!(begun.elapsed() >= LASTS);
        waker.join().unwrap();
        handle.join().unwrap();
    }

    #[test]
    fn no_thread_waits_for_its_own_call() {
        let links = PendingLinks::default();
        let (thread, mut writer, handle) = sleeper();
        assert!(links.begin(OBJECT, thread, number_of_read()));
        assert_eq!(links.wait(OBJECT, thread), Ok(()));
        writer.write_all(b"x").unwrap();
        handle.join().unwrap();
    }

    #[test]
    fn a_walk_finds_names_whose_calls_were_over_and_of_no_others() {
        let links = PendingLinks::default();
        let (thread, mut writer, handle) = sleeper();
        assert!(links.begin(OBJECT, thread, number_of_read()));
        links.forget(&links.without_calls());
        assert!(links.may_have_new_names(OBJECT));

        writer.write_all(b"x").unwrap();
        handle.join().unwrap();
        let before = links.without_calls();
        assert!(links.begin(OBJECT + 1, thread, number_of_read()));
        links.forget(&before);
        assert!(!links.may_have_new_names(OBJECT));
        assert!(links.may_have_new_names(OBJECT + 1));

        // Linked again after the walk had begun.
        let before = links.without_calls();
        assert!(links.begin(OBJECT + 1, thread, number_of_read()));
        links.forget(&before);
        assert!(links.may_have_new_names(OBJECT + 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let links = PendingLinks::default();
        for object in 0..MOST_OBJECTS as u64 {
            assert!(links.begin(object, 0, 0));
        }
        assert!(!links.begin(MOST_OBJECTS as u64, 0, 0));
        assert!(links.begin(1, 0, 0));
        // Their threads are gone.
        for thread in 0..3 * u32::try_from(MANY_CALLS).unwrap_or_default() {
            assert!(links.begin(1, u32::MAX / 2 - thread, 0));
        }
        assert!(links.known().calls.len() <= MANY_CALLS);
    }
}
