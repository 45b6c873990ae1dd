//! rpm's header: an index of tags, and their data. Numbers are big-endian.
//!
//! ```text
//! | entries | data bytes | tag | type | offset | count | ... | data ...          |
//! 0         4            8     12     16       20      24    8 + 16 * entries
//! ```
//!
//! File i has the path `DIRNAMES[DIRINDEXES[i]]` + `BASENAMES[i]` and the flags `FILEFLAGS[i]`. Databases
//! of the last century have whole paths in `OLDFILENAMES` instead.

use super::{Damage, be32, position};
use crate::configuration_files::ConfigurationFiles;

const FILE_FLAGS: u32 = 1037;
const OLD_FILE_NAMES: u32 = 1027;
const DIR_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIR_NAMES: u32 = 1118;

const TYPE_INT32: u32 = 4;
const TYPE_STRING_ARRAY: u32 = 8;

/// Marks a configuration file in `FILEFLAGS`.
const RPMFILE_CONFIG: u32 = 1 << 0;

const ENTRY: usize = 16;
// rpm refuses larger headers, too.
const MOST_ENTRIES: usize = 0xffff;
const MOST_DATA: usize = 0x0fff_ffff;
/// The most directories one package may have; the kernel's sources have some ten thousand.
const MOST_DIRECTORIES: usize = 1_000_000;

const CUT: Damage = Damage::Format("a package header is cut short");
const SHORT_TAG: Damage = Damage::Format("a file list in a package header is cut short");

/// Adds the configuration files that the package header `blob` names.
pub(super) fn parse(blob: &[u8], files: &mut ConfigurationFiles) -> Result<(), Damage> {
    let header = Header::new(blob)?;
    let Some(flags) = header.tag(FILE_FLAGS, TYPE_INT32)? else {
        return Ok(());
    };
    let flags = flags.numbers()?;
    if !flags.clone().any(is_configuration) {
        return Ok(());
    }
    if let Some(names) = header.tag(BASE_NAMES, TYPE_STRING_ARRAY)? {
        let missing = || Damage::Format("a package header names files without directories");
        let directories = header
            .tag(DIR_NAMES, TYPE_STRING_ARRAY)?
            .ok_or_else(missing)?;
        if directories.count > MOST_DIRECTORIES {
            return Err(Damage::Format(
                "a package has more directories than any real one",
            ));
        }
        let directories = directories.strings().collect::<Result<Vec<_>, _>>()?;
        let indexes = header
            .tag(DIR_INDEXES, TYPE_INT32)?
            .ok_or_else(missing)?
            .numbers()?;
        for ((name, index), flags) in names.strings().zip(indexes).zip(flags) {
            let name = name?;
            if is_configuration(flags) {
                let directory = directories.get(position(index)).ok_or_else(missing)?;
                files.add(&[directory, name])?;
            }
        }
    } else if let Some(names) = header.tag(OLD_FILE_NAMES, TYPE_STRING_ARRAY)? {
        for (name, flags) in names.strings().zip(flags) {
            let name = name?;
            if is_configuration(flags) {
                files.add(&[name])?;
            }
        }
    }
    Ok(())
}

fn is_configuration(flags: u32) -> bool {
    flags & RPMFILE_CONFIG != 0
}

struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

/// The values of one tag.
struct Tag<'a> {
    /// All data from its first value on.
    data: &'a [u8],
    /// How many values it claims to have.
    count: usize,
}

impl<'a> Header<'a> {
    fn new(blob: &'a [u8]) -> Result<Self, Damage> {
        let entries = position(be32(blob, 0).ok_or(CUT)?);
        let length = position(be32(blob, 4).ok_or(CUT)?);
        if entries > MOST_ENTRIES || length > MOST_DATA {
            return Err(Damage::Format("a package header is larger than rpm allows"));
        }
        let (index, data) = blob[8..].split_at_checked(ENTRY * entries).ok_or(CUT)?;
        Ok(Self {
            index,
            data: data.get(..length).ok_or(CUT)?,
        })
    }

    fn tag(&self, wanted: u32, kind: u32) -> Result<Option<Tag<'a>>, Damage> {
        let is_wanted = |entry: &&[u8]| be32(entry, 0) == Some(wanted);
        let Some(entry) = self.index.chunks_exact(ENTRY).find(is_wanted) else {
            return Ok(None);
        };
        if be32(entry, 4) != Some(kind) {
            return Err(Damage::Format(
                "a file list in a package header has a wrong type",
            ));
        }
        let offset = position(be32(entry, 8).ok_or(CUT)?);
        let count = position(be32(entry, 12).ok_or(CUT)?);
        let data = self.data.get(offset..).ok_or(SHORT_TAG)?;
        Ok(Some(Tag { data, count }))
    }
}

impl<'a> Tag<'a> {
    fn numbers(&self) -> Result<impl Iterator<Item = u32> + Clone + use<'a>, Damage> {
        let bytes = self
            .count
            .checked_mul(4)
            .and_then(|length| self.data.get(..length));
        let (words, _) = bytes.ok_or(SHORT_TAG)?.as_chunks();
        Ok(words.iter().map(|word| u32::from_be_bytes(*word)))
    }

    /// The NUL-terminated strings. The count may lie, so nothing is allocated by it.
    fn strings(&self) -> impl Iterator<Item = Result<&'a [u8], Damage>> + use<'a> {
        let mut rest = self.data;
        (0..self.count).map(move |_| {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(SHORT_TAG)?;
            let string = &rest[..end];
            rest = &rest[end + 1..];
            Ok(string)
        })
    }
}
