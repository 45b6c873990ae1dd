//! The limits that a guest has from its start on: those that its configuration asks for, and one that it has without.
//! Pure, but for what the kernel says of itself.

use std::fs;

use vhashify_config::Resources;

use super::bucket;
use super::limits::Limit;

/// The limits of a guest with these settings.
#[must_use]
pub fn limits(resources: &Resources) -> Vec<Limit> {
    let mut limits = Vec::new();
    limits.extend(resources.memory_hard.map(Limit::Memory));
    limits.extend(resources.memory_soft.map(Limit::MemorySoft));
    limits.extend(resources.memory_min.map(Limit::MemoryMin));
    limits.extend(resources.processes.map(Limit::Processes));
    limits.extend(resources.cpus.clone().map(Limit::Cpus));
    limits.extend(resources.memory_nodes.clone().map(Limit::MemoryNodes));
    limits.extend(resources.bucket.iter().flat_map(bucket::limits));
    limits
}

/// How many processes and threads a guest may have without `rlimits/nproc`: as many as systemd gives a machine, where the
/// kernel has four times as many to give.
const PROCESSES: u64 = 16_384;

/// The limit of processes of a guest with these settings that say nothing of it.
#[must_use]
pub fn default_processes(resources: &Resources) -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    let kernels = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"].map(number);
    resources
        .processes
        .is_none()
        .then(|| processes_of(kernels.into_iter().flatten().min()))
}

/// A quarter of what the kernel has, at most.
fn processes_of(kernel: Option<u64>) -> u64 {
    kernel.map_or(PROCESSES, |all| (all / 4).clamp(1, PROCESSES))
}

#[cfg(test)]
mod tests {
    use super::processes_of;

    #[test]
    fn a_guest_has_a_quarter_of_the_kernels_processes_at_most() {
        for (kernel, guest) in [
            (None, 16_384),
            (Some(4 << 20), 16_384),
            (Some(32_768), 8_192),
            (Some(3), 1),
        ] {
            assert_eq!(processes_of(kernel), guest);
        }
    }
}
