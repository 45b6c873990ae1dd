//! The cgroups of a container's thread, whoever has made them: what is done for it counts there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use vhashify_sys::procfs;

/// Moves this process into the cgroups of `thread`, in every hierarchy that is mounted here.
///
/// # Errors
/// A cgroup does not take it, or the thread has gone.
pub fn join(thread: u32) -> io::Result<()> {
    let listed = fs::read(procfs::path(thread, "cgroup"))?;
    for (top, path) in of_lines(&listed, &procfs::mounts("self")?) {
        let below = path.strip_prefix(b"/").unwrap_or(&path);
        enter(&top, Path::new(OsStr::from_bytes(below)))?;
    }
    Ok(())
}

/// Enters a cgroup. One that is threaded takes no process: then the nearest above that does.
fn enter(top: &Path, cgroup: &Path) -> io::Result<()> {
    for above in cgroup.ancestors() {
        match fs::write(top.join(above).join("cgroup.procs"), b"0") {
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
            done => return done,
        }
    }
    Err(Errno::OPNOTSUPP.into())
}

/// Where each hierarchy with controllers is mounted, and the path in it: lines of `cgroups(7)`.
fn of_lines(listed: &[u8], mounts: &[procfs::Mount]) -> Vec<(PathBuf, Vec<u8>)> {
    let lines = listed.split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            // A named hierarchy limits nothing.
            if controllers.starts_with(b"name=") {
                return None;
            }
            let first = controllers.split(|&byte| byte == b',').next()?;
            let is_it = |mount: &&procfs::Mount| {
                let mut options = mount.source_and_options.split(|byte| b" ,".contains(byte));
                mount.root == b"/"
                    && match mount.kind.as_slice() {
                        b"cgroup2" => first.is_empty(),
                        b"cgroup" => !first.is_empty() && options.any(|option| option == first),
                        _ => false,
                    }
            };
            Some((mounts.iter().find(is_it)?.path(), path.to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use vhashify_sys::procfs::parse_mounts;

    use super::of_lines;

    #[test]
    fn each_hierarchy_is_found_by_its_controllers() {
        let mounts = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let mounts = parse_mounts(mounts.as_bytes());
        let listed =
            b"9:name=systemd:/a\n4:memory:/lxc/x:y\n2:cpu,cpuacct:/lxc\n1:pids:/p\n0::/u\n";
        let found = |top: &str, path: &[u8]| (PathBuf::from(top), path.to_vec());
        assert_eq!(
            of_lines(listed, &mounts),
            [
                found("/sys/fs/cgroup/memory", b"/lxc/x:y"),
                found("/sys/fs/cgroup/cpu", b"/lxc"),
                found("/sys/fs/cgroup/unified", b"/u"),
            ]
        );
    }
}
