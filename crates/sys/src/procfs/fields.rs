//! Files whose lines are a name and a value: `status` and `fdinfo/N`.

use std::fmt::Display;
use std::str::FromStr;

use rustix::io::Errno;

use super::read;

/// The lines of such a file. Each name is given without its colon.
#[derive(Debug, Clone, Default)]
pub struct Fields(String);

/// `/proc/PID/status`.
///
/// # Errors
/// As [`read`].
pub fn status(process: impl Display) -> Result<Fields, Errno> {
    read(process, "status").map(Fields)
}

/// `/proc/PID/fdinfo/N`.
///
/// # Errors
/// As [`read`].
pub fn fdinfo(process: impl Display, descriptor: u32) -> Result<Fields, Errno> {
    read(process, &format!("fdinfo/{descriptor}")).map(Fields)
}

impl From<String> for Fields {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Fields {
    /// The value of the field `name`, without blanks around it.
    ///
    /// A process cannot forge one by its name: the kernel escapes line breaks in it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    }

    /// The value of a field that is a decimal number.
    #[must_use]
    pub fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    /// The value of a field that is a set of bits in hexadecimal: signals, capabilities.
    #[must_use]
    pub fn mask(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(name)?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, status};

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "Name:\tSeccomp: 2\\nTgid:\t9\nTgid:\t7\nSeccomp_filters:\t3\nSeccomp:\t0\nSigCgt:\t00000000000000ff\n";
        let fields = Fields::from(text.to_owned());
        assert_eq!(fields.get("Seccomp"), Some("0"));
        assert_eq!(fields.number::<u32>("Tgid"), Some(7));
        assert_eq!(fields.mask("SigCgt"), Some(0xff));
        assert_eq!(fields.get("Sig"), None);
        assert_eq!(fields.number::<u32>("Name"), None);
    }

    #[test]
    fn the_kernel_writes_them_so() {
        let own = status("self").unwrap();
        assert_eq!(own.number("Pid"), Some(std::process::id()));
        assert!(own.mask("CapBnd").is_some());
    }
}
