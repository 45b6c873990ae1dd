//! Keeps a guest from sending as somebody else: only from its own addresses.
//!
//! The kernel lets every process send by IPv6 from any address (`IPV6_FREEBIND`), and by IPv4 a guest with
//! `CAP_NET_RAW`. Each guest's pair of devices is watched at both ends:
//!
//! | where | what | whom it stops |
//! | --- | --- | --- |
//! | the guest's namespace | a rule on what its processes send; goes with the namespace | who has no `CAP_NET_ADMIN` |
//! | the host's device | `rp_filter`; for IPv6, which has none, a rule in the table `inet vserver` that does the same | everybody |
//!
//! The host's rule is one for all guests: the way back to a packet's source leads to the device that it came from. It names
//! the devices by their group, and stays when the last guest has ended. A firewall that flushes all rules takes it
//! away until the next guest starts; the rule in the guest's namespace stays.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{NetworkError, run};

/// The group of the host's devices of all guests (`ip link set DEVICE group NUMBER`): "vs".
pub const GROUP: u32 = 0x7673;

/// Does it at the host's end. A guest without addresses of IPv6 sends nothing by it.
///
/// # Errors
/// A parameter of the device cannot be set, or nft(8) fails.
pub fn check_at_host(device: &str, addresses: &[(IpAddr, String)]) -> Result<(), NetworkError> {
    set(device, "ipv4", "rp_filter")?;
    if has_v6(addresses) {
        nft(&hosts_rules())
    } else {
        set(device, "ipv6", "disable_ipv6")
    }
}

/// Does it in the network namespace of this thread, the guest's.
///
/// # Errors
/// nft(8) fails.
pub fn check_in_guest(addresses: &[(IpAddr, String)]) -> Result<(), NetworkError> {
    if has_v6(addresses) {
        nft(&guests_rules(addresses))
    } else {
        Ok(())
    }
}

fn has_v6(addresses: &[(IpAddr, String)]) -> bool {
    addresses.iter().any(|(address, _)| address.is_ipv6())
}

/// Sets a parameter of a device to 1.
fn set(device: &str, protocol: &str, parameter: &str) -> Result<(), NetworkError> {
    let path: PathBuf = ["/proc/sys/net", protocol, "conf", device, parameter]
        .iter()
        .collect();
    match fs::write(&path, "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !parent_exists(&path) => Ok(()),
        Err(source) => Err(NetworkError::Parameter { path, source }),
        Ok(()) => Ok(()),
    }
}

fn parent_exists(path: &Path) -> bool {
    path.parent().is_some_and(Path::exists)
}

/// Makes the table anew, in one transaction.
fn hosts_rules() -> String {
    format!(
        "add table inet vserver\n\
         delete table inet vserver\n\
         table inet vserver {{\n\
         chain sources {{\n\
         type filter hook prerouting priority raw; policy accept;\n\
         iifgroup != {GROUP} accept\n\
         ip6 saddr :: accept\n\
         fib saddr . iif oif 0 drop\n\
         }}\n}}\n"
    )
}

fn guests_rules(addresses: &[(IpAddr, String)]) -> String {
    let mut rules = String::from(
        "table inet vserver {\n\
         chain sources {\n\
         type filter hook output priority raw; policy accept;\n\
         oifname != \"eth0\" accept\n\
         ip6 saddr { ::, fe80::/10 } accept\n",
    );
    for (address, _) in addresses {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(rules, "{family} saddr {address} accept");
    }
    rules.push_str("drop\n}\n}\n");
    rules
}

fn nft(rules: &str) -> Result<(), NetworkError> {
    let output =
        run("nft", &["-f", "-"], rules).map_err(|source| NetworkError::RunNft { source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default().trim().to_owned();
    Err(NetworkError::Nft { said })
}

#[cfg(test)]
mod tests {
    use super::guests_rules;

    #[test]
    fn a_guest_sends_from_each_of_its_addresses_and_no_other() {
        let addresses = [
            ("10.1.2.3".parse().unwrap(), "0".to_owned()),
            ("fd00::3".parse().unwrap(), "1".to_owned()),
        ];
        let rules = guests_rules(&addresses);
        for rule in [
            "\nip saddr 10.1.2.3 accept\n",
            "\nip6 saddr fd00::3 accept\ndrop\n",
        ] {
            assert!(rules.contains(rule), "{rules}");
        }
    }
}
