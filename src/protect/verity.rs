//! `--protect verity`: guests share inodes, of which fs-verity protects only the content.
//!
//! The kernel refuses even root to open such a file for writing, and cannot take fs-verity off an inode again. Metadata
//! is not protected: if a guest changes mode, owner, times or attributes of a shared file, or locks it, all guests see
//! that. So `auto` never chooses this mode. It is for hosts without a guard whose guests are trusted with metadata.
//!
//! Because fs-verity stays for ever, an object is always a copy, and the run replaces the first guest's file like any
//! other's. So no guest keeps a read-only file that it shares with nobody. A run in this mode leaves objects of other
//! modes as they are and does not use them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use vhashify_sys::stamp::{Stamp, set_mtime};
use vhashify_sys::verity::{BLOCK, DIGEST, SHA256, enable, measure};
use vhashify_sys::{flags, resolve, tmpfile};

use super::{Missing, Protection, TurnsBack};

/// A filesystem that took fs-verity when [`Verity::probe`] tried it.
#[derive(Debug, Clone, Copy)]
pub struct Verity(());

impl Verity {
    /// Tests it with a nameless file on the filesystem of `store`.
    ///
    /// # Errors
    /// What is missing.
    pub fn probe(store: &Path) -> Result<Self, Missing> {
        let missing = |errno| match errno {
            Errno::OPNOTSUPP | Errno::NOTTY => Missing::NoVerity,
            errno => Missing::VerityUntried(errno),
        };
        let directory = resolve::open_host_directory(store).map_err(missing)?;
        let writable = tmpfile::create(directory.as_fd()).map_err(missing)?;
        rustix::io::write(&writable, b"tried").map_err(missing)?;
        let readable = tmpfile::open_again(&writable, OFlags::RDONLY).map_err(missing)?;
        drop(writable);
        enable(readable.as_fd()).map_err(missing)?;
        Ok(Self(()))
    }
}

impl TurnsBack for Verity {}

impl Protection for Verity {
    fn is_enforced(&self) -> bool {
        // Only the content is protected.
        false
    }

    fn wants_copies(&self) -> bool {
        true
    }

    /// Restores the mtime, which ext4 changes (`ext4_begin_enable_verity` in `fs/ext4/verity.c` truncates).
    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let before = Stamp::of(object)?;
        match enable(object) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        set_mtime(object, before.mtime.into())?;
        flags::mark(object)
    }

    fn holds(&self, object: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        Ok(measure(object)?.is_some())
    }

    fn release(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        flags::unmark(object)
    }
}

/// Whether the file's fs-verity digest matches its bytes; true if fs-verity is not enabled.
///
/// The kernel checks pages against the Merkle tree when it reads them from the disk. This computes the digest anew from
/// the bytes, and so checks the tree itself.
///
/// # Errors
/// The file cannot be read.
pub fn holds_its_bytes(file: BorrowedFd<'_>, size: u64) -> io::Result<bool> {
    match measure(file)? {
        None => Ok(true),
        Some(held) => Ok(held == digest(&File::from(file.try_clone_to_owned()?), size)?),
    }
}

/// The digest that `FS_IOC_MEASURE_VERITY` returns for a file with these bytes: SHA-256 of the descriptor
/// (`fsverity_descriptor` in `fs/verity/fsverity_private.h`), which holds the root of the tree.
fn digest(file: &File, size: u64) -> io::Result<[u8; DIGEST]> {
    let mut descriptor = [0; 256];
    descriptor[0] = 1;
    descriptor[1] = SHA256;
    descriptor[2] = BLOCK.ilog2().to_le_bytes()[0];
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..16 + DIGEST].copy_from_slice(&root(file, size)?);
    Ok(Sha256::digest(descriptor).into())
}

/// The root hash of the Merkle tree: a level is the hashes of the blocks below it, and the root is the hash of the level
/// that has one block. For an empty file it is zero.
fn root(file: &File, size: u64) -> io::Result<[u8; DIGEST]> {
    if size == 0 {
        return Ok([0; DIGEST]);
    }
    let mut hashes = Vec::new();
    let mut block = [0; BLOCK];
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).map_or(BLOCK, |left| left.min(BLOCK));
        file.read_exact_at(&mut block[..length], offset)?;
        block[length..].fill(0);
        hashes.extend_from_slice(&Sha256::digest(block));
        offset += length as u64;
    }
    while hashes.len() > DIGEST {
        let blocks = hashes.chunks(BLOCK).flat_map(|chunk| {
            block[..chunk.len()].copy_from_slice(chunk);
            block[chunk.len()..].fill(0);
            <[u8; DIGEST]>::from(Sha256::digest(block))
        });
        hashes = blocks.collect();
    }
    let mut root = [0; DIGEST];
    root.copy_from_slice(&hashes);
    Ok(root)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::digest;

    /// Those that `fsverity digest` of fsverity-utils prints.
    #[test]
    fn a_digest_is_that_of_the_tools() {
        for (size, wanted) in KNOWN {
            let mut file = tempfile::tempfile().unwrap();
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            file.write_all(&bytes).unwrap();
            let found = digest(&file, size as u64).unwrap();
            assert_eq!(blake3::Hash::from(found).to_string(), wanted, "{size}");
        }
    }

    const KNOWN: [(usize, &str); 8] = [
        (
            0,
            "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
        ),
        (
            1,
            "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
        ),
        (
            4095,
            "5f4953aad672b0188023d6cd6fbce9d09508eb7dad165b6298ce0086bc1e72db",
        ),
        (
            4096,
            "13e9b8848ae484a36acb3f3cac0ceb2f7601e96633d15c92f9bd3dd44e492157",
        ),
        (
            4097,
            "b0d074abef4d544404facfab6ba242f6a8ccbde90f1325cd286f3c8aa8d0f8aa",
        ),
        // As many hashes as fill a block, and one more.
        (
            524_288,
            "d82861203d50ae9b60948504a704f35f5118bd229aeb1a22d6dae47b1767c4c4",
        ),
        (
            524_289,
            "4dc6905041c9c4ee73e13b53f63f5d289c46da359b664a965ead7f8cc4d799d4",
        ),
        (
            600_000,
            "06d5be5c1f84f55006b5826aec720b80e5d95f30e170be7e1d6aae61755f1ae4",
        ),
    ];
}
