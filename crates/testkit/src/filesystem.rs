//! Real filesystems for one test each: an image, loop-mounted, gone when the value is dropped.
//!
//! Images and mount points are `target/tmp/fs-PID-NUMBER.img` and `….mnt`. Those of a test run that
//! was killed are taken away by the next one, which sees that their process is gone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::built;

/// A kind of filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ext4`.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Those whose files can share extents.
    pub const WITH_SHARED_EXTENTS: [Self; 2] = [Self::Xfs, Self::Btrfs];

    /// Makes one of `size` bytes in the file `image`.
    pub fn make(self, image: &Path, size: u64) -> File {
        let (make, arguments): (_, &[&str]) = match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        };
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(image).unwrap();
        file.set_len(size).unwrap();
        let mut make = Command::new(make);
        make.args(arguments);
        // More than this host's kernel can do, in the machines of tests/vm.
        if let (Self::Ext4, Some(features)) = (self, std::env::var_os("VHASHIFY_EXT4_FEATURES")) {
            make.arg("-O").arg(features);
        }
        make.arg(image);
        // mkfs.btrfs looks at the file behind every loop device, and fails where that is just taken
        // away, as the disks of `disk` are by another test.
        let begun = Instant::now();
        while let Err(said) = run(&mut make) {
            let is_raced = said.contains("cannot check mount status");
            assert!(
                is_raced && begun.elapsed() < Duration::from_secs(10),
                "{said}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        file
    }
}

/// Where an image and its mount point are; dropping it takes both away.
#[derive(Debug)]
pub struct Place {
    image: PathBuf,
    mount: PathBuf,
}

impl Place {
    /// One that nobody else has. There is a mount point, and no image yet.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_those_of_killed_runs();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fs-{}-{number}", std::process::id());
        let place = built::scratch();
        let this = Self {
            image: place.join(format!("{name}.img")),
            mount: place.join(format!("{name}.mnt")),
        };
        fs::create_dir(&this.mount).unwrap();
        this
    }

    /// Mounts the image with `options` (`-o`).
    pub fn mount(&self, options: &str) {
        let options = ["loop", options].join(",");
        command(
            Command::new("mount")
                .args(["-o", options.trim_end_matches(',')])
                .args([&self.image, &self.mount]),
        );
    }

    /// Unmounts it, and what is mounted over the image, if anything is.
    pub fn unmount(&self) {
        unmount_soon(&self.mount);
        wait_until_nobody_has(&self.image);
        if is_mounted_over(&self.image) {
            unmount_soon(&self.image);
        }
    }

    /// The file that holds the filesystem.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        take_away(&self.image, &self.mount);
    }
}

/// A mounted filesystem; dropping it unmounts it and removes its image.
#[derive(Debug)]
pub struct Filesystem {
    /// What it is.
    pub kind: Kind,
    place: Place,
}

impl Filesystem {
    /// Makes and mounts one of 512 MiB.
    pub fn new(kind: Kind) -> Self {
        Self::with_options(kind, 512 << 20, "")
    }

    /// Makes one of `size` bytes and mounts it with `options` (`-o`).
    pub fn with_options(kind: Kind, size: u64, options: &str) -> Self {
        let place = Place::new();
        drop(kind.make(place.image(), size));
        place.mount(options);
        Self { kind, place }
    }

    /// Makes an ext4 that keeps times in whole seconds, as those of inodes of 128 bytes.
    pub fn with_times_of_seconds() -> Self {
        let place = Place::new();
        drop(Kind::Ext4.make(place.image(), 64 << 20));
        let mut make = Command::new("mkfs.ext4");
        command(make.args(["-q", "-F", "-I", "128"]).arg(place.image()));
        place.mount("");
        Self {
            kind: Kind::Ext4,
            place,
        }
    }

    /// Mounts it again with other options, `ro` for example.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        command(
            Command::new("mount")
                .args(["-o", &options])
                .arg(self.path()),
        );
    }

    /// Unmounts it, lets `change` have its image, and mounts it again: for damage that no mounted
    /// filesystem would let happen.
    pub fn while_unmounted(&self, change: impl FnOnce(&Path)) {
        self.place.unmount();
        change(self.place.image());
        self.place.mount("");
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.place.path()
    }
}

/// Runs `test` on each kind of filesystem, and says on which it failed.
pub fn on_each(test: impl Fn(&Filesystem)) {
    on_each_of(&Kind::ALL, test);
}

/// Runs `test` on each of these kinds, and says on which it failed.
pub fn on_each_of(kinds: &[Kind], test: impl Fn(&Filesystem)) {
    for &kind in kinds {
        let filesystem = Filesystem::new(kind);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&filesystem)));
        if let Err(panic) = result {
            drop(filesystem);
            let why = panic
                .downcast_ref::<String>()
                .map_or("see above", String::as_str);
            panic!("on {kind:?}: {why}");
        }
    }
}

/// Runs a command that must succeed.
pub fn command(command: &mut Command) -> String {
    run(command).unwrap_or_else(|said| panic!("{said}"))
}

/// Runs a command; what it printed, or why it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| {
        format!("{command:?} cannot be run: {error}; `make test` installs what it needs")
    })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command:?}: {said}"))
    }
}

/// Unmounts what is not in use, and waits where it seems to be: a process that another thread of
/// this one is about to start has all its descriptors until it executes its program, and one that is
/// given a mount namespace of its own has all mounts until it leaves the root directory.
fn unmount_soon(mount: &Path) {
    for _ in 0..2000 {
        let done = Command::new("umount")
            .arg("-q")
            .arg(mount)
            .output()
            .unwrap();
        if done.status.success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    command(Command::new("umount").arg(mount));
}

/// Waits until no loop device stands on an image. A guest that another test starts meanwhile has all mounts
/// in a namespace of its own until it leaves the root directory; as long as it has this one, the kernel keeps
/// the filesystem as it was in its memory, whatever is done to the image.
fn wait_until_nobody_has(image: &Path) {
    let begun = Instant::now();
    let is_below = |device: &fs::DirEntry| {
        let file = fs::read_to_string(device.path().join("loop/backing_file"));
        file.is_ok_and(|file| Path::new(file.trim_end()) == image)
    };
    while fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .any(|device| is_below(&device))
    {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "{} stays mounted elsewhere",
            image.display()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether something is mounted over a file. A filesystem whose server is gone is not asked.
fn is_mounted_over(file: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1).map(Path::new) == Some(file))
}

fn take_away(image: &Path, mount: &Path) {
    let unmount = |options: &[&str], what: &Path| {
        let done = Command::new("umount").args(options).arg(what).output();
        done.is_ok_and(|done| done.status.success())
    };
    // A test that panicked may have left a process in there.
    if mount.exists() && !unmount(&["-q"], mount) {
        unmount(&["-q", "-l"], mount);
    }
    if is_mounted_over(image) && !unmount(&["-q"], image) {
        unmount(&["-q", "-l"], image);
    }
    drop(fs::remove_dir(mount));
    drop(fs::remove_file(image));
}

fn remove_those_of_killed_runs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let place = built::scratch();
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix("fs-") else {
                continue;
            };
            let process = rest.split('-').next().unwrap_or_default();
            if process.parse::<u32>().is_ok() && is_gone(process) {
                let path = entry.path();
                let image = path.with_extension("img");
                if is_mounted_over(&image) {
                    // Ends all that waits for a server that was killed: see `disk`.
                    drop(
                        Command::new("umount")
                            .args(["-q", "-f"])
                            .arg(&image)
                            .output(),
                    );
                }
                take_away(&image, &path.with_extension("mnt"));
            }
        }
    });
}

/// Whether a process has ended, or was killed and only waits for a thread that cannot end.
fn is_gone(process: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process).join("status"));
    status.map_or(true, |status| status.contains("State:\tZ"))
}
