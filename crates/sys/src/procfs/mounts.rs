//! `mountinfo`: the mounts that a process sees, see `proc_pid_mountinfo(5)`.
//!
//! Their points are paths, and so any bytes: a guest that may mount chooses them.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::path;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number (`STATX_MNT_ID`, `statx(2)`).
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// The filesystem's device: major and minor number of its superblock.
    pub device: (u32, u32),
    /// Which directory or file of the filesystem it shows, from the filesystem's root, as the kernel prints it.
    pub root: Vec<u8>,
    /// Where it is mounted, as the kernel prints it: with `\040` for a space.
    pub point: Vec<u8>,
    /// The filesystem's type.
    pub kind: Vec<u8>,
    /// What is mounted, and the options of the superblock.
    pub source_and_options: Vec<u8>,
}

/// The mounts that a process sees, in the order in which they were mounted.
///
/// # Errors
/// What `open(2)` and `read(2)` list.
pub fn mounts(process: impl Display) -> io::Result<Vec<Mount>> {
    fs::read(path(process, "mountinfo")).map(|text| parse_mounts(&text))
}

/// The number of the first mount that a process sees. No mount of another namespace has it.
///
/// # Errors
/// As [`mounts`]; another where there is none.
pub fn first_mount(process: impl Display) -> io::Result<u64> {
    let mut begin = Vec::new();
    let file = fs::File::open(path(process, "mountinfo"))?;
    // A number has no more digits.
    file.take(20).read_to_end(&mut begin)?;
    let digits = begin.split(|&byte| byte == b' ').next();
    digits
        .and_then(number)
        .ok_or_else(|| io::Error::other("there is no mount"))
}

/// The lines of a `mountinfo`; what is no mount is passed over.
#[must_use]
pub fn parse_mounts(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n')
        .filter_map(Mount::parse)
        .collect()
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let device = fields.next()?;
        let colon = device.iter().position(|&byte| byte == b':')?;
        let device = (number(&device[..colon])?, number(&device[colon + 1..])?);
        let root = fields.next()?.to_vec();
        let point = fields.next()?.to_vec();
        // Its options and any number of optional fields stand before the dash.
        fields.find(|field| field == b"-")?;
        let kind = fields.next()?.to_vec();
        let source_and_options = fields.collect::<Vec<_>>().join(b" ".as_slice());
        Some(Self {
            id,
            parent,
            device,
            root,
            point,
            kind,
            source_and_options,
        })
    }

    /// The path where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        OsString::from_vec(unescape(&self.point)).into()
    }

    /// The path below the filesystem's root that it shows.
    #[must_use]
    pub fn shown_path(&self) -> Vec<u8> {
        unescape(&self.root)
    }

    /// The value of an option of the superblock, as it was given: its commas are escaped in the text.
    #[must_use]
    pub fn option(&self, name: &[u8]) -> Option<Vec<u8>> {
        let options = self
            .source_and_options
            .rsplit(|&byte| byte == b' ')
            .next()?;
        let mut options = options.split(|&byte| byte == b',');
        options.find_map(|option| Some(unescape(option.strip_prefix(name)?.strip_prefix(b"=")?)))
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decodes `\ooo`, by which the kernel writes blanks, line breaks and backslashes (`mangle_path`, `fs/seq_file.c`), and
/// in the values of options commas and equals signs (`seq_show_option`, `linux/seq_file.h`).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            out.push(code);
            rest = &after[3..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::{Mount, first_mount, mounts, parse_mounts, unescape};

    #[test]
    fn each_line_is_a_mount_whatever_bytes_are_in_its_paths() {
        let text = b"36 35 98:1048575 / /a\\040b rw,noatime master:1 - ext4 /dev/root rw\n\
                     37 35 0:52 /sub /\xff rw - cgroup2 cgroup2 rw,name=x\n\
                     nonsense\n\
                     38 35 0:x / / rw - x x x\n";
        let mount = |id, device, root: &str, point: &[u8], kind: &str, options: &str| Mount {
            id,
            parent: 35,
            device,
            root: root.into(),
            point: point.to_vec(),
            kind: kind.into(),
            source_and_options: options.into(),
        };
        assert_eq!(
            parse_mounts(text),
            [
                mount(
                    36,
                    (98, 1_048_575),
                    "/",
                    br"/a\040b",
                    "ext4",
                    "/dev/root rw"
                ),
                mount(
                    37,
                    (0, 52),
                    "/sub",
                    b"/\xff",
                    "cgroup2",
                    "cgroup2 rw,name=x"
                ),
            ]
        );
        assert_eq!(parse_mounts(text)[0].path(), Path::new("/a b"));
        assert_eq!(
            parse_mounts(text)[1].path().as_os_str().as_bytes(),
            b"/\xff"
        );
    }

    #[test]
    fn a_mount_point_is_read_as_the_kernel_writes_it() {
        assert_eq!(unescape(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescape(br"/plain\9"), br"/plain\9");
    }

    #[test]
    fn an_option_has_the_value_that_it_was_given() {
        let text = br"46 27 0:40 / /m rw - overlay o rw,lowerdir=/a:/b,upperdir=/u\054workdir\075/x,workdir=w\040w,xino";
        let mount = parse_mounts(text).remove(0);
        let option = |name: &str| mount.option(name.as_bytes());
        assert_eq!(option("upperdir").unwrap(), b"/u,workdir=/x");
        assert_eq!(option("workdir").unwrap(), b"w w");
        assert_eq!((option("upper"), option("xino")), (None, None));
    }

    #[test]
    fn the_mounts_of_this_process_are_read() {
        let own = mounts("self").unwrap();
        assert_eq!(first_mount("self").unwrap(), own[0].id);
        assert!(own.iter().any(|mount| mount.path() == Path::new("/proc")));
    }
}
