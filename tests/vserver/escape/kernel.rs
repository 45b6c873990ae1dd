//! What the kernel shows of itself, and lets root change, in `/proc` and `/sys`: nothing of it is a guest's.

use std::fs;

use super::super::host::Host;
use super::super::inherited::styles;

/// Looks at every file of `/proc` but those of processes and of `/proc/sys`, and at those of `/sys` that have a bit for writing:
/// prints what is for root alone and has content, and what can be opened for writing.
const LOOK: &str = r#"
    use strict;
    use Fcntl ':mode';
    my %seen = (files => 0);
    sub look {
        my ($top, $is_proc) = @_;
        opendir(my $directory, $top) or return;
        for my $name (sort grep { $_ ne '.' && $_ ne '..' } readdir $directory) {
            my $path = "$top/$name";
            next if $is_proc && $path =~ m{^/proc/(\d+|self|thread-self|sys|net)$};
            # Its own tree, which it may divide.
            next if $path eq '/sys/fs/cgroup';
            my @of = lstat $path or next;
            my $mode = $of[2];
            if (S_ISDIR($mode)) {
                # Masked, unless its files are seen.
                look($path, $is_proc);
                next;
            }
            next unless S_ISREG($mode);
            $seen{files}++;
            if ($is_proc && !($mode & 0004) && sysopen(my $file, $path, 0 | 2048)) {
                my $count = sysread($file, my $text, 4096);
                print "reads $path\n" if $count;
            }
            if ($mode & 0222 && sysopen(my $file, $path, 1 | 2048)) {
                print "writes $path\n";
            }
        }
    }
    look('/proc', 1);
    look('/sys', 0);
    print "files $seen{files}\n";
"#;

/// Defence: masked and read-only paths, of every style.
#[test]
fn what_the_kernel_shows_to_root_alone_is_not_shown_to_a_guests() {
    let host = Host::new();
    for style in styles() {
        for users in ["host", "own"] {
            host.sleeper(style);
            host.set(style, "apps/init/style", &format!("{style}\n"));
            host.set(style, "spaces/user", &format!("{users}\n"));
            host.ok(&[style, "start"]);
            let said = host.ok(&[style, "exec", "perl", "-e", LOOK]);
            let (files, others): (Vec<&str>, Vec<&str>) =
                said.lines().partition(|line| line.starts_with("files "));
            assert!(files[0].len() > "files 99".len(), "{style}: {said}");
            assert!(others.is_empty(), "{style}, users {users}: {others:?}");
            host.delete_at_once(style);
        }
    }
}

/// Defence: the same; those that a kernel may have, by name.
#[test]
fn what_is_known_to_show_the_host_is_empty() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let mut count = 0;
    for path in [
        "/proc/kpagecount",
        "/proc/kpageflags",
        "/proc/kpagecgroup",
        "/proc/vmallocinfo",
        "/proc/slabinfo",
        "/proc/pagetypeinfo",
        "/proc/allocinfo",
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/kmsg",
        "/proc/keys",
        "/proc/key-users",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/latency_stats",
        "/proc/lock_stat",
        "/proc/dynamic_debug",
        "/proc/interrupts",
        "/proc/mtrr",
        "/proc/tty/driver",
        "/proc/driver",
        "/sys/firmware",
        "/sys/kernel",
        "/sys/devices/virtual/dmi",
    ] {
        let list = format!("if [ -d {path} ]; then ls {path}; else cat {path}; fi 2>/dev/null");
        let (_, text) = host.script("web", &list);
        assert_eq!(text, "", "{path}");
        count += u32::from(fs::symlink_metadata(path).is_ok());
    }
    assert!(count > 8, "this kernel has {count} of them");
}
