//! The place that a benchmark happens in: a filesystem of its own.
//!
//! ```text
//! target/bench/NAME.ext4       its image, sparse; removed at the end, also after a panic
//! target/bench/NAME/           where it is mounted
//! ```
//!
//! Its own, because the disk of the build directory says little. Others write to it, too, for whom whoever
//! synchronises waits. Mounted with `discard`, as cloud machines do, it makes each commit of the journal wait until the
//! disk has heard of every block that was freed. And ext4 without a journal, as some of them have it, does
//! not give an inode number again for minutes: to make a file, it searches past all that were deleted lately
//! (`recently_deleted`, fs/ext4/ialloc.c).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// Bytes of the filesystem, of which only what is written takes room.
const SIZE: u64 = 96 << 30;

/// Inodes of the filesystem: ten million files, and their directories.
const INODES: u64 = 12_000_000;

/// The directory that everything happens in; dropping it removes it.
pub struct Workplace {
    path: PathBuf,
    /// The image of its filesystem, where it has one of its own.
    image: Option<PathBuf>,
}

impl Workplace {
    /// Makes that of the benchmark `name`, on a filesystem of its own if no other is given.
    pub fn new(name: &str) -> Result<Self> {
        let place = match std::env::var_os("VHASHIFY_BENCH_PLACE") {
            Some(place) => Self {
                path: Path::new(&place).join(format!("vhashify-bench-{name}")),
                image: None,
            },
            None => Self {
                path: target()?.join("bench").join(name),
                image: Some(target()?.join("bench").join(format!("{name}.ext4"))),
            },
        };
        // A killed run could not tidy up.
        place.clear()?;
        fs::create_dir_all(&place.path)?;
        if let Some(image) = &place.image {
            File::create(image)?.set_len(SIZE)?;
            let format = ["-q", "-F", "-N"];
            succeed(
                Command::new("mkfs.ext4")
                    .args(format)
                    .arg(INODES.to_string())
                    .arg(image),
            )?;
            mount(image, &place.path)?;
        }
        Ok(place)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn clear(&self) -> Result<()> {
        if let Some(image) = &self.image {
            if is_mounted(&self.path)? {
                unmount(&self.path)?;
            }
            if image.exists() {
                fs::remove_file(image)?;
            }
        }
        remove(&self.path)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            // Nobody is left to tell when standard error is gone.
            drop(writeln!(io::stderr(), "{error:#}"));
        }
    }
}

/// The build directory.
pub fn target() -> Result<&'static Path> {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .context("the build directory")
}

/// Mounts a filesystem so that it is not in the page cache twice, and nothing is initialised behind our
/// back. Its device goes away with the mount.
fn mount(image: &Path, at: &Path) -> Result<()> {
    let mut attach = Command::new("losetup");
    attach
        .args(["--find", "--show", "--direct-io=on"])
        .arg(image);
    let attached = attach.output().with_context(|| format!("{attach:?}"))?;
    ensure!(attached.status.success(), "{attach:?}: {attached:?}");
    let device = String::from_utf8(attached.stdout)?;
    let options = ["-o", "noinit_itable", device.trim_end()];
    let mounted = succeed(Command::new("mount").args(options).arg(at));
    // Deferred until it is free.
    succeed(Command::new("losetup").args(["--detach", device.trim_end()]))?;
    mounted
}

/// Unmounts it once the last process is gone that was killed there.
fn unmount(path: &Path) -> Result<()> {
    let mut tries = 50;
    loop {
        match succeed(Command::new("umount").arg("--quiet").arg(path)) {
            Err(_) if tries > 0 => sleep(Duration::from_millis(100)),
            unmounted => return unmounted,
        }
        tries -= 1;
    }
}

/// Whether a directory is on another filesystem than the one that it is in.
fn is_mounted(path: &Path) -> Result<bool> {
    let above = path.parent().context("the root directory")?;
    Ok(path.exists() && path.metadata()?.dev() != above.metadata()?.dev())
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove(place: &Path) -> Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", place.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a command to its end.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
