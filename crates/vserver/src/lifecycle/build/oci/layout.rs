//! An OCI image layout: `oci-layout`, `index.json`, and blobs under their digests.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::image::{Descriptor, DigestAlgorithm, OciLayout};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::error::{BlobError, ImageError};

/// The longest index or manifest.
const LONGEST_TEXT: u64 = 4 << 20;

/// An open layout.
pub enum Layout {
    Directory(PathBuf),
    /// A tar archive, and offset and length of each file in it.
    Archive(File, HashMap<Vec<u8>, (u64, u64)>),
}

impl Layout {
    /// Opens a layout. Refuses anything that is none.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |source: io::Error| ImageError::File {
            path: path.to_path_buf(),
            source,
        };
        let file = open_plain(path).map_err(failed)?;
        let layout = if file.metadata().map_err(failed)?.is_dir() {
            Self::Directory(path.to_path_buf())
        } else {
            let places = places(&file).map_err(|source| ImageError::NotArchive {
                path: path.to_path_buf(),
                source,
            })?;
            Self::Archive(file, places)
        };
        let text = layout.small("oci-layout")?;
        OciLayout::from_reader(text.as_slice()).map_err(|source| ImageError::Marker {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(layout)
    }

    /// The text of `index.json`, which no digest verifies.
    pub fn index(&self) -> Result<Vec<u8>, ImageError> {
        self.small("index.json")
    }

    /// Reads and verifies a small blob.
    pub fn text(&self, of: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let digest = of.digest().to_string();
        if of.size() > LONGEST_TEXT {
            return Err(ImageError::TooLarge { what: digest });
        }
        let failed = |source: BlobError| ImageError::Blob {
            digest: digest.clone(),
            source,
        };
        let mut blob = self.blob(of).map_err(failed)?;
        let text = super::read_all(&mut blob).map_err(|error| failed(BlobError::Read(error)))?;
        blob.verify().map_err(failed)?;
        Ok(text)
    }

    /// Opens a blob. The caller must [`verify`](Blob::verify) it after reading.
    pub fn blob(&self, of: &Descriptor) -> Result<Blob, BlobError> {
        let algorithm = of.digest().algorithm();
        let hash = Hash::of(algorithm).ok_or_else(|| BlobError::Algorithm {
            algorithm: algorithm.to_string(),
        })?;
        let name = format!("blobs/{}/{}", of.digest().algorithm(), of.digest().digest());
        Ok(Blob {
            source: self.file(&name).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => BlobError::Missing,
                _ => BlobError::Read(error),
            })?,
            hash,
            expected: of.digest().digest().to_owned(),
            size: of.size(),
            read: 0,
        })
    }

    fn small(&self, name: &'static str) -> Result<Vec<u8>, ImageError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ImageError::NotLayout { name },
            _ => ImageError::Part { name, source },
        };
        let text = super::read_all(self.file(name).map_err(failed)?.take(LONGEST_TEXT + 1));
        let text = text.map_err(failed)?;
        if text.len() as u64 > LONGEST_TEXT {
            let what = name.to_owned();
            return Err(ImageError::TooLarge { what });
        }
        Ok(text)
    }

    fn file(&self, name: &str) -> io::Result<Part> {
        match self {
            Self::Directory(top) => {
                let file = open_plain(&top.join(name))?;
                let found = file.metadata()?;
                if !found.is_file() {
                    return Err(io::Error::other("it is not a plain file"));
                }
                let left = found.len();
                Ok(Part { file, at: 0, left })
            }
            Self::Archive(file, places) => {
                let place = places.get(name.as_bytes());
                let (at, left) = *place.ok_or(io::ErrorKind::NotFound)?;
                let file = file.try_clone()?;
                Ok(Part { file, at, left })
            }
        }
    }
}

/// Opens without blocking: a FIFO would block until a writer comes.
fn open_plain(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

fn places(file: &File) -> io::Result<HashMap<Vec<u8>, (u64, u64)>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut archive = tar::Archive::new(file);
    let mut places = HashMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
            places.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(places)
}

/// A part of a file.
struct Part {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A blob that is being read.
pub struct Blob {
    source: Part,
    hash: Hash,
    expected: String,
    size: u64,
    read: u64,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.read += count as u64;
        if self.read > self.size {
            return Err(io::Error::other("it is longer than the image says"));
        }
        Ok(count)
    }
}

impl Blob {
    /// Reads the rest, and compares size and digest.
    pub fn verify(mut self) -> Result<(), BlobError> {
        io::copy(&mut self, &mut io::sink()).map_err(BlobError::Read)?;
        if self.read != self.size {
            return Err(BlobError::Size {
                found: self.read,
                expected: self.size,
            });
        }
        let found = self.hash.finish();
        if found == self.expected {
            Ok(())
        } else {
            Err(BlobError::Digest { found })
        }
    }
}

enum Hash {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hash {
    fn of(algorithm: &DigestAlgorithm) -> Option<Self> {
        match algorithm {
            DigestAlgorithm::Sha256 => Some(Self::Sha256(Sha256::new())),
            DigestAlgorithm::Sha384 => Some(Self::Sha384(Sha384::new())),
            DigestAlgorithm::Sha512 => Some(Self::Sha512(Sha512::new())),
            _ => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        use std::fmt::Write;
        let bytes = match self {
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha384(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        };
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing into a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}
