//! A guest's addresses, and a service behind them.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use super::host::{Host, wait_until};

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn nginx_in_a_guest_answers_and_stopping_it_takes_its_address_away_and_no_other() {
    let host = Host::new();
    let nginx = ["/usr/sbin/nginx", "-g", "daemon off;"];
    host.guest_like("beta", "web", &nginx);
    host.set("web", "interfaces/0/ip", "10.213.7.2\n");
    host.set("web", "interfaces/0/prefix", "24\n");
    host.set("web", "interfaces/1/ip", "10.213.7.3\n");
    host.guest("other", &["/bin/sleep", "1000"]);
    host.set("other", "interfaces/0/ip", "10.213.7.4\n");
    host.ok(&["web", "start"]);
    host.ok(&["other", "start"]);
    for address in ["10.213.7.2:80", "10.213.7.3:80"] {
        wait_until("nginx answers", || TcpStream::connect(address).is_ok());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let (_, text) = host.script("web", "cat /sys/class/net/lo/operstate; ls /sys/class/net");
    assert_eq!(text, "unknown\neth0\nlo\n");
    // Guests reach each other through the host alone.
    let context = host.context("web");
    host.ok(&["web", "stop"]);
    host.assert_nothing_is_left("web", context);
    let routes = ip(&["route"]);
    assert!(
        !routes.contains("10.213.7.2 ") && !routes.contains("10.213.7.3 "),
        "{routes}"
    );
    assert!(routes.contains("10.213.7.4 "), "{routes}");
}

#[test]
fn nonetns_shares_the_hosts_network() {
    let host = Host::new();
    host.sleeper("web");
    host.set("web", "nonetns", "");
    host.ok(&["web", "start"]);
    let inside = host.ok(&["web", "exec", "readlink", "/proc/self/ns/net"]);
    let outside = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(inside.trim(), outside.to_str().unwrap());
    host.sleeper("own");
    host.ok(&["own", "start"]);
    let inside = host.ok(&["own", "exec", "readlink", "/proc/self/ns/net"]);
    // Up, and a loopback device, though it has no address to be given.
    let flags = host.ok(&["own", "exec", "cat", "/sys/class/net/lo/flags"]);
    assert_eq!(flags.trim(), "0x9");
    assert_ne!(inside.trim(), outside.to_str().unwrap());
}

#[test]
fn its_device_is_gone_when_a_start_has_failed_and_when_a_guest_has_ended() {
    let host = Host::new();
    host.sleeper("web");
    host.set("web", "context", "1241\n");
    host.set("web", "interfaces/0/ip", "10.213.9.2\n");
    host.set("web", "sysctl/0/setting", "net.ipv4.ip_default_ttl\n");
    for _ in 0..8 {
        host.set("web", "sysctl/0/value", "lots\n");
        host.refused(&["web", "start"], 1);
        host.assert_nothing_is_left("web", 1241);
        host.set("web", "sysctl/0/value", "99\n");
        host.ok(&["--silent", "web", "start"]);
        // Its init goes first here, and the kernel begins to take its namespace away.
        host.ok(&["vkill", "--xid", "web", "-s", "KILL", "1"]);
        wait_until("it has ended", || !host.is_running("web"));
        host.assert_nothing_is_left("web", 1241);
    }
}

/// An address of the host for as long as the value lives.
struct HostAddress(&'static str);

impl HostAddress {
    fn new(address: &'static str) -> Self {
        ip(&["addr", "add", address, "dev", "lo", "nodad"]);
        Self(address)
    }
}

impl Drop for HostAddress {
    fn drop(&mut self) {
        ip(&["addr", "del", self.0, "dev", "lo"]);
    }
}

/// Sends a datagram from each address after the first, to the first; what it says is the address that it comes from.
/// `IPV6_FREEBIND` is 78, `IP_TRANSPARENT` 19 and 75.
const SEND: &str = "use Socket qw(:all); my ($port, $to, @from) = @ARGV; for my $from (@from) { \
    my $six = $from =~ /:/; my $family = $six ? AF_INET6 : AF_INET; \
    socket(my $s, $family, SOCK_DGRAM, 17) or die; \
    setsockopt($s, 41, $_, pack('i', 1)) for (78, 75); setsockopt($s, 0, $_, pack('i', 1)) for (15, 19); \
    my $at = sub { my ($port, $to) = @_; my $a = inet_pton($family, $to); \
        $six ? pack_sockaddr_in6($port, $a) : pack_sockaddr_in($port, $a) }; \
    bind($s, $at->(0, $from)) or next; send($s, $from, 0, $at->($port, $six ? $to : '169.254.1.1')); }";

/// The addresses from which datagrams of `web` arrive at the host, of those that it tries.
fn arrived(host: &Host, tried: &[&str]) -> Vec<String> {
    let socket = UdpSocket::bind("[::]:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let mut send = vec!["web", "exec", "perl", "-e", SEND, &port, HOST];
    send.extend(tried);
    host.ok(&send);
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut text = [0; 64];
    std::iter::from_fn(|| {
        let length = socket.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    })
    .collect()
}

const HOST: &str = "fd77:213::1";
const OWN: [&str; 2] = ["10.213.8.2", "fd77:213::2"];
/// Of another guest, of nobody, and of the host.
const OTHERS: [&str; 5] = [
    "10.213.8.3",
    "fd77:213::3",
    "2001:db8::99",
    "fd77:213::1",
    "192.0.2.7",
];

fn nft(arguments: &[&str]) {
    let done = Command::new("nft").args(arguments).status().unwrap();
    assert!(done.success(), "nft {arguments:?}");
}

fn guests_with_addresses(host: &Host) {
    host.sleeper("web");
    host.sleeper("mail");
    for (guest, number) in [("web", 2), ("mail", 3)] {
        host.set(guest, "interfaces/0/ip", &format!("10.213.8.{number}\n"));
        host.set(guest, "interfaces/1/ip", &format!("fd77:213::{number}\n"));
        host.ok(&[guest, "start"]);
    }
}

#[test]
fn a_guest_sends_from_its_own_addresses_only() {
    let _address = HostAddress::new("fd77:213::1/128");
    let tried = [&OWN[..], &OTHERS].concat();
    {
        // It takes the rule in its own namespace away, and the host's is left.
        let host = Host::new();
        host.set("web", "bcapabilities", "CAP_NET_ADMIN\nCAP_NET_RAW\n");
        guests_with_addresses(&host);
        let init = host.state("web")["init"]["pid"].to_string();
        let mut flush = Command::new("nsenter");
        flush.args(["--net", "--target", &init, "nft", "flush", "ruleset"]);
        assert!(flush.status().unwrap().success());
        assert_eq!(arrived(&host, &tried), OWN, "with network capabilities");
    }
    let host = Host::new();
    guests_with_addresses(&host);
    assert_eq!(arrived(&host, &tried), OWN);
    // As a firewall does that is loaded anew.
    nft(&["delete", "table", "inet", "vserver"]);
    assert_eq!(arrived(&host, &tried), OWN, "without the host's rule");
}

#[test]
fn a_guest_without_an_ipv6_address_sends_nothing_by_ipv6() {
    let host = Host::new();
    host.sleeper("web");
    host.set("web", "interfaces/0/ip", "10.213.8.2\n");
    host.ok(&["web", "start"]);
    let device = format!("vs{}", host.context("web"));
    let addresses = ip(&["-6", "addr", "show", "dev", &device]);
    assert_eq!(addresses, "");
    let strict = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
    assert_eq!(std::fs::read_to_string(strict).unwrap(), "1\n");
}
