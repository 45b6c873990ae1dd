//! Temporary names of replacements.
//!
//! A name N of a guest is exchanged with a temporary name T, which lies in the work directory
//! ([`super::work_directory`]). T says all that a run has to know that finds it after a crash, without a journal that
//! could be lost:
//!
//! ```text
//! share-80a31-18f0c…-91b-6f1c…   what N was about to lead to: an object (share) or a private copy (own)
//!       │     │      │   └─────  32 hex digits of the BLAKE3 of N
//!       │     │      └─────────  the inode number of the object
//!       │     └────────────────  when N's directory was made, in nanoseconds; 0 where the filesystem keeps no such time
//!       └──────────────────────  its inode number, which it keeps wherever the guest moves it
//! ```
//!
//! A directory that is removed leaves its number to the next one, maybe of another guest, but not its time of birth. And
//! a guest may put another object at N after the crash: what is done with N then is not to be undone.
//!
//! Up to version 0.1 temporary names lay in the guests, beside the names that they served, with a prefix in the place of
//! the first two parts: `.vhashify-` for an object, `.vhashify-own-` for a copy. A run still tidies these up, and so
//! names of that form are reserved in guests.

use std::fmt;

use vhashify_sys::directory::Directory;
use vhashify_sys::stamp::Timestamp;

/// Where a replacement lets a name lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A link to an object.
    Share,
    /// A private copy.
    Own,
}

/// What a replacement is for, as its temporary names say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Where it lets a name lead.
    pub purpose: Purpose,
    /// The inode number of the object: the new inode of those that share, the old one of those that copy.
    pub object: u64,
}

const DIGITS: usize = 32;
const LASTING: &[u8] = b".vhashify-misplaced-";

impl Purpose {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Share => b".vhashify-",
            Self::Own => b".vhashify-own-",
        }
    }
}

/// Hexadecimal digits of a hash.
pub type Digits = [u8; DIGITS];

/// A temporary name in the work directory, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkName {
    /// What the served name was about to lead to.
    pub purpose: Purpose,
    /// The inode number of the served name's directory.
    pub directory: u64,
    /// When that directory was made, in nanoseconds, or 0.
    pub birth: u64,
    /// The inode number of the object.
    pub object: u64,
    /// The hash of the served name.
    pub digits: Digits,
}

impl WorkName {
    /// The one that serves `name` of a directory.
    #[must_use]
    pub fn of(serving: Serving, directory: &Directory, name: &[u8]) -> Self {
        Self {
            purpose: serving.purpose,
            directory: directory.inode,
            birth: birth(directory),
            object: serving.object,
            digits: digits(name),
        }
    }

    /// Whether it serves a name of this directory.
    #[must_use]
    pub fn is_of(&self, directory: &Directory) -> bool {
        (self.directory, self.birth) == (directory.inode, birth(directory))
    }

    /// Reads it from the name of a directory entry; `None` for any other name.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(name).ok()?.splitn(5, '-');
        let purpose = match parts.next()? {
            "share" => Purpose::Share,
            "own" => Purpose::Own,
            _ => return None,
        };
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (directory, birth, object) = (number()?, number()?, number()?);
        let digits = parts.next()?.as_bytes().try_into().ok()?;
        let this = Self {
            purpose,
            directory,
            birth,
            object,
            digits,
        };
        // Of several ways to write a number one is ours.
        (are_digits(&digits) && this.to_string().as_bytes() == name).then_some(this)
    }

    /// Whether it serves `name`, in its directory.
    #[must_use]
    pub fn serves(&self, name: &[u8]) -> bool {
        self.digits == digits(name)
    }

    /// The first digit of the hash, 0 to 15: spreads names over as many places.
    #[must_use]
    pub fn place(&self) -> usize {
        char::from(self.digits[0]).to_digit(16).unwrap_or(0) as usize
    }

    /// The lasting name in the guest of a file that has this temporary name and whose place is unknown. It is not
    /// reserved: every later run takes it for a file like others.
    #[must_use]
    pub fn lasting(&self) -> Vec<u8> {
        [LASTING, self.digits.as_slice()].concat()
    }
}

impl fmt::Display for WorkName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let purpose = match self.purpose {
            Purpose::Share => "share",
            Purpose::Own => "own",
        };
        let digits = String::from_utf8_lossy(&self.digits);
        let Self {
            directory,
            birth,
            object,
            ..
        } = self;
        write!(out, "{purpose}-{directory:x}-{birth:x}-{object:x}-{digits}")
    }
}

/// When a directory was made: one number.
fn birth(directory: &Directory) -> u64 {
    directory.birth.map_or(
        0,
        |Timestamp {
             seconds,
             nanoseconds,
         }| {
            let seconds = seconds.cast_unsigned().wrapping_mul(1_000_000_000);
            seconds.wrapping_add(nanoseconds.into())
        },
    )
}

/// The hash of a served name, as temporary names have it.
#[must_use]
pub fn digits(name: &[u8]) -> Digits {
    let hex = blake3::hash(name).to_hex();
    std::array::from_fn(|at| hex.as_bytes()[at])
}

fn are_digits(bytes: &[u8]) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    bytes.len() == DIGITS && bytes.iter().all(is_digit)
}

/// The temporary name that served `name` in its own directory, up to version 0.1.
#[must_use]
pub fn of(name: &[u8], purpose: Purpose) -> Vec<u8> {
    [purpose.prefix(), digits(name).as_slice()].concat()
}

/// The purpose of such a temporary name, and the hash of the name that it served; `None` for any other name.
#[must_use]
pub fn parts(name: &[u8]) -> Option<(Purpose, Digits)> {
    [Purpose::Share, Purpose::Own]
        .into_iter()
        .find_map(|purpose| {
            let digits = name.strip_prefix(purpose.prefix())?;
            are_digits(digits).then_some((purpose, digits.try_into().ok()?))
        })
}

/// The lasting name of a file that has the temporary name `temporary` and whose place is unknown. It is not
/// reserved: every later run takes it for a file like others.
#[must_use]
pub fn lasting(temporary: &[u8]) -> Vec<u8> {
    let digits = &temporary[temporary.len().saturating_sub(DIGITS)..];
    [LASTING, digits].concat()
}

/// Whether `name` is reserved for temporary names.
#[must_use]
pub fn is_one(name: &[u8]) -> bool {
    parts(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::{Purpose, Serving, WorkName, digits, is_one, lasting, of, parts};
    use vhashify_sys::directory::Directory;
    use vhashify_sys::stamp::Timestamp;

    #[test]
    fn only_temporary_names_are_taken_for_them() {
        for name in [&b"passwd"[..], b"\xff\n", &[b'x'; 255]] {
            for one in [Purpose::Share, Purpose::Own] {
                assert_eq!(parts(&of(name, one)), Some((one, digits(name))));
            }
            assert!(!is_one(name) && !is_one(&lasting(&of(name, Purpose::Share))));
        }
        for name in [
            &b".vhashify-"[..],
            b".vhashify-notes",
            b".vhashify",
            b".vhashify-own-",
        ] {
            assert!(!is_one(name));
        }
        assert_ne!(of(b"a", Purpose::Share), of(b"b", Purpose::Share));
    }

    #[test]
    fn a_temporary_name_says_what_it_serves() {
        let second = Timestamp {
            seconds: 1,
            nanoseconds: 2,
        };
        for (purpose, inode, birth, name) in [
            (Purpose::Share, 2, None, &b"passwd"[..]),
            (Purpose::Own, u64::MAX, Some(second), &[b'x'; 255]),
        ] {
            let object = inode;
            let directory = Directory {
                device: 0,
                inode,
                birth,
                keeps_names: false,
            };
            let of = WorkName::of(Serving { purpose, object }, &directory, name);
            let read = WorkName::parse(of.to_string().as_bytes());
            assert_eq!(read, Some(of));
            assert!(of.to_string().len() <= 255 && of.is_of(&directory));
            let birth = Some(Timestamp {
                seconds: 1,
                nanoseconds: 3,
            });
            assert!(!of.is_of(&Directory { birth, ..directory }));
            assert!(of.serves(name) && !of.serves(b"shadow") && of.place() < 16);
            assert!(!is_one(of.to_string().as_bytes()) && !is_one(&of.lasting()));
        }
        let hash = "0123456789abcdef0123456789abcdef";
        for other in [
            "share-2-0-0-0",
            "share-02-0-0-",
            "share-+2-0-0-",
            "share-2-0-",
            "shared-2-0-0-",
            "-2-0-0-",
            "share-2-0-0",
        ] {
            let name = format!("{other}{hash}");
            assert_eq!(WorkName::parse(name.as_bytes()), None, "{name}");
        }
        assert_eq!(WorkName::parse(b"share-2-0-0-\xff"), None);
    }
}
