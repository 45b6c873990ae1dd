//! Decodes a refusal that the BPF program recorded.

use serde::Serialize;

use super::filesystem::Device;
use super::hook::HOOKS;

/// The length of `struct refusal` in `guard.bpf.c`.
pub const WORDS: usize = 7;

/// Something that the guard refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Counts from 1 since the guard was loaded.
    pub number: u64,
    /// The hook.
    pub hook: &'static str,
    /// The process that was refused, by its number on the host.
    pub pid: u32,
    /// Its cgroup, by the inode number of the directory below `/sys/fs/cgroup`.
    pub cgroup: u64,
    /// The program's name, of at most 15 bytes.
    pub command: String,
    /// The filesystem.
    pub device: String,
    /// The file on it.
    pub inode: u64,
}

impl Refusal {
    /// Decodes a refusal; `None` for an unused entry.
    pub(super) fn read(words: &[u64; WORDS]) -> Option<Self> {
        let [number, pid_and_hook, cgroup, device, inode, name, rest] = *words;
        if number == 0 {
            return None;
        }
        let name: Vec<u8> = [name, rest]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .take_while(|&byte| byte != 0)
            .collect();
        let hook = usize::try_from(pid_and_hook >> 32).ok()?;
        Some(Self {
            number,
            hook: HOOKS.get(hook)?.name,
            pid: u32::try_from(pid_and_hook & 0xffff_ffff).ok()?,
            cgroup,
            command: String::from_utf8_lossy(&name).into_owned(),
            device: Device(u32::try_from(device).ok()?).to_string(),
            inode,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn words_of_the_program_are_read() {
        let name = u64::from_ne_bytes(*b"sh\0\0\0\0\0\0");
        let refusal = Refusal::read(&[9, (6 << 32) + 77, 3, 8 << 20 | 1, 12, name, 0]).unwrap();
        assert_eq!(
            (
                refusal.hook,
                refusal.pid,
                &*refusal.command,
                &*refusal.device
            ),
            ("file_lock", 77, "sh", "8:1")
        );
        assert_eq!(Refusal::read(&[0; 7]), None);
        assert_eq!(Refusal::read(&[1, 99 << 32, 0, 0, 0, 0, 0]), None);
    }
}
