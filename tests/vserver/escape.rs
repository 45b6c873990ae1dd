//! What a guest's root tries in order to reach the host. Each attempt was seen to succeed without
//! the defence that its test names.

mod chroot;
mod kernel;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use vhashify_testkit::built;

use super::host::Host;

/// A guest that runs, and a way to let its root run Perl, which every Debian has.
fn guest(host: &Host) {
    host.sleeper("web");
    host.ok(&["web", "start"]);
}

/// Runs a system call as the guest's root: 0, or the error's name.
fn call(host: &Host, expression: &str) -> String {
    let program = format!(
        "use POSIX; my $r = {expression}; \
         print $r == -1 ? (grep {{ $!{{$_}} }} keys %!)[0] : 'done'"
    );
    host.ok(&["web", "exec", "perl", "-e", &program])
}

/// Defence: no `CAP_MKNOD`; and `nodev` on the guest's root for nodes that came with its files.
#[test]
fn devices_are_neither_made_nor_used() {
    let host = Host::new();
    host.sleeper("web");
    let node = host.vdir("web").join("root/sda");
    let made = Command::new("mknod")
        .arg(&node)
        .args(["c", "1", "3"])
        .status();
    assert!(made.unwrap().success());
    host.ok(&["web", "start"]);
    let (status, text) = host.script("web", "mknod /root/disk b 254 0");
    assert!(status != 0 && text.contains("not permitted"), "{text}");
    let (status, text) = host.script("web", "mknod /dev/mem c 1 1");
    assert!(status != 0, "{text}");
    let (status, text) = host.script("web", "head -c1 /root/sda");
    assert!(status != 0 && text.contains("Permission denied"), "{text}");
    let (_, text) = host.script("web", "find /dev -type b -o -type c | sort | tr '\\n' ' '");
    let nodes = "/dev/full /dev/null /dev/pts/ptmx /dev/random /dev/tty /dev/urandom /dev/zero ";
    assert_eq!(text, nodes);
}

/// Defence: no `CAP_SYS_ADMIN`, no user namespace in which to have it, and the filter besides.
#[test]
fn nothing_is_mounted_and_no_namespace_is_made() {
    let host = Host::new();
    guest(&host);
    for script in [
        "mount -t tmpfs none /mnt",
        "mount --bind / /mnt",
        "umount /proc",
        "mount -o remount,rw /proc/sys",
        "unshare -m true",
        "unshare -Ur true",
        "unshare -Urm mount -t tmpfs none /mnt",
        "nsenter -t 1 -m true",
    ] {
        let (status, text) = host.script("web", script);
        assert_ne!(status, 0, "{script}: {text}");
    }
    // As an ordinary user, whom the kernel would let have one.
    let output = host.run(&["web", "suexec", "www-data", "unshare", "-Ur", "id"]);
    assert!(!output.status.success());
    // 56 is clone, with CLONE_NEWUSER; 435 is clone3, whose flags no filter sees.
    assert_eq!(
        call(&host, "syscall(56, 0x10000000 | 17, 0, 0, 0, 0)"),
        "EPERM"
    );
    assert_eq!(call(&host, "syscall(435, 0, 0)"), "ENOSYS");
}

/// Defence: the PID namespace.
#[test]
fn processes_of_the_host_are_not_there() {
    let host = Host::new();
    guest(&host);
    let mine = std::process::id();
    let (status, _) = host.script("web", &format!("kill -0 {mine} || ls /proc/{mine}"));
    assert_ne!(status, 0);
    // 101 is ptrace, 16 is PTRACE_ATTACH.
    assert_eq!(
        call(&host, &format!("syscall(101, 16, {mine}, 0, 0)")),
        "ESRCH"
    );
}

/// Defence: read-only and masked parts of `/proc` and `/sys`.
#[test]
fn the_kernels_switches_are_read_only_or_masked() {
    let host = Host::new();
    guest(&host);
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/class/net/lo/mtu",
        "/sys/power/state",
    ] {
        let (status, text) = host.script("web", &format!("test -e {path} || exit 3; : >> {path}"));
        assert_ne!(status, 0, "{path}: {text}");
    }
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/sys/firmware",
        "/sys/kernel",
    ] {
        let list = format!("if [ -d {path} ]; then ls {path}; else cat {path}; fi 2>/dev/null");
        let (_, text) = host.script("web", &list);
        assert_eq!(text, "", "{path}");
    }
}

/// Defence: the filter of system calls, for init and for what enters later, in 32-bit calls, too.
#[test]
fn calls_that_no_capability_guards_are_denied() {
    let host = Host::new();
    guest(&host);
    for (number, name) in [
        (248, "add_key"),
        (249, "request_key"),
        (250, "keyctl"),
        (103, "syslog"),
        (304, "open_by_handle_at"),
        (321, "bpf"),
        (298, "perf_event_open"),
        (323, "userfaultfd"),
        (425, "io_uring_setup"),
        (246, "kexec_load"),
        (175, "init_module"),
        (313, "finit_module"),
        (227, "clock_settime"),
    ] {
        let done = call(&host, &format!("syscall({number}, 10, 0, 0, 0, 0)"));
        assert_eq!(done, "EPERM", "{name}");
    }
    // A lease on a file that guests share would hold up the others: 72 is fcntl, 1024 F_SETLEASE.
    // The kernel does not look at the high half of the number. 1030 is F_DUPFD_CLOEXEC.
    let fcntl = |number: &str| {
        let program = "do { open(F, '<', '/etc/passwd'); syscall(72, fileno(F), NUMBER, 0) }";
        call(&host, &program.replace("NUMBER", number))
    };
    assert_eq!(fcntl("1024"), "EACCES");
    assert_eq!(fcntl("1024 | 1 << 40"), "EACCES");
    assert_eq!(fcntl("1030"), "done");
    // Typing on a terminal for somebody else: 16 is ioctl, 0x5412 TIOCSTI.
    let sti = "do { my $c = 'x'; syscall(16, 0, 0x5412 | 1 << 40, $c) }";
    assert_eq!(call(&host, sti), "EPERM");
    // The keyring of x32, which has its own numbers on the same call.
    assert_eq!(
        call(&host, "syscall(0x40000000 | 250, 0, 0, 0, 0, 0)"),
        "EPERM"
    );
    let filters = |pid: &str| {
        let (_, text) = host.script("web", &format!("grep Seccomp: /proc/{pid}/status"));
        text
    };
    assert_eq!(filters("1"), "Seccomp:\t2\n");
    assert_eq!(filters("self"), "Seccomp:\t2\n");
}

/// Defence: a filter by numbers, for names that libseccomp does not know, and for calls that nobody knows yet.
#[test]
fn calls_that_are_newer_than_the_library_or_this_program_are_absent() {
    let host = Host::new();
    guest(&host);
    for (number, name) in [
        (467, "open_tree_attr"),
        (470, "one after file_setattr"),
        (600, "one of some years from now"),
    ] {
        let done = call(&host, &format!("syscall({number}, -1, 0, 0, 0, 0)"));
        let is_absent = done == "ENOSYS" || (number == 467 && done == "EPERM");
        assert!(is_absent, "{name}: {done}");
    }
    // futex_waitv is known, and this a bad request.
    assert_eq!(call(&host, "syscall(449, 0, 0, 0, 0, 0)"), "EINVAL");
}

/// Makes calls by `int 0x80`, whose numbers are those of i386, and with the bit of x32: each argument is
/// NUMBER and what it is to be given; it prints the error's number.
#[cfg(target_arch = "x86_64")]
const OTHER_CALLS: &str = r#"
    #include <errno.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    int main(int count, char **words) {
        int is_i386 = words[1][0] == 'i';
        long argument[5] = {0};
        for (int i = 2; i < count && i < 7; i++) argument[i - 2] = strtol(words[i], 0, 0);
        long result;
        if (is_i386)
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(argument[0]), "b"(argument[1]),
                             "c"(argument[2]), "d"(argument[3]), "S"(argument[4])
                             : "memory", "r8", "r9", "r10", "r11");
        else {
            result = syscall(0x40000000 | argument[0], argument[1], argument[2], argument[3], argument[4]);
            if (result == -1) result = -errno;
        }
        printf("%ld\n", result);
        return 0;
    }
"#;

/// Defence: the filter knows every architecture that the kernel takes calls of.
#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_32_bits_are_denied_as_those_of_64_bits_are() {
    let host = Host::new();
    guest(&host);
    let (source, program) = (host.at("calls.c"), host.vdir("web").join("root/calls"));
    fs::write(&source, OTHER_CALLS).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-static", "-o"]).args([&program, &source]);
    assert!(compile.status().unwrap().success());
    let mut calls = Vec::new();
    for (name, i386, x32) in [
        ("add_key", 286, 248),
        ("request_key", 287, 249),
        ("keyctl", 288, 250),
        ("syslog", 103, 103),
        ("mount", 21, 165),
        ("umount2", 52, 166),
        ("open_by_handle_at", 342, 304),
        ("setns", 346, 308),
        ("perf_event_open", 336, 298),
        ("bpf", 357, 321),
        ("userfaultfd", 374, 323),
        ("io_uring_setup", 425, 425),
        ("move_mount", 429, 429),
        ("kexec_load", 283, 528),
        ("init_module", 128, 175),
        ("swapon", 87, 167),
        ("settimeofday", 79, 164),
    ] {
        calls.push((format!("i386 {i386}"), libc::EPERM, name));
        calls.push((format!("x32 {x32}"), libc::EPERM, name));
    }
    for (call, error, name) in [
        // Those that 32 bits alone have.
        ("i386 25", libc::EPERM, "stime"),
        ("i386 22", libc::EPERM, "umount"),
        ("i386 404", libc::EPERM, "clock_settime64"),
        ("i386 86", libc::EPERM, "uselib"),
        ("i386 120 0x10000011", libc::EPERM, "clone"),
        ("x32 56 0x10000011", libc::EPERM, "clone"),
        ("i386 435", libc::ENOSYS, "clone3"),
        ("x32 435", libc::ENOSYS, "clone3"),
        ("i386 310 0x10000000", libc::EPERM, "unshare"),
        ("x32 272 0x10000000", libc::EPERM, "unshare"),
        ("i386 55 0 1024 0", libc::EACCES, "fcntl with F_SETLEASE"),
        ("i386 221 0 1024 0", libc::EACCES, "fcntl64 with F_SETLEASE"),
        ("x32 72 0 1024 0", libc::EACCES, "fcntl with F_SETLEASE"),
        ("i386 54 0 0x5412 0", libc::EPERM, "ioctl with TIOCSTI"),
        ("x32 514 0 0x5412 0", libc::EPERM, "ioctl with TIOCSTI"),
    ] {
        calls.push((call.to_owned(), error, name));
    }
    let mut script = "/root/calls i386 20; ".to_owned();
    for (call, ..) in &calls {
        let _ = write!(script, "/root/calls {call} || echo killed; ");
    }
    let (_, text) = host.script("web", &script);
    let mut lines = text.lines();
    let pid = lines.next().unwrap().parse::<i32>();
    assert!(pid.is_ok_and(|pid| pid > 1), "getpid works: {text}");
    for (call, error, name) in calls {
        assert_eq!(
            lines.next(),
            Some((-error).to_string().as_str()),
            "{name}: {call}"
        );
    }
}

/// Defence: without `CAP_SYS_ADMIN` no cgroup filesystem is mounted, and none is there to begin with.
#[test]
fn there_is_no_release_agent_to_write() {
    let host = Host::new();
    guest(&host);
    let (_, text) = host.script("web", "find / -xdev -name release_agent; ls /sys/fs/cgroup");
    assert_eq!(text, "");
    let (_, text) = host.script("web", "grep -cE ' cgroup2? ' /proc/self/mounts");
    assert_eq!(text, "0\n");
    let (status, _) = host.script("web", "mount -t cgroup -o pids none /mnt");
    assert_ne!(status, 0);
}

/// Defence: every descriptor but the standard ones is closed on the way in.
#[test]
fn no_descriptor_of_the_host_leaks() {
    let host = Host::new();
    host.sleeper("web");
    let secret = host.at("secret");
    fs::write(&secret, "").unwrap();
    // As a careless program would leave it open.
    let leaking = format!(
        "exec 7<{} 8</; exec {} --config-dir {} --state-dir {} web",
        secret.display(),
        built::vserver().display(),
        host.at("conf").display(),
        host.at("state").display()
    );
    let run = |rest: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{leaking} {rest}")])
            .output()
            .unwrap()
    };
    assert!(run("start </dev/null").status.success());
    let output = run("exec sh -c 'ls -l /proc/self/fd /proc/1/fd' </dev/null 2>/dev/null");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("/proc/1/fd"), "{text}");
    assert!(
        !text.contains("secret") && !text.contains(" 8 -> "),
        "{text}"
    );
    let init = host.state("web")["init"]["pid"].as_i64().unwrap();
    let open = fs::read_dir(format!("/proc/{init}/fd")).unwrap().count();
    assert_eq!(open, 3, "init has more than its standard descriptors");
}

/// Defence: process 1 executes the start command, or closes what it does not need before there is another process.
#[test]
fn process_1_of_any_style_holds_its_standard_streams_alone() {
    let host = Host::new();
    let mut styles = vec!["plain", "sysv"];
    if fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains("cgroup2")) {
        styles.extend(["systemd", "minit"]);
    }
    for style in styles {
        host.sleeper(style);
        host.set(style, "apps/init/style", &format!("{style}\n"));
        host.ok(&[style, "start"]);
        // As the guest's root sees them, of process 1 and of what it began.
        let look = "for d in /proc/[0-9]*/fd/*; do p=${d#/proc/}; p=${p%%/*}; \
                    [ $p = $$ ] && continue; \
                    case ${d##*/}:$(stat -Lc %F $d) in \
                    [012]:character*|[012]:fifo) echo stream ;; *) echo $d $(readlink $d) ;; esac; done; \
                    ls -d /proc/1/fd/*/1/root";
        let (_, text) = host.script(style, look);
        let (streams, others): (Vec<_>, Vec<_>) = text
            .lines()
            .filter(|line| !line.contains("No such file"))
            .partition(|line| *line == "stream");
        assert!(others.is_empty(), "{style}: {others:?}");
        assert!(streams.len() >= 3, "{style}: {text}");
        host.ok(&[style, "stop"]);
    }
}

/// Defence: each mount point is looked at before anything is mounted.
#[test]
fn a_link_in_the_place_of_a_mount_point_is_refused() {
    let host = Host::new();
    let elsewhere = host.at("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for point in ["dev", "proc", "sys"] {
        host.sleeper(point);
        let place = host.vdir(point).join(point);
        drop(fs::remove_dir_all(&place));
        symlink(&elsewhere, &place).unwrap();
        let line = host.refused(&[point, "start"], 1);
        assert!(line.contains("symbolic link"), "{line}");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    host.sleeper("web");
    host.set("web", "fstab", "none /data/x tmpfs\n");
    symlink(&elsewhere, host.vdir("web").join("data")).unwrap();
    let line = host.refused(&["web", "start"], 1);
    assert!(line.contains("symbolic link"), "{line}");
}

/// Defence: what becomes a process of a guest runs from a read-only mount that is in no namespace, so that
/// not even a guest that may mount can make it writable.
#[test]
fn the_program_that_enters_cannot_be_written() {
    let host = Host::new();
    // A copy, which a failure of this test may spoil.
    let program = host.at("vserver");
    fs::copy(built::vserver(), &program).unwrap();
    host.sleeper("web");
    host.set("web", "bcapabilities", "CAP_SYS_ADMIN\n");
    // The kernel takes the interpreter from the guest's /proc: it runs `vserver` in the guest.
    let trap = host.vdir("web").join("trap");
    fs::write(&trap, "#!/proc/self/exe\n").unwrap();
    command_chmod(&trap);
    host.ok(&["web", "start"]);
    // What runs cannot be written, so one keeps it open until it has ended. One that ends too early
    // ends the shell, too.
    let catch = "remount() { perl -e '($a, $b) = (\"x\", \"/proc/self/fd/9\"); syscall(165, $a, $b, 0, 4128, 0) and die $!'; }; \
                 while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *vserver*|/) \
                 exec 9<$p/exe; readlink /proc/self/fd/9 >&2; remount; \
                 while [ -e $p/exe ]; do sleep 0.1; done; remount; \
                 printf x >> /proc/self/fd/9 && echo written >&2 || echo refused >&2; \
                 exit 0;; esac; done; done";
    let again = "until sh -c \"$0\" 2>/tmp/said; do :; done; sed '/^sh:/d; s/ at -e.*//' /tmp/said";
    let mut watcher = host.vserver(&["web", "exec", "timeout", "60", "sh", "-c", again, catch]);
    let mut watcher = watcher.stdout(Stdio::piped()).spawn().unwrap();
    let mut trapped = Command::new(&program);
    trapped.arg("--config-dir").arg(host.at("conf"));
    trapped.arg("--state-dir").arg(host.at("state"));
    trapped.args(["web", "exec", "/trap"]).stdin(Stdio::null());
    while watcher.try_wait().unwrap().is_none() {
        let mut child = trapped.stderr(Stdio::null()).spawn().unwrap();
        drop(child.wait());
        // What is tried is tried while the program does not run: then it could not be written anyhow.
        std::thread::sleep(Duration::from_millis(500));
    }
    let text = watcher.wait_with_output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text, "/\nInvalid argument\nInvalid argument\nrefused\n");
    let is_same = fs::read(&program).unwrap() == fs::read(built::vserver()).unwrap();
    assert!(is_same, "the host's program was written by the guest");
}

fn command_chmod(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Defence: a guest's mounts are in a namespace of their own, behind which the host's root is gone.
#[test]
fn the_hosts_files_are_out_of_reach() {
    let host = Host::new();
    guest(&host);
    let marker = host.at("marker");
    fs::write(&marker, "").unwrap();
    let up = "../".repeat(40);
    let script = format!(
        "ls {up}{0} /proc/1/root{0} /proc/self/cwd/{up}{0}",
        marker.display()
    );
    let (_, text) = host.script("web", &script);
    assert_eq!(text.matches("No such file").count(), 3, "{text}");
    // chroot twice, the classic way out.
    let classic = "mkdir '/tmp/j'; chroot '/tmp/j'; chdir('../' x 40); chroot '.'; \
                   print -e $ARGV[0] ? 'out' : 'in'";
    let text = host.ok(&[
        "web",
        "exec",
        "perl",
        "-e",
        classic,
        marker.to_str().unwrap(),
    ]);
    assert!(!text.contains("out"), "{text}");
}
