//! Real filesystems for one test each: an image, loop-mounted, gone when the value is dropped.
//!
//! Images and mount points are `target/tmp/fs-PID-NUMBER.img` and `….mnt`. Those of a test run that
//! was killed are taken away by the next one, which sees that their process is gone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// A kind of filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Those whose files can share extents.
    pub const WITH_SHARED_EXTENTS: [Self; 2] = [Self::Xfs, Self::Btrfs];

    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        }
    }
}

/// A mounted filesystem; dropping it unmounts it and removes its image.
#[derive(Debug)]
pub struct Filesystem {
    pub kind: Kind,
    image: PathBuf,
    mount: PathBuf,
}

impl Filesystem {
    /// Makes and mounts one of 512 MiB.
    pub fn new(kind: Kind) -> Self {
        Self::with_options(kind, 512 << 20, "")
    }

    /// Makes one of `size` bytes and mounts it with `options` (`-o`).
    pub fn with_options(kind: Kind, size: u64, options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_those_of_killed_runs();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fs-{}-{number}", std::process::id());
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let this = Self {
            kind,
            image: place.join(format!("{name}.img")),
            mount: place.join(format!("{name}.mnt")),
        };
        let image = File::create(&this.image).unwrap();
        image.set_len(size).unwrap();
        let (make, arguments) = kind.make();
        command(Command::new(make).args(arguments).arg(&this.image));
        fs::create_dir(&this.mount).unwrap();
        this.mount(options);
        this
    }

    fn mount(&self, options: &str) {
        let options = ["loop", options].join(",");
        command(
            Command::new("mount")
                .args(["-o", options.trim_end_matches(',')])
                .args([&self.image, &self.mount]),
        );
    }

    /// Mounts it again with other options, `ro` for example.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        command(
            Command::new("mount")
                .args(["-o", &options])
                .arg(&self.mount),
        );
    }

    /// Unmounts it, lets `change` have its image, and mounts it again: for damage that no mounted
    /// filesystem would let happen.
    pub fn while_unmounted(&self, change: impl FnOnce(&Path)) {
        command(Command::new("umount").arg(&self.mount));
        change(&self.image);
        self.mount("");
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        take_away(&self.image, &self.mount);
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
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} cannot be run: {error}; `make test` installs what it needs")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn take_away(image: &Path, mount: &Path) {
    let unmount = |lazy: &[&str]| {
        let done = Command::new("umount").args(lazy).arg(mount).output();
        done.is_ok_and(|done| done.status.success())
    };
    // A test that panicked may have left a process in there.
    if mount.exists() && !unmount(&["-q"]) {
        unmount(&["-q", "-l"]);
    }
    drop(fs::remove_dir(mount));
    drop(fs::remove_file(image));
}

fn remove_those_of_killed_runs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix("fs-") else {
                continue;
            };
            let process = rest.split('-').next().unwrap_or_default();
            let is_gone =
                process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists();
            if is_gone {
                let path = entry.path();
                take_away(&path.with_extension("img"), &path.with_extension("mnt"));
            }
        }
    });
}
