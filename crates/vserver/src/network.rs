//! A guest's addresses: a network namespace of its own, and a pair of virtual devices that leads to
//! the host, which routes.
//!
//! ```text
//!   host                                guest
//!   vs49152  169.254.1.1, fe80::1  ═══  eth0  its addresses
//!   route ADDRESS → vs49152             route default → 169.254.1.1, fe80::1
//! ```
//!
//! Nothing of the host's own devices and addresses is touched, so that nothing but the pair has to
//! be removed again; the routes go with it. The guest sends from its own addresses only (`sources`).

mod sources;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;
use vhashify_sys::{loopback, procfs};

/// Why a guest's network could not be set up or taken down.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// `/proc/PID/ns/net` of its init.
    #[error("its network namespace cannot be opened: {source}")]
    OpenNamespace {
        /// Why.
        source: io::Error,
    },
    /// `setns(2)`.
    #[error("its network namespace cannot be entered: {source}")]
    EnterNamespace {
        /// Why.
        source: io::Error,
    },
    /// The device `lo` of its namespace.
    #[error("its loopback device cannot be brought up: {source}")]
    Loopback {
        /// Why.
        source: io::Error,
    },
    /// The thread panicked.
    #[error("its network could not be set up")]
    Panicked,
    /// There is no ip(8), or it cannot be talked to.
    #[error("ip (of iproute2) cannot be run: {source}")]
    RunIp {
        /// Why.
        source: io::Error,
    },
    /// ip(8) failed.
    #[error("ip said: {said}")]
    Ip {
        /// What it wrote to its standard error, on one line.
        said: String,
    },
    /// A file of the host's device below `/proc/sys/net`.
    #[error("{} cannot be set: {source}", path.display())]
    Parameter {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no nft(8), or it cannot be talked to.
    #[error(
        "nft (of nftables), which keeps a guest from using others' IPv6 addresses, cannot be run: {source}"
    )]
    RunNft {
        /// Why.
        source: io::Error,
    },
    /// nft(8) failed.
    #[error("its source addresses cannot be checked, nft said: {said}")]
    Nft {
        /// The first line that it wrote to its standard error.
        said: String,
    },
    /// The host's device of the pair is still there after ten seconds.
    #[error(
        "its network device {device} does not go away; remove it by `ip link del {device}` ({})",
        last.as_ref().map_or(String::new(), ToString::to_string)
    )]
    DeviceStays {
        /// The device.
        device: String,
        /// How the last attempt to remove it failed, if it did.
        #[source]
        last: Option<Box<NetworkError>>,
    },
}

/// How long the kernel may take for a namespace's devices.
const REMOVING: Duration = Duration::from_secs(10);

/// The host's end of the pair, from which a guest's addresses are reached.
fn host_device(context: u32) -> String {
    format!("vs{context}")
}

/// Brings up the loopback device of a guest whose init has been made, and gives it its addresses.
///
/// # Errors
/// A device, an address or a route cannot be made.
pub fn set_up(context: u32, init: i32, addresses: &[(IpAddr, String)]) -> Result<(), NetworkError> {
    let inside = if addresses.is_empty() {
        None
    } else {
        let device = host_device(context);
        // Left of a guest whose state directory was removed by hand; its number is this guest's now.
        take_down(context)?;
        let mut outside = format!("link add {device} type veth peer name eth0 netns {init}\n");
        outside.push_str(&hosts_part(&device, addresses));
        ip(&outside)?;
        // Nobody sends anything yet: the guest's init waits for its start.
        sources::check_at_host(&device, addresses)?;
        Some(addresses.to_vec())
    };
    let namespace = File::open(procfs::path(init, "ns/net"))
        .map_err(|source| NetworkError::OpenNamespace { source })?;
    // A thread of its own, since setns(2) changes the namespace of one thread.
    let inside = std::thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).map_err(|error| {
            let source = error.into();
            NetworkError::EnterNamespace { source }
        })?;
        loopback::bring_up().map_err(|source| NetworkError::Loopback { source })?;
        let Some(addresses) = inside else {
            return Ok(());
        };
        sources::check_in_guest(&addresses)?;
        ip(&guests_part(&addresses))
    });
    inside.join().unwrap_or(Err(NetworkError::Panicked))
}

/// Removes the pair, if there is one, and returns when it is gone.
///
/// After the end of a guest the kernel removes its namespace and the pair by itself, but some time later, when the
/// guest may be started again: whichever comes first.
///
/// # Errors
/// It is still there after ten seconds.
pub fn take_down(context: u32) -> Result<(), NetworkError> {
    let device = host_device(context);
    let listed = Path::new("/sys/class/net").join(&device);
    let begun = Instant::now();
    while listed.exists() {
        let removed = ip(&format!("link del {device}\n"));
        if begun.elapsed() > REMOVING {
            let last = removed.err().map(Box::new);
            return Err(NetworkError::DeviceStays { device, last });
        }
        if removed.is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn hosts_part(device: &str, addresses: &[(IpAddr, String)]) -> String {
    let mut commands = String::new();
    let has = |v4: bool| addresses.iter().any(|(address, _)| address.is_ipv4() == v4);
    if has(true) {
        let _ = writeln!(commands, "addr add 169.254.1.1/32 dev {device} scope link");
    }
    if has(false) {
        let _ = writeln!(commands, "addr add fe80::1/64 dev {device} nodad");
    }
    let _ = writeln!(commands, "link set {device} group {}", sources::GROUP);
    let _ = writeln!(commands, "link set {device} up");
    for (address, _) in addresses {
        let _ = writeln!(commands, "route add {address} dev {device}");
    }
    commands
}

fn guests_part(addresses: &[(IpAddr, String)]) -> String {
    let mut commands = String::new();
    for (address, _) in addresses {
        let all = if address.is_ipv4() { "32" } else { "128 nodad" };
        let _ = writeln!(commands, "addr add {address}/{all} dev eth0");
    }
    commands.push_str("link set eth0 up\n");
    if addresses.iter().any(|(address, _)| address.is_ipv4()) {
        commands.push_str("route add 169.254.1.1 dev eth0 scope link\n");
        commands.push_str("route add default via 169.254.1.1 dev eth0\n");
    }
    if addresses.iter().any(|(address, _)| address.is_ipv6()) {
        commands.push_str("route add default via fe80::1 dev eth0\n");
    }
    commands
}

/// Runs commands of ip(8), all of them or an error.
fn ip(commands: &str) -> Result<(), NetworkError> {
    let output = run("ip", &["-batch", "-"], commands);
    let output = output.map_err(|source| NetworkError::RunIp { source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    let said = said.join("; ");
    Err(NetworkError::Ip { said })
}

/// Runs a program that reads its commands from the standard input.
fn run(program: &str, arguments: &[&str], commands: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::{guests_part, hosts_part};

    #[test]
    fn each_address_is_the_guests_and_routed_to_it() {
        let addresses = [
            ("10.1.2.3".parse().unwrap(), "0".to_owned()),
            ("fd00::3".parse().unwrap(), "1".to_owned()),
        ];
        let host = hosts_part("vs7", &addresses);
        assert!(host.contains("route add 10.1.2.3 dev vs7\n"), "{host}");
        assert!(host.contains("route add fd00::3 dev vs7\n"), "{host}");
        let guest = guests_part(&addresses);
        assert!(guest.contains("addr add 10.1.2.3/32 dev eth0\n"), "{guest}");
        assert!(
            guest.contains("addr add fd00::3/128 nodad dev eth0\n"),
            "{guest}"
        );
    }
}
