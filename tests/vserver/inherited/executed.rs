//! Process 1 is a program of its own when `start` returns, with nothing of the host's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use vhashify_testkit::built;

use super::super::host::Host;
use super::styles;

#[test]
fn process_1_is_executed_when_start_returns_and_shows_nothing_of_the_host() {
    let host = Host::new();
    let null = fs::metadata("/dev/null").unwrap();
    let null_of_host = format!("{}:{}", null.dev(), null.ino());
    for style in styles() {
        for users in ["host", "own"] {
            host.sleeper(style);
            host.set(style, "apps/init/style", &format!("{style}\n"));
            host.set(style, "spaces/user", &format!("{users}\n"));
            host.ok(&[style, "start"]);
            let init = host.state(style)["init"]["pid"].as_i64().unwrap();
            // At once: none of these is waited for.
            let of = |file: &str| fs::read_to_string(format!("/proc/{init}/{file}")).unwrap();
            let (name, maps) = (of("comm"), of("maps"));
            let command = of("cmdline").replace('\0', " ");
            let whose = format!("{style}, users {users}");
            if style == "sysv" {
                assert_eq!(name, "reaper\n", "{whose}");
                assert_eq!(command, "reaper /bin/sleep 1000 ", "{whose}");
                let size = of("status");
                let size = size.lines().find_map(|line| line.strip_prefix("VmSize:"));
                let size = size.unwrap().trim().trim_end_matches(" kB");
                assert!(size.parse::<u32>().unwrap() < 1024, "{whose}: {maps}");
            } else {
                assert_eq!(name, "sleep\n", "{whose}");
                assert_eq!(command, "/bin/sleep 1000 ", "{whose}");
            }
            let program = built::vserver().file_name().unwrap().to_str().unwrap();
            assert!(!maps.contains(&format!("/{program}\n")), "{whose}: {maps}");
            let look = "stat -Lc %d:%i /proc/1/fd/0 /dev/null /dev/console 2>/dev/null; \
                        (: >>/proc/1/exe) 2>&1 | grep -c .";
            let (_, text) = host.script(style, look);
            let seen: Vec<&str> = text.lines().collect();
            // Users of its own may not change the host's.
            assert!(users == "own" || seen[0] != null_of_host, "{whose}");
            let own = if ["plain", "sysv"].contains(&style) {
                1
            } else {
                2
            };
            assert_eq!(seen[0], seen[own], "{whose}: {text}");
            assert_eq!(
                seen.last(),
                Some(&"1"),
                "the program is written: {whose}: {text}"
            );
            host.delete_at_once(style);
        }
    }
}

#[test]
fn a_start_command_that_cannot_be_executed_fails_the_start() {
    let host = Host::new();
    for style in styles().into_iter().filter(|style| *style != "sysv") {
        host.guest("web", &["/root/start"]);
        host.set("web", "apps/init/style", &format!("{style}\n"));
        let program = host.vdir("web").join("root/start");
        fs::write(&program, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let line = host.refused(&["web", "start"], 1);
        assert!(
            line.contains("/root/start cannot be executed: no such file"),
            "{line}"
        );
        let context = fs::read_to_string(host.at("conf/web/context")).unwrap();
        host.assert_nothing_is_left("web", context.trim().parse().unwrap());
        host.ok(&["--silent", "web", "delete"]);
    }
}
