//! Whether QEMU can use KVM here. That `/dev/kvm` opens says little: under some hypervisors a machine
//! stops at its first instructions. So one is booted, once for each boot of this host.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::qemu::{qemu, wait};

const EMULATION: &str = "tcg,thread=multi";

/// Whether an emulated machine stopped for a fault of the emulation, by its console.
///
/// A kernel patches its own code behind a breakpoint (`text_poke_bp` in `arch/x86/kernel/alternative.c`).
/// The emulator may have translated the breakpoint in the very instant in which the other processor
/// removed it, and stops there for good: seen once in some hundred boots, with the kernel's dump of
/// the memory showing that there was none any more. Nothing that is tested here sets breakpoints.
pub fn has_failed(accelerator: &str, console: &str) -> bool {
    accelerator == EMULATION && console.contains("int3: 0000 [#1]")
}

/// Whether machines are emulated here.
pub fn is_emulated() -> bool {
    super::qemu::accelerator() == EMULATION
}

/// The value of QEMU's `-accel`. `kernel` holds a `vmlinuz` and an `initrd` to try; what came out is
/// kept beside it.
pub fn accelerator(kernel: &Path) -> &'static str {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return EMULATION;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let known = kernel.join("kvm");
    let works = match fs::read_to_string(&known) {
        Ok(text) if text.starts_with(&boot) => text.ends_with("works"),
        _ => {
            let works = boots(kernel);
            fs::write(
                &known,
                format!("{boot}{}", if works { "works" } else { "fails" }),
            )
            .unwrap();
            works
        }
    };
    if works { "kvm" } else { EMULATION }
}

fn boots(kernel: &Path) -> bool {
    let console = tempfile::NamedTempFile::new().unwrap();
    let mut machine = qemu(kernel, "kvm", console.path(), "probe=kvm")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setpriv and qemu-system-x86_64: `make test-vm` installs them");
    let ended = wait(&mut machine, Instant::now() + Duration::from_secs(20));
    ended
        && fs::read_to_string(console.path())
            .is_ok_and(|text| text.contains("machine-init: probe kvm"))
}
