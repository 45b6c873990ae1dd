//! What this program does when it calls itself: the least that any tool has to do for the same end.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rayon::iter::{IntoParallelRefIterator as _, ParallelBridge as _, ParallelIterator as _};
use walkdir::WalkDir;

/// Does what the arguments say, if they are such a call.
pub fn answer(arguments: &[String]) -> Option<Result<()>> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let work: Box<dyn Fn() -> Result<()> + Send + Sync> = match arguments[..] {
        ["--read-and-hash", guests] => {
            let guests = PathBuf::from(guests);
            Box::new(move || hash_all(&guests).map(drop))
        }
        ["--read-and-link", guests] => {
            let guests = PathBuf::from(guests);
            Box::new(move || link_all(&guests))
        }
        ["--link-to-store", store, guest] => {
            let (store, guest) = (PathBuf::from(store), PathBuf::from(guest));
            Box::new(move || link_to_store(&store, &guest))
        }
        _ => return None,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    Some(pool.map_err(Into::into).and_then(|pool| pool.install(work)))
}

struct Hashed {
    path: PathBuf,
    inode: u64,
    digest: [u8; 32],
    /// What files of one inode have in common, whatever they contain.
    metadata: (u32, u32, u32, i64, i64),
}

/// Reads and hashes every file.
fn hash_all(below: &Path) -> Result<Vec<Hashed>> {
    WalkDir::new(below)
        .into_iter()
        .par_bridge()
        .map_init(
            || vec![0; 256 << 10],
            |buffer, entry| {
                let entry = entry?;
                if !entry.file_type().is_file() {
                    return Ok(None);
                }
                let mut file = File::open(entry.path())?;
                let mut hasher = blake3::Hasher::new();
                loop {
                    let count = file.read(buffer)?;
                    hasher.update(&buffer[..count]);
                    // One read of a small file finds its end, too.
                    if count < buffer.len() {
                        break;
                    }
                }
                let looked = file.metadata()?;
                Ok(Some(Hashed {
                    inode: looked.ino(),
                    digest: hasher.finalize().into(),
                    metadata: (
                        looked.mode(),
                        looked.uid(),
                        looked.gid(),
                        looked.mtime(),
                        looked.mtime_nsec(),
                    ),
                    path: entry.into_path(),
                }))
            },
        )
        .filter_map(Result::transpose)
        .collect()
}

/// Makes files of the same content and metadata links of one another, by a link and a rename for
/// each, and without any care: no lease, no second look, no index.
fn link_all(guests: &Path) -> Result<()> {
    let mut groups: HashMap<_, Vec<Hashed>> = HashMap::new();
    for file in hash_all(guests)? {
        let key = (file.digest, file.metadata);
        groups.entry(key).or_default().push(file);
    }
    let groups: Vec<Vec<Hashed>> = groups.into_values().collect();
    groups.par_iter().try_for_each(|group| {
        let (first, rest) = group.split_first().context("no group is empty")?;
        let mut others = rest.iter().filter(|file| file.inode != first.inode);
        others.try_for_each(|file| replace(&first.path, &file.path))
    })
}

/// Links the files of a guest to the objects of a store, whose names begin with their digest.
fn link_to_store(store: &Path, guest: &Path) -> Result<()> {
    let mut objects = HashMap::new();
    for entry in WalkDir::new(store) {
        let entry = entry?;
        if let Some((digest, _)) = entry.file_name().to_string_lossy().split_once('-') {
            objects.insert(digest.to_owned(), entry.into_path());
        }
    }
    hash_all(guest)?.par_iter().try_for_each(|file| {
        let digest = blake3::Hash::from(file.digest).to_hex();
        match objects.get(digest.as_str()) {
            Some(object) => replace(object, &file.path),
            None => Ok(()),
        }
    })
}

fn replace(by: &Path, path: &Path) -> Result<()> {
    // Beside the extension, not in its place: two threads replace `a.so` and `a.h` at once.
    let temporary = path.with_added_extension("bench-temporary");
    fs::hard_link(by, &temporary)?;
    fs::rename(&temporary, path)?;
    Ok(())
}

/// Forgets what is in the page cache, so that the next command reads from the disk.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    let mut switch = File::options()
        .write(true)
        .open("/proc/sys/vm/drop_caches")?;
    switch.rewind()?;
    if std::io::Write::write(&mut switch, b"3")? != 1 {
        bail!("/proc/sys/vm/drop_caches");
    }
    Ok(())
}
