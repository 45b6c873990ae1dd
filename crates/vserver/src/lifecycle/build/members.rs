//! Looks at the members of a tar archive before tar unpacks it: which are device nodes, and whether all stay in the guest
//! where the files of an earlier archive are.
//!
//! tar(1) keeps links of an archive from leading the archive's own members elsewhere, but follows links that exist
//! already: those of an earlier archive could lead a later one onto the host's files.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::shown::Shown;

/// The options that make tar list members in the format that [`check`] parses.
pub const OPTIONS: [&str; 4] = [
    "--list",
    "--verbose",
    "--numeric-owner",
    "--quoting-style=c",
];

/// A member that tar would write outside of the guest.
#[derive(Debug, Error)]
#[error(
    "{} would be written out of the guest: {} is, or is behind, a link that leads there",
    Shown::bytes(name),
    Shown::bytes(above)
)]
pub struct OutsideGuest {
    name: Vec<u8>,
    /// The directory in which tar would write it.
    above: Vec<u8>,
}

/// Checks that each member of `listing` would be written below `vdir`.
///
/// # Errors
/// The first member that would not.
pub fn check(listing: &[u8], vdir: &OwnedFd) -> Result<(), OutsideGuest> {
    let mut known = HashSet::new();
    for line in listing.split(|byte| *byte == b'\n') {
        let is_hard_link = line.first() == Some(&b'h');
        // A symbolic link's second name is only text, a hard link's is a member.
        let names = if is_hard_link { 2 } else { 1 };
        for name in quoted(line).into_iter().take(names) {
            let Some(end) = name.iter().rposition(|byte| *byte == b'/') else {
                continue;
            };
            // A leading slash is the guest's root: tar drops it, too.
            let start = name[..end].iter().position(|byte| *byte != b'/');
            let above = name[start.unwrap_or(end)..end].to_vec();
            if above.is_empty() || !known.insert(above.clone()) {
                continue;
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let path = OsStr::from_bytes(&above);
            match openat2(vdir, path, flags, Mode::empty(), resolve) {
                // Tar makes a missing directory.
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(_) => {
                    return Err(OutsideGuest { name, above });
                }
            }
        }
    }
    Ok(())
}

/// The names of the members that are device nodes.
pub fn devices(listing: &[u8]) -> Vec<Vec<u8>> {
    let lines = listing.split(|byte| *byte == b'\n');
    lines
        .filter(|line| matches!(line.first(), Some(b'b' | b'c')))
        .filter_map(|line| quoted(line).into_iter().next())
        .collect()
}

/// The quoted strings of a line, unescaped as in C.
fn quoted(line: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(begin) = rest.iter().position(|byte| *byte == b'"') {
        rest = &rest[begin + 1..];
        let mut text = Vec::new();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (byte, length) = escaped(rest);
                    text.push(byte);
                    rest = &rest[length..];
                }
                _ => text.push(byte),
            }
        }
        found.push(text);
    }
    found
}

/// The byte that an escape means, and how long the escape is after its backslash.
fn escaped(rest: &[u8]) -> (u8, usize) {
    let digits = rest
        .iter()
        .take(3)
        .take_while(|byte| (b'0'..=b'7').contains(*byte))
        .count();
    if digits > 0 {
        let number = rest[..digits]
            .iter()
            .fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
        return (u8::try_from(number).unwrap_or(b'?'), digits);
    }
    let byte = match rest.first() {
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'r') => b'\r',
        Some(b'a') => 7,
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(b'v') => 11,
        Some(other) => *other,
        None => return (b'\\', 0),
    };
    (byte, 1)
}

#[cfg(test)]
mod tests {
    use super::{devices, quoted};

    #[test]
    fn device_nodes_are_found_by_their_kind() {
        let listing = b"brw-r--r-- 0/0 254,0 2001-01-01 00:00 \"./a disk\"\n\
                        -rw-r--r-- 0/0     5 2001-01-01 00:00 \"./crw\"\n\
                        crw-rw-rw- 0/0   1,3 2001-01-01 00:00 \"dev/\\n\"\n";
        assert_eq!(devices(listing), [&b"./a disk"[..], b"dev/\n"]);
    }

    #[test]
    fn names_are_read_as_tar_quotes_them() {
        for (line, names) in [
            (
                r#"-rw-r--r-- 0/0 5 2001-01-01 00:00 "etc/x y""#,
                vec![&b"etc/x y"[..]],
            ),
            (
                r#"hrw-r--r-- 0/0 0 2001-01-01 00:00 "a\"b" link to "c\\d\n""#,
                vec![b"a\"b", b"c\\d\n"],
            ),
            (
                r#"lrwxrwxrwx 0/0 0 2001-01-01 00:00 "\303\244" -> "\0011""#,
                vec![b"\xc3\xa4", b"\x011"],
            ),
            ("tar: no names here", vec![]),
            (r#""open\"#, vec![b"open\\"]),
        ] {
            assert_eq!(quoted(line.as_bytes()), names, "{line}");
        }
    }
}
