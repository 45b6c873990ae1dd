//! Builds a guest from an OCI image: a layout directory, or a tar archive of one.
//!
//! | file | what it does |
//! | --- | --- |
//! | [`layout`] | finds blobs, and verifies size and digest of each while it is read |
//! | [`stream`] | decompresses a layer |
//! | [`layer`] | unpacks a layer over those before it, never outside of the guest's root directory |
//!
//! A layer is unpacked while it is read, and its digest is known only at its end. A build that fails there removes all
//! its files, so that no unverified byte is ever used.

mod error;
mod layer;
mod layout;
mod stream;

use std::io::{self, Read};
use std::path::Path;

pub use error::ImageError;
use error::LayerError;
use layer::Unpack;
use layout::Layout;
use libcontainer::oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, Os};

/// The annotation that names an image within a layout.
const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// How many indexes may lead to a manifest.
const DEEPEST: usize = 4;

/// Unpacks the image at `source` into the directory `vdir`. `reference` names one of several images. `check_signals` is
/// called again and again, and an error of it stops the work. Says how many device nodes it left out.
///
/// # Errors
/// What is wrong with the image, or the error of `check_signals`.
pub fn unpack(
    source: &Path,
    reference: Option<&str>,
    vdir: &Path,
    check_signals: &dyn Fn() -> io::Result<()>,
) -> Result<usize, ImageError> {
    let failed = |source: io::Error| ImageError::File {
        path: vdir.to_path_buf(),
        source,
    };
    let layout = Layout::open(source)?;
    let manifest = find_manifest(&layout, reference)?;
    let layers = manifest.layers();
    let mut unpack = Unpack::into(vdir, check_signals).map_err(failed)?;
    for (number, descriptor) in layers.iter().enumerate() {
        unpack_layer(&layout, descriptor, &mut unpack).map_err(|source| ImageError::Layer {
            number: number + 1,
            count: layers.len(),
            digest: descriptor.digest().to_string(),
            source,
        })?;
    }
    unpack.finish().map_err(failed)
}

/// Unpacks one layer over those before it.
fn unpack_layer(
    layout: &Layout,
    descriptor: &Descriptor,
    unpack: &mut Unpack<'_>,
) -> Result<(), LayerError> {
    let media_type = descriptor.media_type().to_string();
    if !media_type.contains(".tar") || media_type.contains("encrypted") {
        return Err(LayerError::MediaType { media_type });
    }
    let mut blob = layout.blob(descriptor)?;
    let unpacked = stream::decompressed(&mut blob).and_then(|stream| unpack.layer(stream));
    // An archive that does not parse is most often damaged, so the digest's error comes first.
    blob.verify()?;
    unpacked.map_err(LayerError::Unpack)
}

/// Follows indexes to the manifest of the image.
fn find_manifest(layout: &Layout, reference: Option<&str>) -> Result<ImageManifest, ImageError> {
    let mut text = layout.index()?;
    let mut reference = reference;
    for _ in 0..DEEPEST {
        let index = ImageIndex::from_reader(text.as_slice())
            .map_err(|source| ImageError::Index { source })?;
        let chosen = choose(index.manifests(), reference)?;
        text = layout.text(chosen)?;
        if !is_index(chosen) {
            return ImageManifest::from_reader(text.as_slice()).map_err(|source| {
                let digest = chosen.digest().to_string();
                ImageError::Manifest { digest, source }
            });
        }
        reference = None;
    }
    Err(ImageError::EndlessIndexes)
}

fn is_index(descriptor: &Descriptor) -> bool {
    let kind = descriptor.media_type().to_string();
    kind.contains("image.index") || kind.contains("manifest.list")
}

/// The manifest with the name, or without a name the one for this host's architecture.
fn choose<'a>(
    manifests: &'a [Descriptor],
    reference: Option<&str>,
) -> Result<&'a Descriptor, ImageError> {
    let name = |of: &Descriptor| of.annotations().as_ref()?.get(REFERENCE).cloned();
    if let Some(reference) = reference {
        let is_meant = |of: &&Descriptor| {
            name(of).as_deref() == Some(reference) || of.digest().as_ref() == reference
        };
        return manifests
            .iter()
            .find(is_meant)
            .ok_or_else(|| ImageError::NoReference {
                reference: reference.to_owned(),
                names: manifests.iter().filter_map(name).collect(),
            });
    }
    if let [only] = manifests {
        return Ok(only);
    }
    let is_for_us = |of: &&Descriptor| {
        let platform = of.platform().as_ref();
        platform.is_some_and(|platform| {
            *platform.os() == Os::Linux && *platform.architecture() == Arch::default()
        })
    };
    let ours: Vec<&Descriptor> = manifests.iter().filter(is_for_us).collect();
    if let [only] = ours.as_slice() {
        return Ok(only);
    }
    Err(ImageError::Ambiguous {
        count: manifests.len(),
        names: manifests.iter().filter_map(name).collect(),
    })
}

fn read_all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, choose};

    fn descriptor(name: Option<&str>, architecture: Option<&str>) -> Descriptor {
        let mut text = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", "0".repeat(64)),
            "size": 1,
        });
        if let Some(name) = name {
            text["annotations"] = serde_json::json!({ super::REFERENCE: name });
        }
        if let Some(architecture) = architecture {
            text["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        }
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn an_image_is_chosen_by_name_or_by_what_runs_here() {
        let here = super::Arch::default().to_string();
        let two = [
            descriptor(Some("old"), Some("s390x")),
            descriptor(Some("new"), Some(&here)),
        ];
        assert_eq!(choose(&two, None).unwrap(), &two[1]);
        assert_eq!(choose(&two, Some("old")).unwrap(), &two[0]);
        assert_eq!(choose(&two[..1], None).unwrap(), &two[0]);
        let refused = |of: &[Descriptor], reference| choose(of, reference).unwrap_err().to_string();
        assert!(refused(&two, Some("other")).contains("\"old\", \"new\""));
        let same = [descriptor(Some("a"), None), descriptor(None, None)];
        assert!(refused(&same, None).contains("2 images"));
        assert!(choose(&[], None).is_err());
    }
}
