//! Writes a new guest's configuration directory from util-vserver's options.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::LifecycleError;
use super::super::error::Doing;

/// The options of `build` that become settings, each as typed.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--context`.
    pub context: Option<u32>,
    /// Each `--interface [NAME=][DEV:]ADDRESS[/PREFIX]`.
    pub interfaces: Vec<String>,
    /// `--flags`, separated by commas.
    pub flags: Option<String>,
    /// `--initstyle`.
    pub style: Option<String>,
}

/// Makes the directory `at` for the guest `name`, whose root directory will be `vdir`.
pub fn write(at: &Path, name: &str, vdir: &Path, options: &Options) -> Result<(), LifecycleError> {
    let put = |setting: &str, value: &str| {
        let path = at.join(setting);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).doing("mkdir", directory)?;
        }
        fs::write(&path, format!("{value}\n")).doing("write", &path)
    };
    put("name", name)?;
    put("uts/nodename", options.hostname.as_deref().unwrap_or(name))?;
    if let Some(context) = options.context {
        put("context", &context.to_string())?;
    }
    if let Some(style) = &options.style {
        put("apps/init/style", style)?;
    }
    if let Some(flags) = &options.flags {
        put("flags", &flags.replace(',', "\n"))?;
    }
    for (number, text) in options.interfaces.iter().enumerate() {
        let interface = parse(text, number).ok_or_else(|| LifecycleError::Build {
            name: name.to_owned(),
            reason: format!("--interface {text:?} is not [NAME=][DEV:]ADDRESS[/PREFIX]").into(),
        })?;
        let directory = format!("interfaces/{}", interface.name);
        put(&format!("{directory}/ip"), interface.address)?;
        for (setting, value) in [("prefix", interface.prefix), ("dev", interface.device)] {
            if let Some(value) = value {
                put(&format!("{directory}/{setting}"), value)?;
            }
        }
    }
    let link = at.join("vdir");
    symlink(vdir, &link).doing("symlink", &link)
}

/// A parsed `--interface`.
#[derive(Debug, PartialEq, Eq)]
struct Interface<'text> {
    name: String,
    device: Option<&'text str>,
    address: &'text str,
    prefix: Option<&'text str>,
}

fn parse(text: &str, number: usize) -> Option<Interface<'_>> {
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (name.to_owned(), rest),
        None => (number.to_string(), text),
    };
    let is_address = |text: &str| {
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        address.parse::<std::net::IpAddr>().is_ok()
    };
    let (device, rest) = match rest.split_once(':') {
        _ if is_address(rest) => (None, rest),
        Some((device, rest)) => (Some(device), rest),
        None => (None, rest),
    };
    let (address, prefix) = match rest.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (rest, None),
    };
    let is_good = is_address(address)
        && prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok())
        && !name.is_empty()
        && !name.starts_with('.')
        && !name.contains('/');
    is_good.then_some(Interface {
        name,
        device: device.filter(|device| !device.is_empty()),
        address,
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use super::{Interface, parse};

    #[test]
    fn an_interface_is_told_on_one_line() {
        let interface = |name: &str, device, address, prefix| {
            Some(Interface {
                name: name.to_owned(),
                device,
                address,
                prefix,
            })
        };
        for (text, parsed) in [
            ("10.0.0.1", interface("3", None, "10.0.0.1", None)),
            (
                "eth0:10.0.0.1/24",
                interface("3", Some("eth0"), "10.0.0.1", Some("24")),
            ),
            (
                "a=eth0:10.0.0.1",
                interface("a", Some("eth0"), "10.0.0.1", None),
            ),
            ("fd00::1/64", interface("3", None, "fd00::1", Some("64"))),
            (
                "eth0:fd00::1/64",
                interface("3", Some("eth0"), "fd00::1", Some("64")),
            ),
            ("eth0", None),
            ("10.0.0.1/all", None),
            ("../x=10.0.0.1", None),
        ] {
            assert_eq!(parse(text, 3), parsed, "{text}");
        }
    }
}
