//! Objects to which a running guest gives further names.
//!
//! A `link(2)` of an object goes on with the object: the new name is one of the same file of the guest,
//! and a later break leads both to the copy. So a package manager that links a backup beside each file
//! it replaces costs no copy.
//!
//! Nobody says when a call that was let go on has made its name. It looks up its source first and
//! makes the name later (`do_linkat`, fs/namei.c), and waits for a journal in between:
//!
//! ```text
//! thread 1: link(N, M) … finds N ─▶ object                    … makes M ─▶ object
//! thread 2:                                 open(N): N ─▶ copy             M and N are two files now
//! ```
//!
//! So a break waits until each call that may give its object a name is over. A thread is in one call at
//! most, and while it sleeps `/proc/T/syscall` tells which. `/proc/T/wchan` tells whether it has got on to ask
//! for a further one. A thread that is awake may be held by the scheduler for as long as that likes: it is
//! given some time of its own on a processor, more than a call needs that does not sleep. Of the thread
//! whose own next call asks for the break nothing is under way.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vhashify_sys::procfs::{self, is_gone};

/// How long a call that hangs is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Processor time of a thread after which its call is over that did not sleep.
const OWN_TIME: Duration = Duration::from_millis(20);
/// How often a call that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// Objects of which it is remembered that they may have got names. A guest that links more, without a
/// break that walks it, has their links broken instead.
const MOST_OBJECTS: usize = 1 << 16;
/// Calls of as many threads are remembered before those that are over are forgotten.
const MANY_CALLS: usize = 1024;

/// The objects of one guest that may have got names since it was walked.
#[derive(Debug, Default)]
pub struct NewNames {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When a call for each was last let go on, by the object's inode.
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

impl NewNames {
    /// Remembers that call `number` of `thread`, which is let go on after this and before anybody can
    /// [`settle`](Self::settle) the object, may give it a name.
    /// False where too many are remembered: then it must not have one.
    #[must_use]
    pub fn expect(&self, object: u64, thread: u32, number: i32) -> bool {
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

    /// Waits until no call but one of `asking` may still give the object a name.
    ///
    /// # Errors
    /// `EBUSY` after ten seconds.
    pub fn settle(&self, object: u64, asking: u32) -> Result<(), Errno> {
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
    pub fn may_have_come(&self, object: u64) -> bool {
        self.known().objects.contains_key(&object)
    }

    /// The objects whose new names a walk finds that begins now.
    #[must_use]
    pub fn there(&self) -> There {
        let mut known = self.known();
        known.calls.retain(|&thread, call| !call.is_over(thread));
        let mut objects = known.objects.clone();
        for call in known.calls.values() {
            objects.remove(&call.object);
        }
        There(objects)
    }

    /// After that walk: forgets them, but for those that may have got further names since.
    pub fn were_found(&self, found: &There) {
        let known = &mut self.known().objects;
        known.retain(|object, since| found.0.get(object) != Some(since));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects to which no call gives names at the moment.
#[derive(Debug)]
pub struct There(HashMap<u64, Instant>);

/// What a thread does of which a call was let go on.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The call is over.
    Over,
    /// It waits for the answer to such a call: to this one where that is not given yet, or to a further one.
    Asks,
    /// It sleeps in the call.
    Sleeps,
    /// It is awake, in the call or after it, and has had this much time on a processor.
    Awake(Duration),
}

impl Call {
    fn is_over(&self, thread: u32) -> bool {
        self.state(thread) == State::Over
    }

    fn state(&self, thread: u32) -> State {
        // "running", or the number of the call, or -1: proc_pid_syscall(5).
        let told = match procfs::read(thread, "syscall") {
            Ok(told) => told,
            Err(errno) if is_gone(errno) => return State::Over,
            Err(_) => String::new(),
        };
        match first::<i32>(&told) {
            Some(number) if number != self.number => State::Over,
            // `seccomp_do_user_notification`, kernel/seccomp.c.
            Some(_) => match procfs::read(thread, "wchan") {
                Ok(place) if place.contains("seccomp") => State::Asks,
                _ => State::Sleeps,
            },
            None => State::Awake(self.own_time(thread)),
        }
    }

    /// Where the kernel does not count it, the time that has passed.
    fn own_time(&self, thread: u32) -> Duration {
        // In nanoseconds: Documentation/scheduler/sched-stats.rst.
        let told = procfs::read(thread, "schedstat").unwrap_or_default();
        first(&told).map_or_else(|| self.since.elapsed(), Duration::from_nanos)
    }
}

/// The first word, where it is a number.
fn first<T: FromStr>(told: &str) -> Option<T> {
    told.split_whitespace().next()?.parse().ok()
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
        let new = NewNames::default();
        let (thread, mut writer, handle) = sleeper();
        assert!(new.expect(OBJECT, thread, number_of_read()));
        assert_eq!(new.settle(OBJECT + 1, 0), Ok(()));
        let begun = Instant::now();
        let waker = thread::spawn(move || {
            thread::sleep(LASTS);
            writer.write_all(b"x").unwrap();
        });
        assert_eq!(new.settle(OBJECT, 0), Ok(()));
        assert!(begun.elapsed() >= LASTS);
        waker.join().unwrap();
        handle.join().unwrap();
    }

    #[test]
    fn nobody_waits_for_his_own_call() {
        let new = NewNames::default();
        let (thread, mut writer, handle) = sleeper();
        assert!(new.expect(OBJECT, thread, number_of_read()));
        assert_eq!(new.settle(OBJECT, thread), Ok(()));
        writer.write_all(b"x").unwrap();
        handle.join().unwrap();
    }

    #[test]
    fn a_walk_makes_sure_of_names_whose_calls_were_over_and_of_no_others() {
        let new = NewNames::default();
        let (thread, mut writer, handle) = sleeper();
        assert!(new.expect(OBJECT, thread, number_of_read()));
        new.were_found(&new.there());
        assert!(new.may_have_come(OBJECT));

        writer.write_all(b"x").unwrap();
        handle.join().unwrap();
        let before = new.there();
        assert!(new.expect(OBJECT + 1, thread, number_of_read()));
        new.were_found(&before);
        assert!(!new.may_have_come(OBJECT));
        assert!(new.may_have_come(OBJECT + 1));

        // Linked again after the walk had begun.
        let before = new.there();
        assert!(new.expect(OBJECT + 1, thread, number_of_read()));
        new.were_found(&before);
        assert!(new.may_have_come(OBJECT + 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let new = NewNames::default();
        for object in 0..MOST_OBJECTS as u64 {
            assert!(new.expect(object, 0, 0));
        }
        assert!(!new.expect(MOST_OBJECTS as u64, 0, 0));
        assert!(new.expect(1, 0, 0));
        // Their threads are gone.
        for thread in 0..3 * u32::try_from(MANY_CALLS).unwrap_or_default() {
            assert!(new.expect(1, u32::MAX / 2 - thread, 0));
        }
        assert!(new.known().calls.len() <= MANY_CALLS);
    }
}
