//! What a machine runs on, and whether QEMU can use KVM here. That `/dev/kvm` opens says little: under some hypervisors a machine
//! stops at its first instructions. So one is booted, once for each boot of this host.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::qemu::{qemu, wait};

/// What a machine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor of this host.
    Kvm,
    /// An emulator with one thread for all processors of the machine. They take turns: one runs, and the other stands
    /// still in the middle of whatever it does. Two machines keep two processors of this host busy all the same, and
    /// locks and shared memory cost nothing.
    InTurns,
    /// An emulator with a thread for each processor of the machine: for what has to meet in the very same moment.
    Parallel,
}

impl Accelerator {
    /// The value of QEMU's `-accel`.
    pub fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::InTurns => "tcg,thread=single",
            Self::Parallel => "tcg,thread=multi",
        }
    }

    /// Whether a machine stopped for a fault of the emulation, by its console.
    ///
    /// A kernel patches its own code behind a breakpoint (`text_poke_bp` in `arch/x86/kernel/alternative.c`): when a
    /// program is attached to a hook or taken away, among others. An emulator with several threads may have translated
    /// the breakpoint in the very instant in which another processor removed it, and stops there for good, with the
    /// kernel's dump of the memory showing that there was none any more. Nothing that is tested here sets breakpoints.
    pub fn has_failed(self, console: &str) -> bool {
        self == Self::Parallel && console.contains("int3: 0000 [#1]")
    }
}

/// Whether KVM works here. `kernel` holds a `vmlinuz` and an `initrd` to try; what came out is kept beside it.
pub fn has_kvm(kernel: &Path) -> bool {
    let mut options = fs::File::options();
    if options.read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let known = kernel.join("kvm");
    match fs::read_to_string(&known) {
        Ok(text) if text.starts_with(&boot) => text.ends_with("works"),
        _ => {
            let works = boots(kernel);
            let found = if works { "works" } else { "fails" };
            fs::write(&known, format!("{boot}{found}")).unwrap();
            works
        }
    }
}

fn boots(kernel: &Path) -> bool {
    let console = tempfile::NamedTempFile::new().unwrap();
    let mut machine = qemu(kernel, Accelerator::Kvm, console.path(), "probe=kvm")
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
