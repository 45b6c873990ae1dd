//! Unpacks the layers of an image over one another.
//!
//! A layer is a tar archive from an untrusted source. The directory of each entry is opened below the guest's root
//! directory, symbolic links included (`openat2` with `RESOLVE_IN_ROOT`), and the entry is made in it by its last
//! name. So nothing is written elsewhere, whatever links an earlier layer made. A name with `..` is refused, and a
//! leading `/` means the guest's root.
//!
//! Device nodes are not made: they would work on the host, and a guest has a `/dev` of its own.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, mkdirat, mknodat, openat,
    openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;
use vhashify_sys::procfs::descriptor_path;
use vhashify_sys::resolve;
use vhashify_sys::shown::Shown;

/// The prefix of a name that removes a name of the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// The name that removes everything that the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// An image that is being unpacked.
pub struct Unpack<'a> {
    root: OwnedFd,
    check_signals: &'a dyn Fn() -> io::Result<()>,
    /// The names that this layer has made or entered, each with the inode number of its directory.
    made: HashSet<(u64, Vec<u8>)>,
    /// The times of directories, set at the end: every entry made in a directory changes its time.
    times: Vec<(Vec<u8>, Timespec)>,
    /// How many device nodes were not made.
    devices: usize,
}

/// The metadata of an inode.
struct Metadata {
    mode: Mode,
    owner: Uid,
    group: Gid,
    time: Timespec,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Unpack<'a> {
    /// Opens the empty directory to unpack into.
    pub fn into(vdir: &Path, check_signals: &'a dyn Fn() -> io::Result<()>) -> io::Result<Self> {
        Ok(Self {
            root: resolve::open_host_directory(vdir)?,
            check_signals,
            made: HashSet::new(),
            times: Vec::new(),
            devices: 0,
        })
    }

    /// Unpacks a layer over those before it.
    pub fn layer(&mut self, archive: impl Read) -> io::Result<()> {
        self.made.clear();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            (self.check_signals)()?;
            let mut entry = entry?;
            let path = entry.path_bytes().into_owned();
            self.entry(&mut entry, &path)
                .map_err(|error| about(&path, &error))?;
        }
        Ok(())
    }

    /// Sets the times of directories. The last layer that has a directory decides. Says how many device nodes were not
    /// made.
    pub fn finish(self) -> io::Result<usize> {
        for (path, time) in &self.times {
            // A later layer may have removed or replaced it.
            let Ok(directory) = self.resolve(path) else {
                continue;
            };
            let times = both(*time);
            let name = descriptor_path(&directory);
            utimensat(rustix::fs::CWD, &name, &times, AtFlags::empty())
                .map_err(|error| about(path, &error.into()))?;
        }
        Ok(self.devices)
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &[u8]) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let metadata = metadata(entry)?;
        let parts = parts(path)?;
        let Some((name, above)) = parts.split_last() else {
            // The guest's root directory itself.
            let root = openat(&self.root, ".", directory_flags(), Mode::empty())?;
            metadata.apply(&root)?;
            self.times.push((b".".to_vec(), metadata.time));
            return Ok(());
        };
        if name.starts_with(WHITEOUT) {
            return self.whiteout(name, &above.join(&b'/'));
        }
        let name: &[u8] = name;
        let directory = self.directory(above)?;
        self.made.insert(key(&directory, name)?);
        match kind {
            EntryType::Directory => {
                make_directory(&directory, name, &metadata)?;
                self.times.push((parts.join(&b'/'), metadata.time));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(directory.as_fd(), name)?;
                let file = create(directory.as_fd(), name)?;
                self.copy(entry, &file)?;
                metadata.apply(file.as_fd())?;
                futimens(&file, &both(metadata.time))?;
                Ok(())
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                remove(directory.as_fd(), name)?;
                symlinkat(target, &directory, name)?;
                metadata.apply_to_name(&directory, name)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.link(&target, &directory, name)
            }
            EntryType::Fifo => {
                remove(directory.as_fd(), name)?;
                mknodat(&directory, name, FileType::Fifo, Mode::RUSR, 0)?;
                let path = descriptor_path(&directory).join(os(name));
                rustix::fs::chmodat(rustix::fs::CWD, path, metadata.mode, AtFlags::empty())?;
                metadata.apply_to_name(&directory, name)
            }
            EntryType::Char | EntryType::Block => {
                self.devices += 1;
                Ok(())
            }
            _ => Err(io::Error::other("it is of a kind that is not known here")),
        }
    }

    /// Opens the directory of an entry, through links that stay below the root. Makes missing directories.
    fn directory(&mut self, parts: &[&[u8]]) -> io::Result<OwnedFd> {
        let mut directory = self.resolve(b".")?;
        for end in 1..=parts.len() {
            let (name, path) = (parts[end - 1], parts[..end].join(&b'/'));
            self.made.insert(key(&directory, name)?);
            directory = match self.resolve(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
                    self.resolve(&path)?
                }
                found => found?,
            };
        }
        Ok(directory)
    }

    fn resolve(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }

    fn link(&self, target: &[u8], directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let parts = parts(target)?;
        let Some((last, above)) = parts.split_last() else {
            return Err(io::Error::other("it is a link to nothing"));
        };
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(format!(
                "its link to {} leads to nothing",
                Shown::bytes(target)
            )),
            _ => error,
        };
        let from = if above.is_empty() {
            self.resolve(b".")?
        } else {
            self.resolve(&above.join(&b'/')).map_err(missing)?
        };
        statat(&from, *last, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| missing(error.into()))?;
        if key(&from, last)? == key(directory, name)? {
            return Ok(());
        }
        remove(directory.as_fd(), name)?;
        // Does not follow a symbolic link but links it.
        linkat(&from, *last, directory, name, AtFlags::empty())
            .map_err(|error| missing(error.into()))
    }

    /// Removes what the layers below have: one name, or everything in the directory.
    fn whiteout(&self, name: &[u8], above: &[u8]) -> io::Result<()> {
        let hidden = &name[WHITEOUT.len()..];
        if [&b""[..], b".", b".."].contains(&hidden) {
            return Err(io::Error::other("it removes nothing that there can be"));
        }
        let above = if above.is_empty() { b"." } else { above };
        let directory = match self.resolve(above) {
            Ok(directory) => directory,
            // Nothing to remove.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if name == OPAQUE {
            let readable = openat(&directory, ".", directory_flags(), Mode::empty())?;
            return self.clear(readable.as_fd());
        }
        // Keeps names that other tools use for themselves, and names of this layer.
        if hidden.starts_with(WHITEOUT) || self.made.contains(&key(&directory, hidden)?) {
            return Ok(());
        }
        remove(directory.as_fd(), hidden)
    }

    /// Removes everything that this layer has not made, also inside directories that it has made.
    fn clear(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        for name in resolve::names(directory)? {
            if !self.made.contains(&key(&directory, &name)?) {
                remove(directory, &name)?;
                continue;
            }
            match openat(directory, &name, directory_flags(), Mode::empty()) {
                Ok(inner) => self.clear(inner.as_fd())?,
                // It is no directory, or a symbolic link.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn copy<R: Read>(&self, from: &mut tar::Entry<'_, R>, mut to: &File) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 17];
        let mut left = from.size();
        loop {
            (self.check_signals)()?;
            match from.read(&mut buffer)? {
                0 if left == 0 => return Ok(()),
                0 => return Err(io::Error::other("the archive ends in the middle of it")),
                count => {
                    to.write_all(&buffer[..count])?;
                    left = left.saturating_sub(count as u64);
                }
            }
        }
    }
}

impl Metadata {
    /// Sets the metadata of an open inode. The owner first: changing it clears set-id bits and capabilities.
    fn apply(&self, of: impl AsFd) -> io::Result<()> {
        fchown(&of, Some(self.owner), Some(self.group))?;
        fchmod(&of, self.mode)?;
        for (name, value) in &self.attributes {
            fsetxattr(&of, name.as_slice(), value, XattrFlags::empty())
                .map_err(|error| about_attribute(name, error))?;
        }
        Ok(())
    }

    /// Sets the metadata of a name that may be a symbolic link.
    fn apply_to_name(&self, directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let (owner, group) = (Some(self.owner), Some(self.group));
        chownat(directory, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = descriptor_path(&directory).join(os(name));
        for (attribute, value) in &self.attributes {
            lsetxattr(&path, attribute.as_slice(), value, XattrFlags::empty())
                .map_err(|error| about_attribute(attribute, error))?;
        }
        utimensat(directory, name, &both(self.time), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

/// Makes a directory, or takes over an existing one.
fn make_directory(directory: &OwnedFd, name: &[u8], metadata: &Metadata) -> io::Result<()> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {}
        Ok(_) => {
            remove(directory.as_fd(), name)?;
            mkdirat(directory, name, Mode::RWXU)?;
        }
        Err(Errno::NOENT) => mkdirat(directory, name, Mode::RWXU)?,
        Err(error) => return Err(error.into()),
    }
    let own = openat(directory, name, directory_flags(), Mode::empty())?;
    metadata.apply(own.as_fd())
}

fn metadata<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Metadata> {
    let mut attributes = Vec::new();
    let mut time = None;
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let key = extension.key_bytes();
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                attributes.push((name.to_vec(), extension.value_bytes().to_vec()));
            } else if key == b"mtime" {
                let text = extension.value().map_err(io::Error::other)?;
                let wrong = || io::Error::other(format!("its mtime {text:?} is none"));
                time = Some(parse_time(text).ok_or_else(wrong)?);
            } else if key.starts_with(b"GNU.sparse.") {
                return Err(io::Error::other(
                    "it is sparse in a form that is not known here",
                ));
            }
        }
    }
    let header = entry.header();
    let number = |number: io::Result<u64>| {
        let small = u32::try_from(number?)
            .ok()
            .filter(|number| *number != u32::MAX);
        small.ok_or_else(|| io::Error::other("its owner is none"))
    };
    let seconds = i64::try_from(header.mtime()?).unwrap_or(0);
    Ok(Metadata {
        mode: Mode::from_raw_mode(header.mode()? & 0o7777),
        owner: Uid::from_raw(number(header.uid())?),
        group: Gid::from_raw(number(header.gid())?),
        time: time.unwrap_or(Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        }),
        attributes,
    })
}

/// Parses seconds since 1970 with a fraction.
fn parse_time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    let is_before = whole.starts_with('-') && nanoseconds > 0;
    Some(Timespec {
        tv_sec: if is_before { seconds - 1 } else { seconds },
        tv_nsec: if is_before {
            1_000_000_000 - nanoseconds
        } else {
            nanoseconds
        },
    })
}

/// The names of a path, without `.`. Refuses `..`.
fn parts(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    let names = path.split(|byte| *byte == b'/');
    let parts: Vec<&[u8]> = names
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(io::Error::other(".. in a name leads out of the guest"));
    }
    Ok(parts)
}

/// Makes a file that no other process can have open.
fn create(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Removes a name and everything below it. A missing name is no error.
fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = openat(directory, name, directory_flags(), Mode::empty())?;
    for below in resolve::names(inner.as_fd())? {
        remove(inner.as_fd(), &below)?;
    }
    Ok(unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

/// Identifies a name by its directory's inode, whatever path leads there.
fn key(directory: &impl AsFd, name: &[u8]) -> io::Result<(u64, Vec<u8>)> {
    Ok((rustix::fs::fstat(directory)?.st_ino, name.to_vec()))
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn both(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn os(name: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

fn about(path: &[u8], error: &io::Error) -> io::Error {
    let words = vhashify_sys::call_error::reason(error);
    io::Error::other(format!("{}: {words}", Shown::bytes(path)))
}

fn about_attribute(name: &[u8], error: Errno) -> io::Error {
    let words = vhashify_sys::call_error::reason(&error.into());
    io::Error::other(format!(
        "its attribute {} cannot be set: {words}",
        Shown::bytes(name)
    ))
}

#[cfg(test)]
mod tests {
    use super::{parse_time, parts};

    #[test]
    fn a_path_has_names_and_no_way_up() {
        let names = |path: &'static [u8]| parts(path).map(|parts| parts.len()).ok();
        for (path, count) in [
            (&b"./"[..], Some(0)),
            (b"etc/passwd", Some(2)),
            (b"/etc//./passwd/", Some(2)),
            (b"...", Some(1)),
            (b"..", None),
            (b"a/../b", None),
            (b"/..", None),
        ] {
            assert_eq!(names(path), count);
        }
    }

    #[test]
    fn a_time_has_a_fraction_and_may_be_before_1970() {
        for (text, time) in [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.1234567891", Some((12, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("12.x", None),
            ("", None),
        ] {
            let found = parse_time(text).map(|time| (time.tv_sec, time.tv_nsec));
            assert_eq!(found, time, "{text}");
        }
    }
}
