//! Looks up the user that a command runs as in the guest's own files.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::Gid;
use thiserror::Error;

/// Why there is no such user.
#[derive(Debug, Error)]
pub enum AccountError {
    #[error("{path}: {source}")]
    Read {
        path: &'static str,
        source: io::Error,
    },
    #[error("{user:?} is not in the guest's /etc/passwd")]
    Unknown { user: String },
}

/// A user of the guest; by default its root, with no groups.
#[derive(Debug, Default)]
pub struct Account {
    /// User and group.
    pub ids: Option<(u32, u32)>,
    /// Supplementary groups.
    pub groups: Vec<Gid>,
    /// The home directory.
    pub home: Option<String>,
}

impl Account {
    /// Finds a user by name or number. This process must already be in the guest's mount namespace.
    pub fn find(user: &str) -> Result<Self, AccountError> {
        let path = "/etc/passwd";
        let passwd = read_plain(path).map_err(|source| AccountError::Read { path, source })?;
        let group = read_plain("/etc/group").unwrap_or_default();
        Self::parse(user, &passwd, &group).ok_or_else(|| AccountError::Unknown {
            user: user.to_owned(),
        })
    }

    fn parse(user: &str, passwd: &str, group: &str) -> Option<Self> {
        let line = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 6 && (fields[0] == user || fields[2] == user));
        let (name, uid, gid, home) = match line {
            Some(fields) => (
                fields[0].to_owned(),
                fields[2].parse().ok()?,
                fields[3].parse().ok()?,
                Some(fields[5].to_owned()),
            ),
            // A number is a user without an entry, too.
            None => (
                String::new(),
                user.parse::<u32>().ok()?,
                user.parse().ok()?,
                None,
            ),
        };
        // To setresuid(2) this number means "leave as it is".
        if uid == u32::MAX || gid == u32::MAX {
            return None;
        }
        let mut groups = HashSet::from([gid]);
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let is_member = |fields: &[&str]| fields[3].split(',').any(|member| member == name);
            if fields.len() == 4 && !name.is_empty() && is_member(&fields) {
                groups.extend(fields[2].parse::<u32>());
            }
        }
        groups.remove(&u32::MAX);
        Some(Self {
            ids: Some((uid, gid)),
            groups: groups.into_iter().map(Gid::from_raw).collect(),
            home,
        })
    }
}

/// Reads a regular file, at most a mebibyte of it, so that a guest can neither block this process nor fill memory.
fn read_plain(path: &str) -> io::Result<String> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:w:/var/www:/bin/sh\nbad\n";
        let group = "adm:x:4:www,other\nwww:x:34:\nbroken:x\n";
        let www = Account::parse("www", passwd, group).unwrap();
        assert_eq!(www.ids, Some((33, 34)));
        assert_eq!(www.home.as_deref(), Some("/var/www"));
        let mut groups: Vec<u32> = www.groups.iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        assert_eq!(groups, [4, 34]);
        assert_eq!(
            Account::parse("33", passwd, group).unwrap().ids,
            Some((33, 34))
        );
        assert_eq!(
            Account::parse("99", passwd, group).unwrap().ids,
            Some((99, 99))
        );
        assert!(Account::parse("nobody", passwd, group).is_none());
        assert!(Account::parse("4294967295", passwd, group).is_none());
    }
}
