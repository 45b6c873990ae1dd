//! `NAME.conf`, the single file of variables that vserver 0.x had for each guest.
//!
//! It was run by a shell. Here it is data: assignments of plain text, comments, and the two forms that
//! every generated file had around its addresses, a default for `PROFILE` and a `case` of it. Whatever
//! else a shell would do is refused with the number of its line.

mod shell;

use std::net::Ipv4Addr;
use std::path::Path;

use shell::{Assignment, Fault, fault, parse};
use vhashify_sys::shown::Shown;

use super::values::{invalid, text};
use super::{ConfigError, interfaces};
use crate::capabilities::{self, UnknownCapability};

/// The file as settings of the tree: paths below the guest's directory, and their texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OldStyle {
    /// In the order in which they are written.
    pub settings: Vec<(String, String)>,
    /// Assignments that have no counterpart: one line each.
    pub warnings: Vec<String>,
}

impl OldStyle {
    /// Reads the file. `profile` is the branch of `case $PROFILE` that is meant, else the default
    /// that the file itself names.
    ///
    /// # Errors
    /// It cannot be read, is no such file, or holds a value that means nothing: with its line.
    pub fn read(path: &Path, profile: Option<&str>) -> Result<Self, ConfigError> {
        let Some(text) = text(path)? else {
            let reason = "there is no such file; name the old-style file to import";
            return Err(invalid(path, reason));
        };
        let translated = parse(&text, profile).and_then(|assignments| translate(&assignments));
        translated.map_err(|Fault { line, reason }| {
            let place = if line == 0 {
                String::new()
            } else {
                format!("line {line}: ")
            };
            invalid(path, &format!("{place}{reason}"))
        })
    }
}

fn translate(assignments: &[Assignment]) -> Result<OldStyle, Fault> {
    let mut translation = Translation {
        assignments,
        out: OldStyle::default(),
        has_addresses: false,
    };
    for assignment in assignments {
        translation.add(assignment)?;
    }
    let mut out = translation.out;
    if !translation.has_addresses {
        // As it was: without addresses of its own, a guest had all of the host's.
        out.settings.push(("nonetns".to_owned(), String::new()));
    }
    Ok(out)
}

/// A translation, assignment by assignment.
struct Translation<'a> {
    assignments: &'a [Assignment],
    out: OldStyle,
    has_addresses: bool,
}

impl Translation<'_> {
    /// Translates one assignment into settings, or into a warning.
    fn add(&mut self, assignment: &Assignment) -> Result<(), Fault> {
        let Assignment { line, name, value } = assignment;
        let (line, text) = (*line, value.trim());
        let why_not = match name.as_str() {
            _ if text.is_empty() => return Ok(()),
            "S_HOSTNAME" | "S_DOMAINNAME" | "S_CONTEXT" | "S_NICE" | "ONBOOT" => {
                return self.add_value(line, name, text);
            }
            "S_CAPS" => {
                self.set("bcapabilities", &capability_list(line, text)?);
                return Ok(());
            }
            "S_FLAGS" => {
                flags(&mut self.out, text);
                return Ok(());
            }
            "ULIMIT" => {
                let is_counted = self
                    .value("S_FLAGS")
                    .split_whitespace()
                    .any(|flag| flag == "nproc");
                self.out.settings.extend(limits(line, text, is_counted)?);
                return Ok(());
            }
            "IPROOT" => {
                let (device, mask) = (self.value("IPROOTDEV"), self.value("IPROOTMASK"));
                let found = addresses(line, text, device, mask)?;
                self.has_addresses = !found.is_empty();
                self.out.settings.extend(found);
                return Ok(());
            }
            // With IPROOT.
            "IPROOTDEV" | "IPROOTMASK" => return Ok(()),
            "IPROOTBCAST" => "it follows from the mask",
            "NODEV" => "addresses are in the guest alone",
            "S_PROFILE" => "a guest has one profile; import another one with --profile",
            _ => "nothing is known of that name",
        };
        let name = Shown::bytes(name.as_bytes());
        let warning = format!("line {line}: {name} has no effect: {why_not}");
        self.out.warnings.push(warning);
        Ok(())
    }

    /// An assignment that is one setting, whose value is the same or none.
    fn add_value(&mut self, line: usize, name: &str, text: &str) -> Result<(), Fault> {
        match name {
            "S_HOSTNAME" if text.contains(char::is_whitespace) => {
                return fault(line, format!("{text:?} is no host name"));
            }
            "S_HOSTNAME" => self.set("uts/nodename", text),
            "S_DOMAINNAME" if text != "none" => self.set("uts/domainname", text),
            "S_CONTEXT" => {
                number(line, text, 2, 65535)?;
                self.set("context", text);
            }
            "S_NICE" => {
                number(line, text, -20, 19)?;
                self.set("nice", text);
            }
            "ONBOOT" if text == "yes" => self.set("apps/init/mark", "default"),
            _ => {}
        }
        Ok(())
    }

    fn set(&mut self, setting: &str, text: &str) {
        let setting = (setting.to_owned(), text.to_owned());
        self.out.settings.push(setting);
    }

    /// The value of another assignment; empty without one.
    fn value(&self, name: &str) -> &str {
        let found = self.assignments.iter().find(|known| known.name == name);
        found.map_or("", |known| known.value.trim())
    }
}

fn number(line: usize, text: &str, least: i32, most: i32) -> Result<(), Fault> {
    let is_good = text
        .parse()
        .is_ok_and(|number: i32| (least..=most).contains(&number));
    if is_good {
        return Ok(());
    }
    fault(
        line,
        format!("{text:?} is not a number from {least} to {most}"),
    )
}

fn capability_list(line: usize, text: &str) -> Result<String, Fault> {
    let mut lines = Vec::new();
    for word in text.split_whitespace() {
        let plain = word.strip_prefix('!').unwrap_or(word);
        if capabilities::find(plain).is_none() {
            let word = word.to_owned();
            return fault(line, UnknownCapability { word }.to_string());
        }
        let sign = if word == plain { "" } else { "~" };
        lines.push(format!("{sign}{plain}"));
    }
    Ok(lines.join("\n"))
}

/// Some of them said how the guest is started.
fn flags(out: &mut OldStyle, text: &str) {
    let style = |word: &str| match word {
        "fakeinit" => Some("plain"),
        "minit" => Some("minit"),
        _ => None,
    };
    let words = text.split_whitespace();
    let (styles, rest): (Vec<&str>, Vec<&str>) = words.partition(|word| style(word).is_some());
    if let Some(style) = styles.last().and_then(|word| style(word)) {
        out.settings
            .push(("apps/init/style".to_owned(), style.to_owned()));
    }
    // Every generated file has these two, and they are so anyway.
    let rest: Vec<&str> = rest
        .into_iter()
        .filter(|word| !["lock", "nproc"].contains(word))
        .collect();
    if !rest.is_empty() {
        out.settings.push(("flags".to_owned(), rest.join("\n")));
    }
}

/// The options of the shell's ulimit: `-H` and `-S`, then a letter and a value each.
fn limits(line: usize, text: &str, is_counted: bool) -> Result<Vec<(String, String)>, Fault> {
    // Letter, resource, and how many bytes its unit has.
    const LETTERS: [(char, &str, u64); 15] = [
        ('c', "core", 1024),
        ('d', "data", 1024),
        ('e', "nice", 1),
        ('f', "fsize", 1024),
        ('i', "sigpending", 1),
        ('l', "memlock", 1024),
        ('m', "rss", 1024),
        ('n', "nofile", 1),
        ('q', "msgqueue", 1),
        ('r', "rtprio", 1),
        ('s', "stack", 1024),
        ('t', "cpu", 1),
        ('u', "nproc", 1),
        ('v', "as", 1024),
        ('x', "locks", 1),
    ];
    let wrong = || format!("{text:?} is not as ulimit has it: -HS, then a letter and a value each");
    let (mut hard, mut soft) = (false, false);
    let mut found = Vec::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            return fault(line, wrong());
        };
        for letter in letters.chars() {
            match letter {
                'H' => hard = true,
                'S' => soft = true,
                _ => {
                    let known = LETTERS.iter().find(|(known, ..)| *known == letter);
                    let (Some((_, resource, unit)), Some(value)) = (known, words.next()) else {
                        return fault(line, wrong());
                    };
                    let value = match value {
                        "unlimited" => Some("inf".to_owned()),
                        number => number
                            .parse::<u64>()
                            .ok()
                            .and_then(|number| number.checked_mul(*unit))
                            .map(|number| number.to_string()),
                    };
                    let Some(value) = value else {
                        return fault(line, wrong());
                    };
                    let suffix = match (hard, soft) {
                        (true, false) => ".hard",
                        (false, true) => ".soft",
                        _ => "",
                    };
                    let is_of_guest = is_counted && *resource == "nproc";
                    let place = if is_of_guest { "rlimits" } else { "ulimits" };
                    found.push((format!("{place}/{resource}{suffix}"), value));
                }
            }
        }
    }
    Ok(found)
}

/// `[DEVICE:]ADDRESS[/MASK]`, separated by blanks. None where the host's are meant.
fn addresses(
    line: usize,
    text: &str,
    device: &str,
    mask: &str,
) -> Result<Vec<(String, String)>, Fault> {
    let mut found = Vec::new();
    for (number, word) in text.split_whitespace().enumerate() {
        if ["0.0.0.0", "ALL"].contains(&word) {
            return Ok(Vec::new());
        }
        let (device, rest) = word.split_once(':').unwrap_or((device, word));
        let (address, mask) = rest.split_once('/').unwrap_or((rest, mask));
        if address.parse::<Ipv4Addr>().is_err() {
            return fault(
                line,
                format!("{word:?} is no address; write DEVICE:ADDRESS/MASK"),
            );
        }
        let put = |found: &mut Vec<_>, name: &str, value: &str| {
            found.push((format!("interfaces/{number}/{name}"), value.to_owned()));
        };
        put(&mut found, "ip", address);
        if !device.is_empty() {
            let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if !device.chars().all(is_good) {
                return fault(line, format!("{device:?} is no name of a device"));
            }
            put(&mut found, "dev", device);
        }
        if mask.parse::<u8>().is_ok_and(|bits| bits <= 32) {
            put(&mut found, "prefix", mask);
        } else if interfaces::prefix_of_mask(mask).is_some() {
            put(&mut found, "mask", mask);
        } else if !mask.is_empty() {
            return fault(line, format!("{mask:?} is no netmask"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{parse, translate};

    fn settings(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
        let translated = parse(text, None).and_then(|assignments| translate(&assignments));
        translated
            .map(|translated| translated.settings)
            .map_err(|fault| (fault.line, fault.reason))
    }

    #[test]
    fn the_file_that_the_old_tool_wrote_is_read() {
        let text = r#"
if [ "$PROFILE" = "" ] ; then
	PROFILE=prod
fi
# Select the IP number
case $PROFILE in
prod)
	IPROOT="eth0:10.0.0.1 10.0.0.2/255.255.255.0"
	#IPROOTMASK=
	IPROOTDEV=eth1
	S_HOSTNAME=www.example.org
	;;
backup)
	IPROOT=1.2.3.4
	S_HOSTNAME=
	;;
esac
ONBOOT=yes
S_DOMAINNAME=
S_NICE=5
S_FLAGS="lock nproc fakeinit"
ULIMIT="-HS -u 1000 -n 64"
S_CAPS="CAP_NET_RAW !CAP_SYS_CHROOT"
S_CONTEXT=1234
"#;
        let text_of = |text: &str| text.to_owned();
        let expected: Vec<_> = [
            ("interfaces/0/ip", "10.0.0.1"),
            ("interfaces/0/dev", "eth0"),
            ("interfaces/1/ip", "10.0.0.2"),
            ("interfaces/1/dev", "eth1"),
            ("interfaces/1/mask", "255.255.255.0"),
            ("uts/nodename", "www.example.org"),
            ("apps/init/mark", "default"),
            ("nice", "5"),
            ("apps/init/style", "plain"),
            ("rlimits/nproc", "1000"),
            ("ulimits/nofile", "64"),
            ("bcapabilities", "CAP_NET_RAW\n~CAP_SYS_CHROOT"),
            ("context", "1234"),
        ]
        .into_iter()
        .map(|(setting, value)| (text_of(setting), text_of(value)))
        .collect();
        assert_eq!(settings(text), Ok(expected));
        let backup = parse(text, Some("backup")).unwrap();
        assert!(backup.iter().any(|found| found.value == "1.2.3.4"));
    }

    #[test]
    fn limits_have_the_units_of_the_shell() {
        for (text, limits) in [
            ("ULIMIT='-u 5'", &[("ulimits/nproc", "5")][..]),
            (
                "ULIMIT='-H -v 2 -S -n unlimited'",
                &[("ulimits/as.hard", "2048"), ("ulimits/nofile", "inf")],
            ),
            ("ULIMIT='-Sc 0'", &[("ulimits/core.soft", "0")]),
        ] {
            let found = settings(text).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|(a, b)| (a.as_str(), b.as_str()))
                .collect();
            assert_eq!(&found[..limits.len()], limits, "{text}");
            assert_eq!(found.last(), Some(&("nonetns", "")));
        }
    }

    #[test]
    fn what_a_shell_would_run_is_refused_with_its_line() {
        for (text, line) in [
            ("S_NICE=1\nrm -rf /", 2),
            ("S_HOSTNAME=$(reboot)", 1),
            ("S_HOSTNAME=\"`id`\"", 1),
            ("\n\nS_HOSTNAME=a; reboot", 3),
            ("S_HOSTNAME=\"a\nb\"", 1),
            (". /etc/passwd", 1),
            ("if true; then\nfi", 1),
            ("case $1 in\nesac", 1),
            ("case $PROFILE in\nprod)\n;;\nesac", 2),
            ("PROFILE=x\ncase $PROFILE in\n", 2),
            ("PROFILE=x\ncase $PROFILE in\nS_NICE=1\nesac", 3),
            ("PROFILE=x\ncase $PROFILE in\nx)\nreboot\n;;\nesac", 4),
            ("PROFILE=x\ncase $PROFILE in\ny)\nreboot\n;;\nesac", 4),
            ("if [ \"$PROFILE\" = \"\" ] ; then\nS_NICE=1\nfi", 2),
            ("if [ \"$PROFILE\" = \"\" ] ; then\n", 1),
            ("S_NICE=20", 1),
            ("S_CONTEXT=1", 1),
            ("S_CAPS=CAP_FLY", 1),
            ("ULIMIT=\"-u\"", 1),
            ("ULIMIT=\"-z 5\"", 1),
            ("ULIMIT=\"5\"", 1),
            ("IPROOT=10.0.0.256", 1),
            ("IPROOT=eth0/x:10.0.0.2", 1),
            ("IPROOT=10.0.0.2/255.0.255.0", 1),
            ("S_HOSTNAME=\"a b\"", 1),
            ("S_HOSTNAME=a\u{1b}[2J", 1),
            ("a-b=c", 1),
            ("1a=c", 1),
            ("=c", 1),
            ("f() { reboot; }", 1),
        ] {
            let found = settings(text);
            assert_eq!(
                found.map_err(|(line, _)| line).err(),
                Some(line),
                "{text:?}"
            );
        }
    }
}
