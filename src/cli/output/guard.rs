//! The guard as text.

use std::fmt::Write as _;

use vhashify_sys::shown::Shown;

use super::Text;
use crate::outcome::FileError;
use crate::outcome::numbers::grouped;
use crate::protect::guard::Status;

/// How many of the last refusals people are shown.
const SHOWN: usize = 5;

impl Text for Status {
    fn text(&self, is_verbose: bool) -> String {
        if !self.loaded {
            return "the guard is not loaded".to_owned();
        }
        let refusals: u64 = self.hooks.iter().map(|hook| hook.refusals).sum();
        let mut text = format!("the guard is loaded, {} refusals", grouped(refusals));
        for filesystem in &self.filesystems {
            let mounts = filesystem.mounts.join(" ");
            let _ = write!(text, "\nfilesystem {:<12} {mounts}", filesystem.device);
        }
        for hook in &self.hooks {
            let count = grouped(hook.refusals);
            if !hook.attached {
                let _ = write!(text, "\n{:<18} this kernel does not have it", hook.name);
            } else if is_verbose || hook.refusals > 0 {
                let _ = write!(text, "\n{:<18} {count:>12} refusals", hook.name);
            }
        }
        let shown = if is_verbose { usize::MAX } else { SHOWN };
        for refusal in self.last_refusals.iter().take(shown) {
            let _ = write!(
                text,
                "\nrefused {} to {} (pid {}, cgroup {}): inode {} of {}",
                refusal.hook,
                Shown::bytes(refusal.command.as_bytes()),
                refusal.pid,
                refusal.cgroup,
                refusal.inode,
                refusal.device
            );
        }
        text
    }

    fn errors(&self) -> Vec<&FileError> {
        Vec::new()
    }
}
