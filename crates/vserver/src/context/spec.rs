//! Compiles a guest's settings to the OCI specification that `libcontainer` runs. Pure.

use std::path::Path;

use rustix::thread::CapabilitySet;
use serde_json::{Value, json};
use vhashify_config::capabilities;
use vhashify_config::{FstabEntry, GuestSettings, Limit};

use super::seccomp;

/// Paths of `/proc` and `/sys` that show or change the host: the guest sees an empty file or directory there. What the kernel
/// shows to root alone is here, since it means root of the host.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/allocinfo",
    "/proc/asound",
    "/proc/driver",
    "/proc/dynamic_debug",
    // Their times tell what is typed.
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/lock_stat",
    "/proc/lockdep",
    "/proc/lockdep_chains",
    "/proc/lockdep_stats",
    "/proc/mtrr",
    "/proc/pagetypeinfo",
    "/proc/profile",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/tty/driver",
    "/proc/vmallocinfo",
    "/proc/vmcore",
    "/proc/xen",
    // The serial numbers of the machine.
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel",
];

/// Paths of `/proc` that a guest may read and not write.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    // Whoever writes there has the kernel watch the host.
    "/proc/pressure",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The PATH of a guest's init and of commands that enter it, unless its environment has another.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The specification of a guest.
///
/// `arguments` is the command of process 1, `rootfs` where its root directory is mounted, and
/// `cgroup` the path of its cgroup.
#[must_use]
pub fn compile(
    settings: &GuestSettings,
    capabilities: CapabilitySet,
    arguments: &[String],
    rootfs: &str,
    cgroup: &str,
) -> Value {
    let names = capabilities::names(capabilities);
    let mut namespaces = vec!["pid", "mount", "uts", "ipc", "cgroup"];
    if !settings.shares_network {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> = namespaces
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    let mut user = json!({ "uid": 0, "gid": 0, "additionalGids": [] });
    if let Some(umask) = settings.umask {
        user["umask"] = json!(umask);
    }
    let limits: Vec<Value> = settings.limits.iter().map(rlimit).collect();
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "hostname": settings.hostname,
        "root": { "path": rootfs, "readonly": false },
        "process": {
            "terminal": false,
            "user": user,
            "args": arguments,
            "env": environment(settings),
            "cwd": "/",
            // Inheritable ones would survive in programs that a user of the guest runs.
            "capabilities": { "bounding": names, "effective": names, "permitted": names },
            "rlimits": limits,
        },
        "mounts": mounts(settings),
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": cgroup,
            "resources": {},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "rootfsPropagation": "private",
            "seccomp": seccomp::profile(capabilities),
        },
    });
    if let Some(domain) = &settings.domainname {
        spec["domainname"] = json!(domain);
    }
    add_process_attributes(&mut spec, settings);
    spec
}

/// Shows the terminal `console` of the host in the guest as `/dev/console`.
pub fn add_console(spec: &mut Value, console: &Path) {
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        let options = ["bind", "nosuid", "noexec"];
        mounts.push(
            json!({ "destination": "/dev/console", "type": "bind", "source": console,
                            "options": options }),
        );
    }
}

/// How many users and groups a guest of its own users has: all numbers of 16 bits but the last, which in
/// the highest context would be the one that means none.
pub const USERS: u32 = 65535;

/// The number that the host has for root of a guest with users of its own.
#[must_use]
pub fn first_user(context: u32) -> u32 {
    context << 16
}

/// Gives the guest users of its own.
pub fn add_users(spec: &mut Value, context: u32) {
    let map = json!([{ "containerID": 0, "hostID": first_user(context), "size": USERS }]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": "user" }));
    }
}

/// The annotation that holds the priority of commands that enter a guest.
pub const NICE: &str = "vserver.nice";
/// The annotation that holds the personality of a guest's processes: OCI knows two of them.
pub const PERSONALITY: &str = "vserver.personality";

/// Adds the attributes that every process of the guest has: I/O priority, priority, personality.
fn add_process_attributes(spec: &mut Value, settings: &GuestSettings) {
    let resources = &settings.resources;
    if let Some(priority) = resources.io_priority {
        let class = ["RT", "BE", "IDLE"][usize::from(priority.class.clamp(1, 3)) - 1];
        spec["process"]["ioPriority"] = json!({
            "class": format!("IOPRIO_CLASS_{class}"),
            "priority": priority.level,
        });
    }
    let mut annotations = serde_json::Map::new();
    if let Some(nice) = settings.nice {
        annotations.insert(NICE.to_owned(), json!(nice.to_string()));
    }
    if let Some(personality) = resources.personality {
        annotations.insert(PERSONALITY.to_owned(), json!(personality.to_string()));
    }
    if !annotations.is_empty() {
        spec["annotations"] = Value::Object(annotations);
    }
}

/// A device of the host's as the guest gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path in the guest.
    pub path: std::path::PathBuf,
    /// Whether it is a disk, else a character device.
    pub is_block: bool,
    /// Its major and minor number.
    pub number: (u32, u32),
    /// Its permissions.
    pub mode: u32,
    /// Its owner and group.
    pub owner: (u32, u32),
}

/// Adds devices to those that every guest has.
pub fn add_devices(spec: &mut Value, devices: &[DeviceNode]) {
    if devices.is_empty() {
        return;
    }
    let nodes = devices.iter().map(|device| {
        json!({
            "path": device.path,
            "type": if device.is_block { "b" } else { "c" },
            "major": device.number.0,
            "minor": device.number.1,
            "fileMode": device.mode,
            "uid": device.owner.0,
            "gid": device.owner.1,
        })
    });
    spec["linux"]["devices"] = nodes.collect();
}

/// The variables of whatever runs in a guest.
#[must_use]
pub fn environment(settings: &GuestSettings) -> Vec<String> {
    let mut environment = vec![PATH.to_owned(), "HOME=/root".to_owned()];
    if settings.init.style.boots() {
        // By these an init knows that it is in a container, and that its console is a log.
        environment.extend(["container=vserver".to_owned(), "TERM=dumb".to_owned()]);
    }
    for own in &settings.environment {
        let name = own.split_once('=').map_or(own.as_str(), |(name, _)| name);
        environment.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
        environment.push(own.clone());
    }
    environment
}

/// Where something is mounted over the guest's own directories, in this order.
///
/// Each must be a real directory there: a symbolic link would lead the mount, and the device nodes in it,
/// elsewhere.
#[must_use]
pub fn mount_points(settings: &GuestSettings) -> Vec<String> {
    let mounts = mounts(settings);
    mounts
        .iter()
        .filter_map(|mount| mount["destination"].as_str())
        .map(str::to_owned)
        .collect()
}

fn mounts(settings: &GuestSettings) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "nodev", "noexec"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "nodev", "noexec", "mode=1777"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "nodev", "noexec", "ro"],
        ),
    ];
    if settings.init.style.boots() {
        mounts.push(mount(
            "/sys/fs/cgroup",
            "cgroup2",
            "cgroup2",
            &["nosuid", "nodev", "noexec"],
        ));
        let mode = |target| {
            if target == "/run" {
                "mode=755"
            } else {
                "mode=1777"
            }
        };
        let in_memory = ["/run", "/run/lock", "/tmp"].into_iter().filter(|target| {
            let mut own = settings.fstab.iter();
            !own.any(|entry| entry.target.as_path() == Path::new(target))
        });
        mounts.extend(in_memory.map(|target| {
            let options = ["nosuid", "nodev", mode(target)];
            mount(target, "tmpfs", "tmpfs", &options)
        }));
    }
    let ours = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/sys",
        "/sys/fs/cgroup",
    ];
    let own = settings.fstab.iter().filter(|entry| {
        let target = entry.target.to_string_lossy();
        !ours.contains(&target.trim_end_matches('/'))
    });
    mounts.extend(own.map(of_fstab));
    mounts
}

fn of_fstab(entry: &FstabEntry) -> Value {
    let kind = if entry.is_bind() { "bind" } else { &entry.kind };
    let mut options = entry.options.clone();
    if entry.is_bind() && !options.iter().any(|option| option.ends_with("bind")) {
        options.push("bind".to_owned());
    }
    // No device works in a guest unless it stands in its /dev.
    if !options
        .iter()
        .any(|option| option == "dev" || option == "nodev")
    {
        options.push("nodev".to_owned());
    }
    json!({ "destination": entry.target, "type": kind, "source": entry.source, "options": options })
}

fn rlimit(limit: &Limit) -> Value {
    let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    json!({
        "type": format!("RLIMIT_{}", limit.resource.to_uppercase()),
        "soft": value(limit.soft),
        "hard": value(limit.hard),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{CapabilitySet, GuestSettings, compile, environment, mount_points};
    use vhashify_config::FstabEntry;

    fn settings() -> GuestSettings {
        GuestSettings {
            name: "web".into(),
            directory: PathBuf::from("/etc/vservers/web"),
            vdir: PathBuf::from("/vservers/web"),
            context: None,
            hostname: "web".into(),
            domainname: None,
            shell: None,
            init: vhashify_config::InitSettings::default(),
            environment: Vec::new(),
            fstab: Vec::new(),
            capabilities: Vec::new(),
            flags: Vec::new(),
            limits: Vec::new(),
            nice: None,
            umask: None,
            resources: vhashify_config::Resources::default(),
            cgroup: Vec::new(),
            interfaces: Vec::new(),
            shares_network: false,
            users: vhashify_config::Users::Host,
        }
    }

    #[test]
    fn the_network_is_the_guests_own_unless_it_says_otherwise() {
        let mut settings = settings();
        let of = |settings: &GuestSettings| {
            let spec = compile(settings, CapabilitySet::empty(), &[], "/", "/x");
            spec["linux"]["namespaces"].to_string()
        };
        assert!(of(&settings).contains("network"));
        settings.shares_network = true;
        assert!(!of(&settings).contains("network"));
    }

    #[test]
    fn a_guests_variable_takes_the_place_of_a_default() {
        let mut settings = settings();
        settings.environment = vec!["PATH=/bin".into(), "A=1".into()];
        assert_eq!(environment(&settings), ["HOME=/root", "PATH=/bin", "A=1"]);
    }

    #[test]
    fn fstab_adds_mounts_without_devices_and_never_replaces_ours() {
        let mut settings = settings();
        let entry = |target: &str, kind: &str, options: &[&str]| FstabEntry {
            source: "/srv".into(),
            target: PathBuf::from(target),
            kind: kind.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        settings.fstab = vec![
            entry("/proc", "proc", &[]),
            entry("/srv", "none", &["bind", "ro"]),
        ];
        let points = mount_points(&settings);
        assert_eq!(points.iter().filter(|point| *point == "/proc").count(), 1);
        assert_eq!(points.last().map(String::as_str), Some("/srv"));
        let spec = compile(&settings, CapabilitySet::empty(), &[], "/", "/x");
        let last = spec["mounts"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .to_string();
        assert!(
            last.contains("nodev") && last.contains("\"bind\""),
            "{last}"
        );
    }
}
