//! dpkg: the status file, stanzas of `Field: value` lines that an empty line ends.
//!
//! ```text
//! Package: adduser
//! Status: install ok installed
//! Conffiles:
//!  /etc/adduser.conf cc3493ecd2d09837ffdcc3e25fdfff18
//!  /etc/old.conf 11a06baf8245fd8d690b99024d228c1f obsolete
//! ```
//!
//! Distroless images have one such file a package in `status.d`, without `Status:`.

use std::path::Path;

use crate::PackageError;
use crate::configuration_files::{ConfigurationFiles, Excessive, MOST_FILES, TOO_MANY};
use crate::root::{DatabaseFile, Root};

pub(crate) fn read(root: &Root<'_>, files: &mut ConfigurationFiles) -> Result<bool, PackageError> {
    let mut exists = false;
    let mut take = |file: DatabaseFile| {
        exists = true;
        parse(&file.bytes, files).map_err(|Excessive(reason)| PackageError::Database {
            path: file.path,
            reason,
        })
    };
    if let Some(file) = root.read(Path::new("var/lib/dpkg/status"))? {
        take(file)?;
    }
    for name in root
        .list(Path::new("var/lib/dpkg/status.d"))?
        .unwrap_or_default()
    {
        // Distroless keeps a package's checksums beside its stanza.
        if name
            .extension()
            .is_none_or(|extension| extension != "md5sums")
            && let Some(file) = root.read(&name)?
        {
            take(file)?;
        }
    }
    Ok(exists)
}

pub(crate) fn parse(text: &[u8], files: &mut ConfigurationFiles) -> Result<(), Excessive> {
    let mut stanza = Stanza::default();
    for line in text.split(|byte| *byte == b'\n') {
        match line {
            [] => std::mem::take(&mut stanza).finish(files)?,
            [b' ' | b'\t', value @ ..] => {
                if stanza.in_conffiles {
                    stanza.conffile(value)?;
                }
            }
            _ => stanza.field(line),
        }
    }
    stanza.finish(files)
}

/// What matters of one package. Fields come in any order, so nothing is decided before its end.
#[derive(Debug, Default)]
struct Stanza<'a> {
    in_conffiles: bool,
    absent: bool,
    conffiles: Vec<&'a [u8]>,
}

impl<'a> Stanza<'a> {
    fn field(&mut self, line: &'a [u8]) {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        self.in_conffiles = name.eq_ignore_ascii_case(b"Conffiles");
        if name.eq_ignore_ascii_case(b"Status") {
            // Wanted, flag, state. A package in state config-files is removed, but its
            // configuration is still there; only not-installed has nothing left.
            let state = value
                .split(u8::is_ascii_whitespace)
                .rfind(|word| !word.is_empty());
            self.absent = state == Some(b"not-installed");
        }
    }

    fn conffile(&mut self, line: &'a [u8]) -> Result<(), Excessive> {
        // A short line takes more memory in the vector than in the file.
        self.conffiles.extend(conffile(line));
        if self.conffiles.len() > MOST_FILES {
            return Err(TOO_MANY);
        }
        Ok(())
    }

    fn finish(self, files: &mut ConfigurationFiles) -> Result<(), Excessive> {
        if self.absent {
            return Ok(());
        }
        self.conffiles
            .into_iter()
            .try_for_each(|path| files.add(&[path]))
    }
}

/// The path in a line `path hash [flag...]`. The path may hold blanks, so it is what is left when
/// the known words are taken off the end. A flagged file is a configuration file all the same.
fn conffile(line: &[u8]) -> Option<&[u8]> {
    let mut rest = line;
    while let [b' ', after @ ..] = rest {
        rest = after;
    }
    rest = without_final_blanks(rest);
    loop {
        let blank = rest.iter().rposition(|byte| *byte == b' ')?;
        let (before, word) = (&rest[..blank], &rest[blank + 1..]);
        rest = without_final_blanks(before);
        // "newconffile" stands where the hash will be once the package is configured.
        if !matches!(word, b"obsolete" | b"remove-on-upgrade") {
            return rest.starts_with(b"/").then_some(rest);
        }
    }
}

fn without_final_blanks(mut line: &[u8]) -> &[u8] {
    while let [before @ .., b' '] = line {
        line = before;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conffile_line_is_read_from_its_end() {
        for (line, path) in [
            ("/etc/a cc3493", Some("/etc/a")),
            ("/etc/a b c cc3493", Some("/etc/a b c")),
            ("/etc/a cc3493 obsolete", Some("/etc/a")),
            ("/etc/a cc3493 obsolete remove-on-upgrade", Some("/etc/a")),
            ("/etc/a newconffile", Some("/etc/a")),
            ("  /etc/a  cc3493 ", Some("/etc/a")),
            // Only a blank divides words: a name may end in anything else.
            ("/etc/a\t cc3493", Some("/etc/a\t")),
            ("/etc/a\x0c cc3493 obsolete", Some("/etc/a\x0c")),
            ("/etc/a", None),
            ("etc/a cc3493", None),
            ("", None),
        ] {
            assert_eq!(conffile(line.as_bytes()), path.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn lines_that_wait_for_the_end_of_their_stanza_are_few() {
        let mut stanza = Stanza::default();
        stanza.conffile(b"").unwrap();
        assert!(stanza.conffiles.is_empty());
        let text = [
            b"Status: purge ok not-installed\nConffiles:\n".as_slice(),
            &b" /a 0\n".repeat(MOST_FILES + 1),
        ]
        .concat();
        assert_eq!(
            parse(&text, &mut ConfigurationFiles::default()),
            Err(TOO_MANY)
        );
    }
}
