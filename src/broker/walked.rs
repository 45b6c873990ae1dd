//! A walk of a guest for the names of its inodes, at the guest's cost: in a child process that is in the guest's cgroup.
//!
//! A guest decides how many directories and names there are, and when the broker has to look for them again: it gives an
//! object a name. So this is the part of the broker's work that can be made long and large. The rest is bounded by
//! the files that the guest shares.
//!
//! ```text
//! broker:  fork ─────────────────────────────── reads what it has kept, within bounds
//! child:        joins the caller's cgroups ─ walks ─ writes
//! ```
//!
//! The guest's limits hold for the child, and its out-of-memory killer may end it: then the call that waits fails with
//! ENOMEM. The child waits while the guest is frozen, and so does the call; nothing of the store is leased or
//! locked meanwhile.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::process::in_child;

use super::known_names::KnownNames;
use super::seen_inodes::SeenInodes;
use crate::guest::Guest;
use crate::relink::descent::each_placed_name;
use crate::relink::names::{Name, each_name};

/// Moves the calling process to where the work for a thread of the guest counts.
pub type Payer = Arc<dyn Fn(u32) -> io::Result<()> + Send + Sync>;

/// Inodes with several names that a walk looks for, beside the one that is asked for.
const MOST_GROUPS: usize = 1 << 20;
/// The last byte of what a child writes: it was not ended before.
const WHOLE: u8 = 0x2a;

/// What a walk of a guest has found.
#[derive(Debug)]
pub struct Walked {
    /// The names of the inode that was asked for.
    pub wanted: Vec<Name>,
    /// Those of every inode with more than one; `None` where they are too many to be kept.
    pub several: Option<KnownNames>,
}

impl Walked {
    /// Walks the guest for the names of `inode`, at the cost of its `thread`, if there is somebody who can be made to pay.
    ///
    /// # Errors
    /// An error of a directory; `ENOMEM` where the child was ended, or there are too many names; `EAGAIN` where it cannot
    /// be made.
    pub fn of(
        guest: &Guest,
        inode: u64,
        payer: Option<&Payer>,
        thread: u32,
    ) -> Result<Self, Errno> {
        let Some(payer) = payer else {
            let (wanted, several) = walk(guest, inode)?;
            return Self::new(inode, &wanted, several);
        };
        let work = |mut output: &std::fs::File| {
            let done = payer(thread).map_err(|_| Errno::AGAIN);
            let told = done.and_then(|()| walk(guest, inode));
            // Who does not read any more needs nothing.
            drop(tell(&mut output, told));
        };
        let child = in_child(work).map_err(|_| Errno::AGAIN)?;
        let (wanted, several) = hear(&mut io::BufReader::new(child))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))??;
        Self::new(inode, &wanted, several)
    }

    fn new(inode: u64, wanted: &KnownNames, several: Option<KnownNames>) -> Result<Self, Errno> {
        Ok(Self {
            wanted: wanted.of(inode)?.unwrap_or_default(),
            several,
        })
    }
}

type Both = (KnownNames, Option<KnownNames>);

fn walk(guest: &Guest, inode: u64) -> Result<Both, Errno> {
    // Two walks, so that the many inodes with a single name cost no memory for it.
    let (mut seen, mut again) = (SeenInodes::new(), HashSet::new());
    each_name(guest, |_, _, inode| {
        if again.len() < MOST_GROUPS && !seen.insert(inode) {
            again.insert(inode);
        }
    })?;
    drop(seen);
    let is_whole = again.len() < MOST_GROUPS;
    let (mut wanted, mut several) = (KnownNames::default(), KnownNames::default());
    let (mut wanted_fit, mut several_fit) = (Ok(()), Ok(()));
    fault::at(Point::Walk, || {
        each_placed_name(guest, |place, name, of| {
            if of == inode {
                wanted_fit = wanted_fit.and_then(|()| wanted.add(of, place, name));
            }
            if is_whole && again.contains(&of) {
                several_fit = several_fit.and_then(|()| several.add(of, place, name));
            }
        })
    })?;
    wanted_fit?;
    several.finish();
    Ok((wanted, (is_whole && several_fit.is_ok()).then_some(several)))
}

fn tell(output: &mut impl Write, told: Result<Both, Errno>) -> io::Result<()> {
    let mut output = io::BufWriter::new(output);
    match told {
        Err(errno) => output.write_all(&errno.raw_os_error().to_ne_bytes())?,
        Ok((wanted, several)) => {
            output.write_all(&0_i32.to_ne_bytes())?;
            wanted.write(&mut output)?;
            output.write_all(&[several.is_some().into()])?;
            several.map_or(Ok(()), |several| several.write(&mut output))?;
        }
    }
    output.write_all(&[WHOLE])?;
    output.flush()
}

fn hear(input: &mut impl Read) -> io::Result<Result<Both, Errno>> {
    let mut errno = [0; 4];
    input.read_exact(&mut errno)?;
    let told = match i32::from_ne_bytes(errno) {
        0 => {
            let wanted = KnownNames::read(input)?;
            let several = match byte(input)? {
                0 => None,
                _ => Some(KnownNames::read(input)?),
            };
            Ok((wanted, several))
        }
        errno => Err(Errno::from_raw_os_error(errno)),
    };
    match byte(input)? {
        WHOLE => Ok(told),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn byte(input: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0; 1];
    input.read_exact(&mut byte).map(|()| byte[0])
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{KnownNames, hear, tell};

    #[test]
    fn what_a_child_says_is_understood_or_was_cut_off() {
        let mut said = Vec::new();
        let both = (KnownNames::default(), Some(KnownNames::default()));
        tell(&mut said, Ok(both)).unwrap();
        assert!(hear(&mut said.as_slice()).unwrap().unwrap().1.is_some());
        for end in 0..said.len() {
            assert!(hear(&mut &said[..end]).is_err(), "{end}");
        }
        let mut said = Vec::new();
        tell(&mut said, Err(Errno::BUSY)).unwrap();
        assert_eq!(
            hear(&mut said.as_slice()).unwrap().unwrap_err(),
            Errno::BUSY
        );
    }
}
