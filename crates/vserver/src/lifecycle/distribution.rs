//! Calls the package manager and the service manager of a guest, by the guest's own programs and as its root: see
//! [`super::enter`].

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::error::Doing;
use super::{LifecycleError, StateDirectory};

/// An action on packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageAction {
    /// Install these.
    Install(Vec<String>),
    /// Remove these.
    Remove(Vec<String>),
    /// Fetch the lists of available packages.
    Update,
    /// Upgrade all installed packages.
    Upgrade,
    /// List all installed packages.
    List,
}

/// An action on services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAction {
    /// List all, or this one.
    List(Option<String>),
    /// Tell by the exit status whether the service starts with the guest.
    Query(String),
    /// Change whether it starts with the guest.
    Set {
        /// The service.
        service: String,
        /// Whether it starts.
        on: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PackageManager {
    Apt,
    Dnf,
    Yum,
    Zypper,
    Apk,
    Pacman,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceManager {
    Systemd,
    OpenRc,
    UpdateRc,
    Chkconfig,
}

/// The program of each manager. The first that the guest has decides.
const PACKAGE_MANAGERS: [(&str, PackageManager); 6] = [
    ("apt-get", PackageManager::Apt),
    ("dnf", PackageManager::Dnf),
    ("yum", PackageManager::Yum),
    ("zypper", PackageManager::Zypper),
    ("apk", PackageManager::Apk),
    ("pacman", PackageManager::Pacman),
];
const SERVICE_MANAGERS: [(&str, ServiceManager); 4] = [
    ("systemctl", ServiceManager::Systemd),
    ("rc-update", ServiceManager::OpenRc),
    ("update-rc.d", ServiceManager::UpdateRc),
    ("chkconfig", ServiceManager::Chkconfig),
];

/// The command for an action on packages. The guest must run.
///
/// # Errors
/// The guest does not run or has no known package manager, or a name cannot be a package's.
pub fn package_command(
    state: &StateDirectory,
    action: &PackageAction,
) -> Result<Vec<String>, LifecycleError> {
    let refused = |reason| refused(state, reason);
    if let PackageAction::Install(names) | PackageAction::Remove(names) = action {
        let bad = names
            .iter()
            .find(|name| name.starts_with('-') || name.is_empty());
        if let Some(name) = bad {
            return Err(refused(format!("{name:?} is not the name of a package")));
        }
    }
    let found = find(state, &PACKAGE_MANAGERS)?;
    let none = || {
        refused(none_of(
            "package manager",
            PACKAGE_MANAGERS.map(|(name, _)| name),
        ))
    };
    Ok(for_packages(found.ok_or_else(none)?, action))
}

/// The command for an action on services. The guest must run.
///
/// # Errors
/// As [`package_command`].
pub fn service_command(
    state: &StateDirectory,
    action: &ServiceAction,
) -> Result<Vec<String>, LifecycleError> {
    let refused = |reason| refused(state, reason);
    let name = match action {
        ServiceAction::List(name) => name.as_ref(),
        ServiceAction::Query(service) | ServiceAction::Set { service, .. } => Some(service),
    };
    let is_bad =
        |name: &&String| name.is_empty() || name.starts_with(['-', '.']) || name.contains('/');
    if let Some(name) = name.filter(is_bad) {
        return Err(refused(format!("{name:?} is not the name of a service")));
    }
    let found = find(state, &SERVICE_MANAGERS)?;
    let none = || {
        refused(none_of(
            "manager of services",
            SERVICE_MANAGERS.map(|(name, _)| name),
        ))
    };
    Ok(for_services(found.ok_or_else(none)?, action))
}

fn refused(state: &StateDirectory, reason: String) -> LifecycleError {
    let name = state.name().to_owned();
    LifecycleError::Refused {
        name,
        reason: reason.into(),
    }
}

fn none_of<const N: usize>(what: &str, names: [&str; N]) -> String {
    format!("it has no {what} that is known here: {}", names.join(", "))
}

/// The manager of the first program that the guest has.
fn find<T: Copy>(
    state: &StateDirectory,
    programs: &[(&str, T)],
) -> Result<Option<T>, LifecycleError> {
    let (running, _) = super::observe::mend_running(state)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let vdir =
        rustix::fs::open(&running.vdir, flags, Mode::empty()).doing("open", &running.vdir)?;
    let found = programs.iter().find(|(name, _)| has(&vdir, name));
    Ok(found.map(|(_, kind)| *kind))
}

fn has(vdir: &OwnedFd, program: &str) -> bool {
    ["usr/bin", "usr/sbin", "bin", "sbin"].iter().any(|place| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path = format!("{place}/{program}");
        openat2(vdir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
    })
}

/// The command, quiet where the manager can be, and one that asks nothing.
fn for_packages(manager: PackageManager, action: &PackageAction) -> Vec<String> {
    use PackageAction::{Install, List, Remove, Update, Upgrade};
    let (fixed, names): (&str, &[String]) = match (manager, action) {
        (PackageManager::Apt, Install(names)) => (
            "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install",
            names,
        ),
        (PackageManager::Apt, Remove(names)) => (
            "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y remove",
            names,
        ),
        (PackageManager::Apt, Update) => ("apt-get -qq update", &[]),
        (PackageManager::Apt, Upgrade) => (
            "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y upgrade",
            &[],
        ),
        (PackageManager::Apt, List) => ("dpkg-query -W", &[]),
        (PackageManager::Dnf, Install(names)) => ("dnf -q -y install", names),
        (PackageManager::Dnf, Remove(names)) => ("dnf -q -y remove", names),
        (PackageManager::Dnf, Update) => ("dnf -q makecache", &[]),
        (PackageManager::Dnf, Upgrade) => ("dnf -q -y upgrade", &[]),
        (PackageManager::Yum, Install(names)) => ("yum -q -y install", names),
        (PackageManager::Yum, Remove(names)) => ("yum -q -y remove", names),
        (PackageManager::Yum, Update) => ("yum -q makecache", &[]),
        (PackageManager::Yum, Upgrade) => ("yum -q -y update", &[]),
        (PackageManager::Zypper, Install(names)) => ("zypper -q -n install", names),
        (PackageManager::Zypper, Remove(names)) => ("zypper -q -n remove", names),
        (PackageManager::Zypper, Update) => ("zypper -q -n refresh", &[]),
        (PackageManager::Zypper, Upgrade) => ("zypper -q -n update", &[]),
        (PackageManager::Dnf | PackageManager::Yum | PackageManager::Zypper, List) => {
            ("rpm -qa", &[])
        }
        (PackageManager::Apk, Install(names)) => ("apk -q add", names),
        (PackageManager::Apk, Remove(names)) => ("apk -q del", names),
        (PackageManager::Apk, Update) => ("apk -q update", &[]),
        (PackageManager::Apk, Upgrade) => ("apk -q upgrade", &[]),
        (PackageManager::Apk, List) => ("apk info -v", &[]),
        (PackageManager::Pacman, Install(names)) => {
            ("pacman -S --noconfirm --needed --noprogressbar", names)
        }
        (PackageManager::Pacman, Remove(names)) => ("pacman -R --noconfirm --noprogressbar", names),
        (PackageManager::Pacman, Update) => ("pacman -Sy --noprogressbar", &[]),
        (PackageManager::Pacman, Upgrade) => ("pacman -Su --noconfirm --noprogressbar", &[]),
        (PackageManager::Pacman, List) => ("pacman -Q", &[]),
    };
    let fixed = fixed.split(' ').map(str::to_owned);
    fixed.chain(names.iter().cloned()).collect()
}

/// Lists the links of `/etc/rc?.d` in chkconfig(8)'s format; with a name, only those of that service.
const LIST_LINKS: &str = r#"
for f in /etc/init.d/"${1:-}"*; do
    s=${f##*/}
    [ -z "${1:-}" ] || [ "$s" = "$1" ] || continue
    [ -f "$f" ] && [ -x "$f" ] || continue
    printf '%-24s' "$s"
    for l in 0 1 2 3 4 5 6; do
        on=off
        for k in /etc/rc$l.d/S[0-9][0-9]"$s"; do [ -e "$k" ] && on=on; done
        printf '%s:%s ' "$l" "$on"
    done
    echo
done"#;
/// Succeeds if a link starts the service in a runlevel that guests use.
const QUERY_LINKS: &str = r#"
for k in /etc/rc[2345].d/S[0-9][0-9]"$1"; do [ -e "$k" ] && exit 0; done
exit 1"#;
/// `defaults` makes missing links, `enable` turns existing ones.
const SET_LINKS: &str = r#"update-rc.d "$1" defaults && update-rc.d "$1" enable"#;
const QUERY_RUNLEVELS: &str = r#"
for k in /etc/runlevels/*/"$1"; do [ -e "$k" ] && exit 0; done
exit 1"#;

fn for_services(manager: ServiceManager, action: &ServiceAction) -> Vec<String> {
    use ServiceAction::{List, Query, Set};
    let words = |fixed: &[&str], name: Option<&String>| {
        let fixed = fixed.iter().map(|word| (*word).to_owned());
        fixed.chain(name.cloned()).collect()
    };
    let script = |script: &str, name: Option<&String>| words(&["sh", "-c", script, "sh"], name);
    match (manager, action) {
        (ServiceManager::Systemd, List(name)) => {
            let unit = name.as_ref().map(|name| {
                let is_whole = name.contains('.');
                if is_whole {
                    name.clone()
                } else {
                    format!("{name}.service")
                }
            });
            let all = ["systemctl", "--no-pager", "--no-legend", "--type=service"];
            let mut command: Vec<String> = words(&all, None);
            command.push("list-unit-files".to_owned());
            command.extend(unit);
            command
        }
        (ServiceManager::Systemd, Query(name)) => {
            words(&["systemctl", "-q", "is-enabled"], Some(name))
        }
        (ServiceManager::Systemd, Set { service, on: true }) => {
            words(&["systemctl", "-q", "enable"], Some(service))
        }
        (ServiceManager::Systemd, Set { service, on: false }) => {
            words(&["systemctl", "-q", "disable"], Some(service))
        }
        (ServiceManager::OpenRc, List(_)) => words(&["rc-update", "-v", "show"], None),
        (ServiceManager::OpenRc, Query(name)) => script(QUERY_RUNLEVELS, Some(name)),
        (ServiceManager::OpenRc, Set { service, on: true }) => {
            words(&["rc-update", "-q", "add"], Some(service))
        }
        (ServiceManager::OpenRc, Set { service, on: false }) => {
            words(&["rc-update", "-q", "-a", "del"], Some(service))
        }
        (ServiceManager::UpdateRc, List(name)) => script(LIST_LINKS, name.as_ref()),
        (ServiceManager::UpdateRc, Query(name)) => script(QUERY_LINKS, Some(name)),
        (ServiceManager::UpdateRc, Set { service, on: true }) => script(SET_LINKS, Some(service)),
        (ServiceManager::UpdateRc, Set { service, on: false }) => {
            let mut command = words(&["update-rc.d"], Some(service));
            command.push("disable".to_owned());
            command
        }
        (ServiceManager::Chkconfig, List(name)) => words(&["chkconfig", "--list"], name.as_ref()),
        (ServiceManager::Chkconfig, Query(name)) => words(&["chkconfig"], Some(name)),
        (ServiceManager::Chkconfig, Set { service, on }) => {
            let mut command = words(&["chkconfig"], Some(service));
            command.push(if *on { "on" } else { "off" }.to_owned());
            command
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        PackageAction, PackageManager, ServiceAction, ServiceManager, for_packages, for_services,
    };

    #[test]
    fn each_package_manager_is_told_in_its_own_words() {
        let names = || vec!["nginx".to_owned(), "curl".to_owned()];
        for (manager, action, command) in [
            (
                PackageManager::Apt,
                PackageAction::Install(names()),
                "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install nginx curl",
            ),
            (
                PackageManager::Dnf,
                PackageAction::Remove(names()),
                "dnf -q -y remove nginx curl",
            ),
            (
                PackageManager::Apk,
                PackageAction::Install(names()),
                "apk -q add nginx curl",
            ),
            (
                PackageManager::Pacman,
                PackageAction::Update,
                "pacman -Sy --noprogressbar",
            ),
            (PackageManager::Zypper, PackageAction::List, "rpm -qa"),
        ] {
            assert_eq!(for_packages(manager, &action).join(" "), command);
        }
    }

    #[test]
    fn each_manager_of_services_is_told_in_its_own_words() {
        let set = |on| ServiceAction::Set {
            service: "cron".to_owned(),
            on,
        };
        for (manager, action, command) in [
            (
                ServiceManager::Systemd,
                set(true),
                "systemctl -q enable cron",
            ),
            (
                ServiceManager::OpenRc,
                set(false),
                "rc-update -q -a del cron",
            ),
            (
                ServiceManager::UpdateRc,
                set(false),
                "update-rc.d cron disable",
            ),
            (ServiceManager::Chkconfig, set(true), "chkconfig cron on"),
            (
                ServiceManager::Systemd,
                ServiceAction::List(Some("cron".to_owned())),
                "systemctl --no-pager --no-legend --type=service list-unit-files cron.service",
            ),
            (
                ServiceManager::Chkconfig,
                ServiceAction::List(None),
                "chkconfig --list",
            ),
        ] {
            assert_eq!(for_services(manager, &action).join(" "), command);
        }
        // A name is an argument of a script, never a part of it.
        let hostile = "x; reboot".to_owned();
        let command = for_services(
            ServiceManager::UpdateRc,
            &ServiceAction::Query(hostile.clone()),
        );
        assert_eq!(command.last(), Some(&hostile));
        assert!(!command[2].contains("reboot"));
    }
}
