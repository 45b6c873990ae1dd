//! QEMU with a kernel of Debian's own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::accelerator::{self, Accelerator};
use super::kernel::Kernel;

/// QEMU with a kernel and its console, and no disks; it dies with the thread that starts it.
pub fn qemu(kernel: &Path, accelerator: Accelerator, console: &Path, append: &str) -> Command {
    // The lockup detectors would see a busy host; the time limit is there for lockups.
    let append = format!(
        "console=ttyS0 oops=panic panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 {append}"
    );
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        // The thread of each processor has a name, for whoever stops one.
        .args(["-name", "machine,debug-threads=on"])
        .args([
            "-machine",
            "q35",
            "-accel",
            accelerator.option(),
            "-cpu",
            "max",
        ])
        .args(["-smp", "2", "-m", "2048"])
        .arg("-kernel")
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(kernel.join("initrd"))
        .args(["-append", &append])
        .arg("-chardev")
        .arg(file("console", console))
        .args(["-serial", "chardev:console"]);
    qemu
}

/// Whether KVM works on this host.
pub fn has_kvm() -> bool {
    static HAS_KVM: OnceLock<bool> = OnceLock::new();
    *HAS_KVM.get_or_init(|| accelerator::has_kvm(&Kernel::debian(13).directory()))
}

/// Whether it ended by itself; it is killed where it did not.
pub fn wait(qemu: &mut Child, until: Instant) -> bool {
    while Instant::now() < until {
        if qemu.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    false
}

/// A `-chardev` that ends in a file.
pub fn file(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("file,id={name},path="));
    option.push(escaped(path));
    option
}

/// QEMU reads two commas as one in a value.
pub fn escaped(path: &Path) -> OsString {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        bytes.extend(std::iter::repeat_n(
            *byte,
            if *byte == b',' { 2 } else { 1 },
        ));
    }
    OsStr::from_bytes(&bytes).to_owned()
}
