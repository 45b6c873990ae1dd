//! Pattern files: against the C library's `fnmatch`, against the plainest possible decision, and
//! the built-in list against paths of real guests.
#![allow(unsafe_code)] // fnmatch(3) is the oracle
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in their helpers

use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vhashify::exclude::{BUILTIN_LIST, ExcludeError, Rules, Verdict};
use vhashify_packages::ReadError;
use vhashify_packages::pattern::{BadPattern, Pattern};

fn rules(text: &str) -> Rules {
    Rules::parse(Path::new("list"), text.as_bytes()).unwrap()
}

fn fnmatch(pattern: &[u8], text: &[u8]) -> bool {
    let pattern = CString::new(pattern).unwrap();
    let text = CString::new(text).unwrap();
    // SAFETY: both pointers are to NUL-terminated strings that outlive the call, and no thread
    // of this program calls setlocale, so the C locale stays in force.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}

#[test]
fn the_first_matching_line_decides() {
    let rules = rules(
        "# comment\n\n  \t\n~/var\n+/var/lib/keep\n+ /var/lib/*.deb \r\n-/var/*\n/etc\n+/etc\n\
         *.bak\n+/opt/x.bak\n/dir/\n/end\\ \n+/*/late\n/srv/*\n/a\\*b\n",
    );
    for (path, is_directory, expected) in [
        ("/var", true, Verdict::SkipEntry),
        ("/var/lib/keep", false, Verdict::Include),
        ("/var/lib/a/b.deb", false, Verdict::Include),
        ("/var/lib/other", false, Verdict::Exclude),
        ("/etc", true, Verdict::Exclude),
        ("/etc/passwd", false, Verdict::Include),
        ("/opt/x.bak", false, Verdict::Exclude),
        ("/dir", true, Verdict::Exclude),
        ("/dir", false, Verdict::Include),
        ("/end ", false, Verdict::Exclude),
        ("/end", false, Verdict::Include),
        ("/srv/late", false, Verdict::Include),
        ("/srv/other", false, Verdict::Exclude),
        ("/a*b", false, Verdict::Exclude),
        ("/axb", false, Verdict::Include),
        ("/", true, Verdict::Include),
        ("/usr/bin/env", false, Verdict::Include),
    ] {
        assert_eq!(
            rules.decide(path.as_bytes(), is_directory),
            expected,
            "{path}"
        );
    }
}

#[test]
fn bad_lines_are_named() {
    for (text, line, reason) in [
        ("/a\n/b[", 2, BadPattern::UnclosedBracket),
        ("/a\\", 1, BadPattern::LoneBackslash),
        ("#\n#\n+", 3, BadPattern::Empty),
        ("~  ", 1, BadPattern::Empty),
        ("/a\0b", 1, BadPattern::Nul),
        ("etc/passwd", 1, BadPattern::NotRooted),
        ("++/a", 1, BadPattern::NotRooted),
        ("\\/a", 1, BadPattern::NotRooted),
        ("/[[:nonsense:]]", 1, BadPattern::UnknownClass),
    ] {
        let error = Rules::parse(Path::new("/my/list"), text.as_bytes()).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("/my/list:{line}: ")),
            "{error}"
        );
        assert!(
            matches!(error, ExcludeError::BadLine { line: found, reason: why, .. }
                if (found, why) == (line, reason)),
            "{text:?}"
        );
    }
}

#[test]
fn configuration_files_go_before_all_patterns() {
    let rules = rules("+*\n+/etc/a").with_files_first([b"/etc/a".to_vec(), b"/b\n\xff".to_vec()]);
    assert_eq!(rules.decide(b"/etc/a", false), Verdict::Exclude);
    assert_eq!(rules.decide(b"/b\n\xff", false), Verdict::Exclude);
    assert_eq!(rules.decide(b"/etc/b", false), Verdict::Include);
}

#[test]
fn a_list_is_read_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list");
    std::fs::write(&path, "/a\n").unwrap();
    assert_eq!(
        Rules::read(&path).unwrap().decide(b"/a", false),
        Verdict::Exclude
    );
    let error = Rules::read(&directory.path().join("none")).unwrap_err();
    assert!(
        matches!(
            error,
            ExcludeError::Read(ReadError::Io { call: "open", .. })
        ),
        "{error}"
    );
}

#[test]
fn the_builtin_list_keeps_state_out_and_lets_packages_in() {
    // A slip in the list would make builtin() exclude everything; this is where it shows.
    Rules::parse(Path::new("builtin"), BUILTIN_LIST.as_bytes()).unwrap();
    let rules = Rules::builtin();
    // A file is unified if every directory above it is entered and it is included itself.
    let unified = |path: &str| {
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .filter(|at| *at > 0);
        let entered = |end| rules.decide(&path.as_bytes()[..end], true) != Verdict::Exclude;
        ends.into_iter().all(entered) && rules.decide(path.as_bytes(), false) == Verdict::Include
    };
    for path in [
        "/usr/bin/env",
        "/lib/modules/6.1.0/kernel/fs/ext4.ko",
        "/opt/tool/lib/x.so",
        "/boot/vmlinuz-6.1.0",
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/udev/hwdb.bin",
        "/etc/selinux/targeted/policy/policy.33",
        "/var/lib/dpkg/info/libc6.list",
        "/var/lib/apt/lists/deb.debian.org_debian_dists_x_main_binary-amd64_Packages",
        "/var/cache/apt/archives/adduser_3_all.deb",
        "/var/lib/pacman/local/bash-5-1/mtree",
        "/var/lib/pacman/sync/core.db",
        "/var/cache/pacman/pkg/bash-5-1-x86_64.pkg.tar.zst",
    ] {
        assert!(unified(path), "{path}");
    }
    for path in [
        "/dev/null",
        "/proc/1/maps",
        "/run/x",
        "/tmp/x",
        "/home/a/.profile",
        "/root/.bashrc",
        "/srv/www/index.html",
        "/boot/initrd.img-6.1.0",
        "/boot/grub/grubenv",
        "/etc/passwd",
        "/etc/ssl/private/key.pem",
        "/etc/ssl/certs/own.pem",
        "/etc/pki/tls/private/localhost.key",
        "/etc/selinux/config",
        "/etc/selinux/targeted/seusers",
        "/var/log/syslog",
        "/var/lib/dpkg/status",
        "/var/lib/apt/lists/lock",
        "/var/lib/apt/lists/partial/x_Packages",
        "/var/cache/apt/pkgcache.bin",
        "/var/cache/apt/archives/partial/x.deb",
        "/var/cache/man/index.db",
        "/var/lib/pacman/local/bash-5-1/desc",
        "/var/cache/pacman/pkg/bash.pkg.tar.zst.part",
        "/var/lib/rpm/rpmdb.sqlite",
        "/usr/lib/sysimage/rpm/rpmdb.sqlite",
        "/lib/apk/db/installed",
        "/usr/lib/locale/locale-archive",
        "/usr/share/info/dir",
        "/usr/local/share/texmf/ls-R",
    ] {
        assert!(!unified(path), "{path}");
    }
}

#[test]
fn hostile_patterns_take_no_exponential_time() {
    let pattern = Pattern::compile(format!("/{}b", "*a".repeat(60)).as_bytes()).unwrap();
    let path = format!("/{}c", "a".repeat(4000));
    // An end that differs would be seen at once; this one makes every star try.
    let inner = Pattern::compile(format!("/{}b*", "*a".repeat(60)).as_bytes()).unwrap();
    let started = Instant::now();
    assert!(!pattern.matches(path.as_bytes()));
    assert!(!inner.matches(path.as_bytes()));
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// Pieces that patterns are made of, so that random ones are likely to be valid and to match.
fn pattern() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => "[/abc.]".prop_map(String::into_bytes),
        3 => Just(b"*".to_vec()),
        2 => Just(b"?".to_vec()),
        2 => "\\\\[a*?\\[\\]/ \\\\]".prop_map(String::into_bytes),
        2 => "\\[[!^]?[]a]?[abc/!^.*-]{1,3}\\]".prop_map(String::into_bytes),
        1 => "\\[[!^]?[a-b]-[b-c/]?[.]?\\]".prop_map(String::into_bytes),
        1 => "\\[[!^]?(\\[:(alpha|digit|punct|space|upper|print|cntrl):\\]|[a\\[:]){1,2}\\]"
            .prop_map(String::into_bytes),
        1 => Just(b"\xff".to_vec()),
    ];
    prop::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => prop::sample::select(b"/abc.".to_vec()),
        1 => prop::sample::select(b"*?[]\\!^- :A1\n".to_vec()),
        1 => 1..=255_u8,
    ];
    prop::collection::vec(byte, 0..10)
}

/// Short, and longer than the words that filters compare.
fn root() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![b"/".as_slice(), b"/ab/cab/a.b/", b"/ab/cab/a.c/"])
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    (root(), text()).prop_map(|(root, text)| [root, &text].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn matching_agrees_with_fnmatch(pattern in pattern(), text in text()) {
        if let Ok(compiled) = Pattern::compile(&pattern) {
            prop_assert_eq!(
                compiled.matches(&text),
                fnmatch(&pattern, &text),
                "{:?} on {:?}", pattern.escape_ascii().to_string(), text.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn any_bytes_compile_or_are_refused(source in prop::collection::vec(any::<u8>(), 0..40)) {
        drop(Rules::parse(Path::new("list"), &source));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn deciding_agrees_with_trying_line_by_line(
        lines in prop::collection::vec(("[-+~]?", root(), pattern(), any::<bool>()), 0..12),
        files in prop::collection::vec(path(), 0..3),
        paths in prop::collection::vec((path(), any::<bool>()), 1..12),
    ) {
        let mut text = Vec::new();
        let mut plain = Vec::new();
        for (prefix, root, tail, slash) in lines {
            let mut pattern = if tail.starts_with(b"*") { tail } else { [root, &tail].concat() };
            while pattern.len() > 1 && pattern.ends_with(b"/") {
                pattern.pop();
            }
            let Ok(compiled) = Pattern::compile(&pattern) else { continue };
            if pattern.contains(&b'\n') || pattern.ends_with(b" ") && !pattern.ends_with(b"\\ ") {
                continue;
            }
            let verdict = match prefix.as_str() {
                "+" => Verdict::Include,
                "~" => Verdict::SkipEntry,
                _ => Verdict::Exclude,
            };
            text.extend_from_slice(prefix.as_bytes());
            text.extend_from_slice(&pattern);
            let slash = slash && pattern != b"/";
            text.extend_from_slice(if slash { b"/\n" } else { b"\n" });
            plain.push((compiled, slash, verdict));
        }
        let rules = Rules::parse(Path::new("list"), &text).unwrap().with_files_first(files.clone());
        for (path, is_directory) in paths {
            let expected = if files.contains(&path) {
                Verdict::Exclude
            } else {
                let first = plain.iter().find(|(pattern, slash, _)| {
                    (is_directory || !slash) && pattern.matches(&path)
                });
                first.map_or(Verdict::Include, |(_, _, verdict)| *verdict)
            };
            prop_assert_eq!(rules.decide(&path, is_directory), expected);
        }
    }
}
