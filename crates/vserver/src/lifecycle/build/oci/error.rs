//! What can be wrong with an image. Each message is one line.

use std::io;
use std::path::PathBuf;

use libcontainer::oci_spec::OciSpecError;
use thiserror::Error;
use vhashify_sys::call_error::reason;

/// Why an image cannot be unpacked.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The layout or the vdir.
    #[error("{}: {}", path.display(), reason(source))]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{}: it is no tar archive of an image layout ({}); where it is compressed, decompress it first",
        path.display(),
        reason(source)
    )]
    NotArchive { path: PathBuf, source: io::Error },
    #[error("{}: its oci-layout makes no sense: {source}", path.display())]
    Marker { path: PathBuf, source: OciSpecError },
    #[error("it is no OCI image layout: it has no {name}")]
    NotLayout { name: &'static str },
    /// A file of the layout.
    #[error("{name}: {}", reason(source))]
    Part {
        name: &'static str,
        source: io::Error,
    },
    /// `what` is a file of the layout, or a digest.
    #[error("{what} is larger than 4 MiB")]
    TooLarge { what: String },
    #[error("{digest}: {source}")]
    Blob { digest: String, source: BlobError },
    #[error("layer {number} of {count} ({digest}): {source}")]
    Layer {
        number: usize,
        count: usize,
        digest: String,
        source: LayerError,
    },
    #[error("its index makes no sense: {source}")]
    Index { source: OciSpecError },
    #[error("the manifest {digest} makes no sense: {source}")]
    Manifest {
        digest: String,
        source: OciSpecError,
    },
    #[error("its indexes lead from one to the next without an end")]
    EndlessIndexes,
    #[error("it has no {reference:?}, but {}", list(names))]
    NoReference {
        reference: String,
        names: Vec<String>,
    },
    #[error(
        "it has {count} images; say --ref with the name of one: {}",
        list(names)
    )]
    Ambiguous { count: usize, names: Vec<String> },
}

/// Why a layer cannot be unpacked.
#[derive(Debug, Error)]
pub enum LayerError {
    #[error("{media_type:?} is no layer that can be unpacked")]
    MediaType { media_type: String },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("{}", reason(.0))]
    Unpack(#[source] io::Error),
}

/// Why a blob is not what the image says.
#[derive(Debug, Error)]
pub enum BlobError {
    #[error("digests by {algorithm} are not known here")]
    Algorithm { algorithm: String },
    #[error("the image does not hold it")]
    Missing,
    #[error("{}", reason(.0))]
    Read(#[source] io::Error),
    #[error("it has {found} bytes, not {expected}")]
    Size { found: u64, expected: u64 },
    #[error("its content has the digest {found}: it is damaged, or not what was meant")]
    Digest { found: String },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "no names".to_owned();
    }
    let shown = names.iter().map(|name| format!("{name:?}"));
    shown.collect::<Vec<_>>().join(", ")
}
