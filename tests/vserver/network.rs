//! A guest's addresses, and a service behind them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

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
