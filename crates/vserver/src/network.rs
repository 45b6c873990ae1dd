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
//! be removed again; the routes go with it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vhashify_sys::{loopback, procfs};

/// How long the kernel may take for a namespace's devices.
const REMOVING: Duration = Duration::from_secs(10);

/// The host's end of the pair, from which a guest's addresses are reached.
fn host_device(context: u32) -> String {
    format!("vs{context}")
}

/// Brings up the loopback device of a guest whose init has been made, and gives it its addresses.
///
/// # Errors
/// What failed, or what `ip` said, on one line.
pub fn set_up(context: u32, init: i32, addresses: &[(IpAddr, String)]) -> Result<(), String> {
    let inside = if addresses.is_empty() {
        None
    } else {
        let device = host_device(context);
        // Left by somebody who removed what was known about a guest; the number is ours now.
        take_down(context)?;
        let mut outside = format!("link add {device} type veth peer name eth0 netns {init}\n");
        outside.push_str(&hosts_part(&device, addresses));
        ip(&outside)?;
        Some(guests_part(addresses))
    };
    let namespace = File::open(procfs::path(init, "ns/net"))
        .map_err(|error| format!("its network namespace cannot be opened: {error}"))?;
    // A thread of its own, which is all that changes its network.
    let inside = std::thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind)
            .map_err(|error| format!("its network namespace cannot be entered: {error}"))?;
        loopback::bring_up()
            .map_err(|error| format!("its loopback device cannot be brought up: {error}"))?;
        inside.map_or(Ok(()), |commands| ip(&commands))
    });
    inside
        .join()
        .unwrap_or_else(|_| Err("its network could not be set up".to_owned()))
}

/// Removes the pair, if there is one, and returns when it is gone.
///
/// Where the guest has ended, the kernel takes its namespace and the pair away by itself, but some time
/// later, when the guest may be started again: whichever comes first.
///
/// # Errors
/// It is still there after ten seconds: what `ip` said last.
pub fn take_down(context: u32) -> Result<(), String> {
    let device = host_device(context);
    let listed = Path::new("/sys/class/net").join(&device);
    let begun = Instant::now();
    while listed.exists() {
        let removed = ip(&format!("link del {device}\n"));
        if begun.elapsed() > REMOVING {
            let said = removed.err().unwrap_or_default();
            return Err(format!(
                "its network device {device} does not go away; remove it by `ip link del {device}` ({said})"
            ));
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
fn ip(commands: &str) -> Result<(), String> {
    let run = || -> std::io::Result<std::process::Output> {
        let mut child = Command::new("ip")
            .args(["-batch", "-"])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(commands.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| format!("ip (of iproute2) cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    Err(format!("ip said: {}", said.join("; ")))
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
