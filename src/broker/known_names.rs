//! Names of a guest's inodes in little memory: a directory is kept once, as its name and the directory above, however
//! deep it lies and however many names are in it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustix::io::Errno;

use crate::relink::descent::Place;
use crate::relink::names::Name;

/// Bytes that the names of a guest's link groups may take: those of hundreds of thousands.
const MOST_BYTES: usize = 32 << 20;
/// Bytes of the paths of all directories of one inode's names.
const MOST_PATHS: usize = 16 << 20;
/// What a name or a directory costs beside its bytes.
const OVERHEAD: usize = 64;

/// No directory's position.
const NONE: Position = Position::MAX;

/// A directory, by its position.
type Position = u32;

/// A name and its directory.
type Known = (Position, Box<[u8]>);

/// Names of inodes.
#[derive(Debug, Default)]
pub struct KnownNames {
    directories: Vec<Directory>,
    of: HashMap<u64, Vec<Known>>,
    bytes: usize,
    /// The positions of directories, by their numbers in the walk under way.
    numbers: HashMap<u32, Position>,
}

#[derive(Debug)]
struct Directory {
    above: Option<Position>,
    name: Box<[u8]>,
}

impl KnownNames {
    /// Adds a name of `inode` in the directory `place`.
    ///
    /// # Errors
    /// `ENOMEM` where there are too many.
    pub fn add(&mut self, inode: u64, place: &Place<'_>, name: &[u8]) -> Result<(), Errno> {
        let directory = self.position(place);
        self.bytes += name.len() + OVERHEAD;
        self.of
            .entry(inode)
            .or_default()
            .push((directory, name.into()));
        if self.bytes > MOST_BYTES {
            return Err(Errno::NOMEM);
        }
        Ok(())
    }

    /// Forgets what only a walk under way needs, and inodes with a single name.
    pub fn finish(&mut self) {
        self.numbers = HashMap::new();
        self.of.retain(|_, names| names.len() > 1);
    }

    /// The names of an inode, those of one directory in succession.
    ///
    /// # Errors
    /// `ENOMEM` where their paths are too long, all in all.
    pub fn of(&self, inode: u64) -> Result<Option<Vec<Name>>, Errno> {
        let Some(names) = self.of.get(&inode) else {
            return Ok(None);
        };
        let mut found: Vec<Name> = Vec::with_capacity(names.len());
        let (mut bytes, mut last) = (0, None);
        for (position, name) in names {
            let directory = match (last, found.last()) {
                (Some(last), Some(before)) if last == *position => Arc::clone(&before.directory),
                _ => {
                    let path = self.path(*position);
                    bytes += path.len();
                    if bytes > MOST_PATHS {
                        return Err(Errno::NOMEM);
                    }
                    path.into()
                }
            };
            last = Some(*position);
            found.push(Name {
                directory,
                name: name.to_vec(),
            });
        }
        Ok(Some(found))
    }

    /// Writes them for [`read`](Self::read).
    ///
    /// # Errors
    /// Those of `output`.
    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes();
        output.write_all(&count(self.directories.len()))?;
        for directory in &self.directories {
            output.write_all(&directory.above.unwrap_or(NONE).to_ne_bytes())?;
            output.write_all(&count(directory.name.len()))?;
            output.write_all(&directory.name)?;
        }
        output.write_all(&count(self.of.len()))?;
        for (inode, names) in &self.of {
            output.write_all(&inode.to_ne_bytes())?;
            output.write_all(&count(names.len()))?;
            for (directory, name) in names {
                output.write_all(&directory.to_ne_bytes())?;
                output.write_all(&count(name.len()))?;
                output.write_all(name)?;
            }
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) has written.
    ///
    /// # Errors
    /// Those of `input`; `ENOMEM` where it is more than may be kept.
    pub fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut names = Self::default();
        for _ in 0..number(input)? {
            let above = Some(number(input)?).filter(|above| *above != NONE);
            let name = names.bytes(input)?;
            names.directories.push(Directory { above, name });
        }
        for _ in 0..number(input)? {
            let mut inode = [0; 8];
            input.read_exact(&mut inode)?;
            let mut of = Vec::new();
            for _ in 0..number(input)? {
                of.push((number(input)?, names.bytes(input)?));
            }
            names.of.insert(u64::from_ne_bytes(inode), of);
        }
        Ok(names)
    }

    fn bytes(&mut self, input: &mut impl Read) -> io::Result<Box<[u8]>> {
        let length = usize::try_from(number(input)?).unwrap_or(usize::MAX);
        self.bytes = self.bytes.saturating_add(length).saturating_add(OVERHEAD);
        if self.bytes > 2 * MOST_BYTES {
            return Err(Errno::NOMEM.into());
        }
        let mut bytes = vec![0; length];
        input.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }

    fn position(&mut self, place: &Place<'_>) -> Position {
        let mut new = Vec::new();
        let mut above = None;
        for (number, name) in place.upwards() {
            if let Some(known) = self.numbers.get(&number) {
                above = Some(*known);
                break;
            }
            new.push((number, name));
        }
        for (number, name) in new.into_iter().rev() {
            let position = Position::try_from(self.directories.len()).unwrap_or(Position::MAX);
            self.directories.push(Directory {
                above,
                name: name.into(),
            });
            self.bytes += name.len() + OVERHEAD;
            self.numbers.insert(number, position);
            above = Some(position);
        }
        above.unwrap_or_default()
    }

    /// The path below the vdir.
    fn path(&self, position: Position) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.directory(position);
        while let Some(directory) = at {
            // The vdir has none.
            names.extend((!directory.name.is_empty()).then_some(&*directory.name));
            at = directory.above.and_then(|above| self.directory(above));
        }
        names.reverse();
        names.join(b"/".as_slice())
    }

    fn directory(&self, position: Position) -> Option<&Directory> {
        self.directories.get(usize::try_from(position).ok()?)
    }
}

fn number(input: &mut impl Read) -> io::Result<u32> {
    let mut number = [0; 4];
    input.read_exact(&mut number)?;
    Ok(u32::from_ne_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::{Directory, KnownNames};

    #[test]
    fn what_is_written_is_read() {
        let directory = |above, name: &[u8]| Directory {
            above,
            name: name.into(),
        };
        let mut names = KnownNames {
            directories: vec![directory(None, b""), directory(Some(0), b"usr")],
            ..KnownNames::default()
        };
        names
            .of
            .insert(7, vec![(1, (*b"a").into()), (0, (*b"b").into())]);
        let mut written = Vec::new();
        names.write(&mut written).unwrap();
        let read = KnownNames::read(&mut written.as_slice()).unwrap();
        let found = read.of(7).unwrap().unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|name| (&*name.directory, &*name.name))
            .collect();
        assert_eq!(found, [(&b"usr"[..], &b"a"[..]), (b"", b"b")]);
        assert!(read.of(8).unwrap().is_none());
    }
}
