//! The package managers and service managers of distributions, and how each is called.
//!
//! Everything is run in the guest, by its own programs, as its root: see [`super::enter`].

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
    /// Say by the exit status whether it is started with the guest.
    Query(String),
    /// Start it with the guest, or not.
    Set {
        /// The service.
        service: String,
        /// Whether it is.
        on: bool,
    },
}

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packages {
    Apt,
    Dnf,
    Yum,
    Zypper,
    Apk,
    Pacman,
}

/// A manager of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Services {
    Systemd,
    OpenRc,
    UpdateRc,
    Chkconfig,
}

/// Programs, the first that is there decides.
const PACKAGES: [(&str, Packages); 6] = [
    ("apt-get", Packages::Apt),
    ("dnf", Packages::Dnf),
    ("yum", Packages::Yum),
    ("zypper", Packages::Zypper),
    ("apk", Packages::Apk),
    ("pacman", Packages::Pacman),
];
const SERVICES: [(&str, Services); 4] = [
    ("systemctl", Services::Systemd),
    ("rc-update", Services::OpenRc),
    ("update-rc.d", Services::UpdateRc),
    ("chkconfig", Services::Chkconfig),
];

/// The command that does it in the guest, which must run.
///
/// # Errors
/// It does not run, has no package manager that is known, or a name is none.
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
    let found = find(state, &PACKAGES)?;
    let none = || refused(none_of("package manager", PACKAGES.map(|(name, _)| name)));
    Ok(for_packages(found.ok_or_else(none)?, action))
}

/// The same for services.
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
    let found = find(state, &SERVICES)?;
    let none = || {
        refused(none_of(
            "manager of services",
            SERVICES.map(|(name, _)| name),
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

/// The first of the programs that the guest has.
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

/// Quiet where it can be, and without a question.
fn for_packages(manager: Packages, action: &PackageAction) -> Vec<String> {
    use PackageAction::{Install, List, Remove, Update, Upgrade};
    let (fixed, names): (&str, &[String]) = match (manager, action) {
        (Packages::Apt, Install(names)) => (
            "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install",
            names,
        ),
        (Packages::Apt, Remove(names)) => (
            "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y remove",
            names,
        ),
        (Packages::Apt, Update) => ("apt-get -qq update", &[]),
        (Packages::Apt, Upgrade) => (
            "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y upgrade",
            &[],
        ),
        (Packages::Apt, List) => ("dpkg-query -W", &[]),
        (Packages::Dnf, Install(names)) => ("dnf -q -y install", names),
        (Packages::Dnf, Remove(names)) => ("dnf -q -y remove", names),
        (Packages::Dnf, Update) => ("dnf -q makecache", &[]),
        (Packages::Dnf, Upgrade) => ("dnf -q -y upgrade", &[]),
        (Packages::Yum, Install(names)) => ("yum -q -y install", names),
        (Packages::Yum, Remove(names)) => ("yum -q -y remove", names),
        (Packages::Yum, Update) => ("yum -q makecache", &[]),
        (Packages::Yum, Upgrade) => ("yum -q -y update", &[]),
        (Packages::Zypper, Install(names)) => ("zypper -q -n install", names),
        (Packages::Zypper, Remove(names)) => ("zypper -q -n remove", names),
        (Packages::Zypper, Update) => ("zypper -q -n refresh", &[]),
        (Packages::Zypper, Upgrade) => ("zypper -q -n update", &[]),
        (Packages::Dnf | Packages::Yum | Packages::Zypper, List) => ("rpm -qa", &[]),
        (Packages::Apk, Install(names)) => ("apk -q add", names),
        (Packages::Apk, Remove(names)) => ("apk -q del", names),
        (Packages::Apk, Update) => ("apk -q update", &[]),
        (Packages::Apk, Upgrade) => ("apk -q upgrade", &[]),
        (Packages::Apk, List) => ("apk info -v", &[]),
        (Packages::Pacman, Install(names)) => {
            ("pacman -S --noconfirm --needed --noprogressbar", names)
        }
        (Packages::Pacman, Remove(names)) => ("pacman -R --noconfirm --noprogressbar", names),
        (Packages::Pacman, Update) => ("pacman -Sy --noprogressbar", &[]),
        (Packages::Pacman, Upgrade) => ("pacman -Su --noconfirm --noprogressbar", &[]),
        (Packages::Pacman, List) => ("pacman -Q", &[]),
    };
    let fixed = fixed.split(' ').map(str::to_owned);
    fixed.chain(names.iter().cloned()).collect()
}

/// The links of `/etc/rc?.d`, as chkconfig(8) writes them; with a name, of that service alone.
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
/// Whether a link starts it in a runlevel in which guests run.
const QUERY_LINKS: &str = r#"
for k in /etc/rc[2345].d/S[0-9][0-9]"$1"; do [ -e "$k" ] && exit 0; done
exit 1"#;
/// Links are made where there are none, and turned where there are.
const SET_LINKS: &str = r#"update-rc.d "$1" defaults && update-rc.d "$1" enable"#;
const QUERY_RUNLEVELS: &str = r#"
for k in /etc/runlevels/*/"$1"; do [ -e "$k" ] && exit 0; done
exit 1"#;

fn for_services(manager: Services, action: &ServiceAction) -> Vec<String> {
    use ServiceAction::{List, Query, Set};
    let words = |fixed: &[&str], name: Option<&String>| {
        let fixed = fixed.iter().map(|word| (*word).to_owned());
        fixed.chain(name.cloned()).collect()
    };
    let script = |script: &str, name: Option<&String>| words(&["sh", "-c", script, "sh"], name);
    match (manager, action) {
        (Services::Systemd, List(name)) => {
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
        (Services::Systemd, Query(name)) => words(&["systemctl", "-q", "is-enabled"], Some(name)),
        (Services::Systemd, Set { service, on: true }) => {
            words(&["systemctl", "-q", "enable"], Some(service))
        }
        (Services::Systemd, Set { service, on: false }) => {
            words(&["systemctl", "-q", "disable"], Some(service))
        }
        (Services::OpenRc, List(_)) => words(&["rc-update", "-v", "show"], None),
        (Services::OpenRc, Query(name)) => script(QUERY_RUNLEVELS, Some(name)),
        (Services::OpenRc, Set { service, on: true }) => {
            words(&["rc-update", "-q", "add"], Some(service))
        }
        (Services::OpenRc, Set { service, on: false }) => {
            words(&["rc-update", "-q", "-a", "del"], Some(service))
        }
        (Services::UpdateRc, List(name)) => script(LIST_LINKS, name.as_ref()),
        (Services::UpdateRc, Query(name)) => script(QUERY_LINKS, Some(name)),
        (Services::UpdateRc, Set { service, on: true }) => script(SET_LINKS, Some(service)),
        (Services::UpdateRc, Set { service, on: false }) => {
            let mut command = words(&["update-rc.d"], Some(service));
            command.push("disable".to_owned());
            command
        }
        (Services::Chkconfig, List(name)) => words(&["chkconfig", "--list"], name.as_ref()),
        (Services::Chkconfig, Query(name)) => words(&["chkconfig"], Some(name)),
        (Services::Chkconfig, Set { service, on }) => {
            let mut command = words(&["chkconfig"], Some(service));
            command.push(if *on { "on" } else { "off" }.to_owned());
            command
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PackageAction, Packages, ServiceAction, Services, for_packages, for_services};

    #[test]
    fn each_package_manager_is_told_in_its_own_words() {
        let names = || vec!["nginx".to_owned(), "curl".to_owned()];
        for (manager, action, command) in [
            (
                Packages::Apt,
                PackageAction::Install(names()),
                "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install nginx curl",
            ),
            (
                Packages::Dnf,
                PackageAction::Remove(names()),
                "dnf -q -y remove nginx curl",
            ),
            (
                Packages::Apk,
                PackageAction::Install(names()),
                "apk -q add nginx curl",
            ),
            (
                Packages::Pacman,
                PackageAction::Update,
                "pacman -Sy --noprogressbar",
            ),
            (Packages::Zypper, PackageAction::List, "rpm -qa"),
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
            (Services::Systemd, set(true), "systemctl -q enable cron"),
            (Services::OpenRc, set(false), "rc-update -q -a del cron"),
            (Services::UpdateRc, set(false), "update-rc.d cron disable"),
            (Services::Chkconfig, set(true), "chkconfig cron on"),
            (
                Services::Systemd,
                ServiceAction::List(Some("cron".to_owned())),
                "systemctl --no-pager --no-legend --type=service list-unit-files cron.service",
            ),
            (
                Services::Chkconfig,
                ServiceAction::List(None),
                "chkconfig --list",
            ),
        ] {
            assert_eq!(for_services(manager, &action).join(" "), command);
        }
        // A name is an argument of a script, never a part of it.
        let hostile = "x; reboot".to_owned();
        let command = for_services(Services::UpdateRc, &ServiceAction::Query(hostile.clone()));
        assert_eq!(command.last(), Some(&hostile));
        assert!(!command[2].contains("reboot"));
    }
}
