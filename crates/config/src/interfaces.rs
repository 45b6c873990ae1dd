//! `interfaces`: the addresses of a guest.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::ConfigError;
use super::values::{invalid, number, value};

/// One directory of `interfaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name of its directory.
    pub name: String,
    /// `ip`.
    pub address: IpAddr,
    /// `prefix`, or what `mask` says: bits of the network.
    pub prefix: u8,
    /// `dev`: a device of the host, which only says where the old tool put the address.
    pub device: Option<String>,
}

/// Reads `interfaces` of a guest, sorted by name. A `disabled` one is left out.
pub fn read(directory: &Path) -> Result<Vec<Interface>, ConfigError> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(source) => {
            let path = directory.to_path_buf();
            return Err(ConfigError::Unreadable { path, source });
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.join("disabled").exists() {
            found.push(interface(directory, &path)?);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn interface(all: &Path, own: &Path) -> Result<Interface, ConfigError> {
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    let ip = own.join("ip");
    let text = value(&ip)?.ok_or_else(|| invalid(&ip, "it is missing; write an address"))?;
    let (text, after) = match text.split_once('/') {
        Some((address, prefix)) => (address.to_owned(), Some(prefix.to_owned())),
        None => (text, None),
    };
    let wrong = || invalid(&ip, &format!("{text:?} is no IPv4 or IPv6 address"));
    let address: IpAddr = text.parse().map_err(|_| wrong())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let expected = format!("a number up to {longest}");
    let mut prefix = match after {
        Some(bits) => Some(bits.parse().map_err(|_| wrong())?),
        None => None,
    };
    for place in [own, all] {
        if prefix.is_none() {
            prefix = number::<u8>(&place.join("prefix"), &expected)?;
        }
        let mask = place.join("mask");
        if let (None, Some(text)) = (prefix, value(&mask)?) {
            let bits = prefix_of_mask(&text);
            prefix = Some(bits.ok_or_else(|| invalid(&mask, "it is no netmask"))?);
        }
    }
    let prefix = prefix.unwrap_or(longest);
    if prefix > longest {
        return Err(invalid(
            &own.join("prefix"),
            &format!("it is not {expected}"),
        ));
    }
    let device = match value(&own.join("dev"))? {
        None => value(&all.join("dev"))?,
        own => own,
    };
    Ok(Interface {
        name: name.into_owned(),
        address,
        prefix,
        device,
    })
}

/// The bits of `255.255.255.0`.
pub(super) fn prefix_of_mask(text: &str) -> Option<u8> {
    let mask = u32::from(text.parse::<std::net::Ipv4Addr>().ok()?);
    let bits = mask.leading_ones();
    (mask.count_ones() == bits).then(|| u8::try_from(bits).unwrap_or(32))
}

#[cfg(test)]
mod tests {
    use super::prefix_of_mask;

    #[test]
    fn a_netmask_is_a_prefix() {
        for (mask, bits) in [
            ("255.255.255.0", Some(24)),
            ("0.0.0.0", Some(0)),
            ("255.255.255.255", Some(32)),
            ("255.0.255.0", None),
            ("nothing", None),
        ] {
            assert_eq!(prefix_of_mask(mask), bits, "{mask}");
        }
    }
}
