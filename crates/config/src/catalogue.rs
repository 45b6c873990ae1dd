//! Every setting of a guest that util-vserver knew, and its effect here.
//!
//! Warnings and `docs/settings.md` are made from the list; a test compares it with the page.

use std::fs;
use std::path::Path;

use vhashify_sys::shown::Shown;

/// How far a setting has an effect here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does what it says.
    Honoured,
    /// It has no effect; why.
    Ignored(&'static str),
    /// It is not needed, and not worth a warning.
    Unneeded,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its path below the guest's directory; a trailing `/` is a directory with all in it.
    pub path: &'static str,
    /// What it does, or did.
    pub meaning: &'static str,
    /// What becomes of it here.
    pub support: Support,
}

const fn honoured(path: &'static str, meaning: &'static str) -> Setting {
    Setting {
        path,
        meaning,
        support: Support::Honoured,
    }
}

const fn ignored(path: &'static str, meaning: &'static str, why: &'static str) -> Setting {
    Setting {
        path,
        meaning,
        support: Support::Ignored(why),
    }
}

const fn unneeded(path: &'static str, meaning: &'static str) -> Setting {
    Setting {
        path,
        meaning,
        support: Support::Unneeded,
    }
}

const NO_UNAME: &str = "a stock kernel has one name and version for all";
const LATER: &str = "not done yet";

/// All of them, sorted by path within each group.
pub const CATALOGUE: &[Setting] = &[
    honoured("vdir", "the guest's root directory, most often a link"),
    honoured(
        "context",
        "its context number; without it a free one from 49152 to 65535",
    ),
    unneeded(
        "name",
        "its name, as the old tool wrote it; that of its directory counts",
    ),
    honoured("uts/nodename", "its host name"),
    honoured("uts/domainname", "its NIS domain name"),
    honoured(
        "shell",
        "what `enter` runs; without it the guest's /bin/bash or /bin/sh",
    ),
    honoured("fstab", "what is mounted in it before its init starts"),
    honoured("environment", "variables of its init, `NAME=VALUE` a line"),
    honoured(
        "bcapabilities",
        "capabilities added to the default set, or with `~` taken from it",
    ),
    honoured(
        "rlimits/",
        "resource limits, as RESOURCE, .soft, .hard: rss (memory, in pages of 4096 bytes; .min, too) \
              and nproc of the whole guest (without it: 16384, but at most a quarter of the kernel's threads-max and \
              pid_max; `inf`: no limit), others of each of its processes",
    ),
    honoured("ulimits/", "the same, all of each of its processes"),
    honoured(
        "sched/",
        "the token bucket, in ticks of 10 ms: fill-rate ÷ interval is its share of one processor, \
              as quota ÷ period and as weight (1 ÷ 4 is 100); tokens-min makes both larger in \
              proportion, tokens-max is burst, prio-bias changes the weight by a factor of 1.25 a \
              step; idle-time, or `sched_prio` without `sched_hard` in `flags`: weight alone",
    ),
    honoured(
        "schedule",
        "the same, one a line: fill rate, interval, tokens, tokens-min, tokens-max",
    ),
    honoured("cpuset/", "cpus and mems: processors and memory nodes"),
    honoured(
        "ionice/",
        "I/O priority: class (realtime, best-effort, idle) and priority (0 to 7)",
    ),
    honoured(
        "sysctl/",
        "kernel parameters of its own namespaces (net, and System V and POSIX IPC): X/setting and \
              X/value",
    ),
    honoured(
        "personality",
        "LINUX or LINUX32, then flags of personality(2), one a line",
    ),
    honoured(
        "vdevmap/",
        "devices of the host in its /dev: X/device, if there is X/open; with X/remap it is the \
              host's X/target",
    ),
    honoured("nice", "its priority"),
    honoured("umask", "the umask of its init; 022 without"),
    honoured("cgroup/", "values for its cgroup, one file each"),
    honoured(
        "interfaces/",
        "its addresses: NAME/ip, prefix or mask, dev, disabled",
    ),
    honoured("nonetns", "share the host's network"),
    honoured("spaces/net", "`host`: share the host's network"),
    honoured(
        "spaces/user",
        "without: its users are no users of the host, which sees them as numbers from 65536 × context \
              on; on the disk they stay as they are. Where it cannot have that, they are the host's, and a \
              warning says why. `own`: it does not start then. `host`: they are the host's",
    ),
    honoured(
        "scripts/",
        "hooks: prepre-start, pre-start, post-start, postpost-start, prepre-stop, \
              pre-stop, post-stop, postpost-stop",
    ),
    honoured(
        "apps/init/style",
        "who is process 1: `sysv` a reaper of ours, `plain` the command, `systemd` and `minit` the \
              guest's own, which boots it",
    ),
    honoured(
        "apps/init/cmd.start",
        "the command that starts it, one argument a line",
    ),
    honoured(
        "apps/init/cmd.stop",
        "a command that is run in it before it is stopped",
    ),
    honoured(
        "apps/init/killseq",
        "`SIGNAL SECONDS …`: how it is stopped; SIGKILL comes last",
    ),
    honoured("apps/init/runlevel", "the runlevel that `sysv` starts"),
    honoured("apps/init/runlevel.start", "the same, before `runlevel`"),
    honoured(
        "apps/init/mark",
        "the group in which `start-vservers` starts it",
    ),
    honoured("apps/init/depends", "guests that must run before it"),
    honoured("apps/init/environment", "as `environment`"),
    honoured(
        "apps/vunify/broker",
        "copy on write while it runs: before it changes a file that it shares, it gets its own copy",
    ),
    honoured(
        "apps/vunify/refserver.*",
        "links to the directories of its reference guests, in the order of their names: `vserver NAME \
              unify` shares with them what is the same at the same path",
    ),
    honoured(
        "apps/vunify/unguarded",
        "it starts also where the guard, which keeps its shared files apart from other guests', does not hold",
    ),
    honoured("apps/vunify/", "unification: see the README"),
    ignored(
        "ccapabilities",
        "context capabilities of the patched kernel",
        "a stock kernel has none",
    ),
    ignored(
        "ncapabilities",
        "network capabilities of the patched kernel",
        "a stock kernel has none",
    ),
    ignored(
        "nflags",
        "network flags of the patched kernel",
        "a stock kernel has none",
    ),
    ignored(
        "flags",
        "context flags of the patched kernel",
        "a stock kernel has none; what \
             they hid is hidden by namespaces",
    ),
    ignored("uts/sysname", "the name of the system", NO_UNAME),
    ignored("uts/release", "the release of the kernel", NO_UNAME),
    ignored("uts/version", "the version of the kernel", NO_UNAME),
    ignored("uts/machine", "the machine", NO_UNAME),
    ignored("uts/context", "the name of the context", "use `name`"),
    ignored("dlimits/", "disk limits", LATER),
    ignored(
        "namespace-cleanup",
        "unmounting of what the guest does not use",
        "a guest sees nothing but its own mounts",
    ),
    ignored(
        "nonamespace",
        "sharing the host's mounts",
        "a guest never shares them",
    ),
    ignored(
        "nonamespace-cleanup",
        "no unmounting of what the guest does not use",
        "a guest sees nothing but its own mounts",
    ),
    ignored(
        "fstab.local",
        "what is mounted outside of the network context",
        "use `fstab`",
    ),
    ignored(
        "fstab.remote",
        "what is mounted from the network context",
        "use `fstab`",
    ),
    ignored(
        "apps/init/cmd.start-sync",
        "a command that waits for the start",
        LATER,
    ),
    ignored(
        "apps/init/cmd.stop-sync",
        "a command that waits for the stop",
        LATER,
    ),
    ignored(
        "apps/init/cmd.prepare",
        "a command before the start",
        "use scripts/pre-start",
    ),
    ignored(
        "apps/init/sync-timeout",
        "how long the sync commands may take",
        LATER,
    ),
    ignored(
        "apps/init/runlevel.stop",
        "the runlevel that stops it",
        "use `cmd.stop`",
    ),
    ignored(
        "apps/init/tty",
        "the terminal of its init",
        "its console is a log",
    ),
    honoured(
        "apps/pkgmgmt/",
        "where its packages are managed: not read yet, and not needed",
    ),
    ignored(
        "apps/vshelper/",
        "what happens when the guest reboots",
        "a reboot from within starts it again",
    ),
    unneeded("run", "the old tool's link to its state"),
    unneeded("run.rev", "the old tool's links back"),
    unneeded("cache", "the old tool's cache"),
];

/// Names each setting below `directory` that has no effect, once.
pub(super) fn warn_of_what_has_no_effect(directory: &Path) {
    for path in entries(directory) {
        match find(&path) {
            Some(Setting {
                support: Support::Honoured | Support::Unneeded,
                ..
            }) => {}
            Some(Setting {
                support: Support::Ignored(why),
                ..
            }) => tracing::warn!(
                "{} has no effect: {why}",
                Shown::path(&directory.join(&path))
            ),
            None => tracing::warn!(
                "{} is no setting that is known here, and has no effect",
                Shown::path(&directory.join(&path))
            ),
        }
    }
}

fn find(path: &str) -> Option<&'static Setting> {
    CATALOGUE
        .iter()
        .find(|setting| match setting.path.strip_suffix('/') {
            Some(directory) => {
                path == directory
                    || path
                        .strip_prefix(directory)
                        .is_some_and(|rest| rest.starts_with('/'))
            }
            None => path == setting.path,
        })
}

/// Files below a guest's directory, and directories that are settings as a whole; two levels of
/// directories are looked into, where single settings stand.
fn entries(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(place) = open.pop() {
        let Ok(listed) = fs::read_dir(directory.join(&place)) else {
            continue;
        };
        for entry in listed.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let path = if place.is_empty() {
                name
            } else {
                format!("{place}/{name}")
            };
            if ["apps", "apps/init", "uts", "spaces"].contains(&path.as_str()) {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::{CATALOGUE, Support, find};

    /// `docs/settings.md` as it must be.
    fn page() -> String {
        let mut page = String::from(
            "# Settings of a guest\n\n\
             Each setting is a file or directory below `/etc/vservers/NAME`, as in util-vserver: a \
             file holds one value, and a switch is a file that exists. When a guest starts, a warning \
             names each setting that is unknown or has no effect.\n\n\
             | setting | meaning | here |\n| --- | --- | --- |\n",
        );
        for setting in CATALOGUE {
            let here = match setting.support {
                Support::Honoured => "yes".to_owned(),
                Support::Unneeded => "not needed".to_owned(),
                Support::Ignored(why) => format!("no: {why}"),
            };
            let _ = writeln!(
                page,
                "| `{}` | {} | {here} |",
                setting.path, setting.meaning
            );
        }
        page
    }

    #[test]
    fn the_page_of_settings_is_what_the_program_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md");
        if std::env::var_os("VHASHIFY_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let hint = "cargo test --lib page_of_settings with VHASHIFY_WRITE_DOCS=1 writes it anew";
        assert_eq!(std::fs::read_to_string(path).unwrap(), page(), "{hint}");
    }

    #[test]
    fn each_setting_is_found_under_its_path() {
        for setting in CATALOGUE {
            let path = setting.path.trim_end_matches('/');
            assert_eq!(find(path).map(|found| found.path), Some(setting.path));
        }
        assert!(find("interfaces/0/ip").is_some());
        assert!(find("interfacesX").is_none());
        assert!(find("uts").is_none());
    }

    #[test]
    fn what_is_ignored_says_why() {
        for setting in CATALOGUE {
            if let Support::Ignored(why) = setting.support {
                assert!(!why.is_empty(), "{}", setting.path);
            }
        }
    }
}
