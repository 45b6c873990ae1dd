//! Builds a guest from an OCI image: a layout directory, or a tar archive of one.
//!
//! | file | what it does |
//! | --- | --- |
//! | [`layout`] | finds blobs, and reads each with its size and digest in view |
//! | [`stream`] | what a layer is compressed with |
//! | [`layer`] | puts a layer over what is there, never outside of the guest's root directory |
//!
//! A layer is unpacked while it is read. That its digest is right is known at its end, and a build that
//! fails there leaves nothing of it, so that no byte is used that was not verified.

mod layer;
mod layout;
mod stream;

use std::io::{self, Read};
use std::path::Path;

use layer::Unpack;
use layout::Layout;
use libcontainer::oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, Os};

/// The annotation that names an image within a layout.
const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// How often an index may lead to another one.
const DEEPEST: usize = 4;

/// Unpacks the image at `source` into the directory `vdir`. `reference` tells which one where there
/// are several. `go_on` is asked again and again whether to, and says why not.
///
/// # Errors
/// What is wrong with the image, on one line, or what `go_on` said.
pub fn unpack(
    source: &Path,
    reference: Option<&str>,
    vdir: &Path,
    go_on: &dyn Fn() -> io::Result<()>,
) -> Result<(), String> {
    let layout = Layout::open(source)?;
    let manifest = find_manifest(&layout, reference)?;
    let layers = manifest.layers();
    let mut unpack = Unpack::into(vdir, go_on).map_err(|error| {
        format!(
            "{}: {}",
            vdir.display(),
            vhashify_sys::call_error::reason(&error)
        )
    })?;
    for (number, descriptor) in layers.iter().enumerate() {
        let kind = descriptor.media_type().to_string();
        let failed = |reason: String| {
            format!(
                "layer {} of {} ({}): {reason}",
                number + 1,
                layers.len(),
                descriptor.digest()
            )
        };
        if !kind.contains(".tar") || kind.contains("encrypted") {
            return Err(failed(format!("{kind:?} is no layer that can be unpacked")));
        }
        let mut blob = layout.blob(descriptor).map_err(failed)?;
        let unpacked = stream::decompressed(&mut blob).and_then(|stream| unpack.layer(stream));
        // An archive that makes no sense most often is one that is damaged: say so.
        blob.verify().map_err(failed)?;
        unpacked.map_err(|error| failed(vhashify_sys::call_error::reason(&error)))?;
    }
    unpack.finish().map_err(|error| {
        format!(
            "{}: {}",
            vdir.display(),
            vhashify_sys::call_error::reason(&error)
        )
    })
}

/// The manifest that is meant, through as many indexes as there are.
fn find_manifest(layout: &Layout, reference: Option<&str>) -> Result<ImageManifest, String> {
    let mut text = layout.index()?;
    let mut reference = reference;
    for _ in 0..DEEPEST {
        let index = ImageIndex::from_reader(text.as_slice())
            .map_err(|error| format!("its index makes no sense: {error}"))?;
        let chosen = choose(index.manifests(), reference)?;
        text = layout.text(chosen)?;
        if !is_index(chosen) {
            return ImageManifest::from_reader(text.as_slice()).map_err(|error| {
                format!("the manifest {} makes no sense: {error}", chosen.digest())
            });
        }
        reference = None;
    }
    Err("its indexes lead from one to the next without an end".to_owned())
}

fn is_index(descriptor: &Descriptor) -> bool {
    let kind = descriptor.media_type().to_string();
    kind.contains("image.index") || kind.contains("manifest.list")
}

/// The one that has the name, or else is for this host's processors.
fn choose<'a>(
    manifests: &'a [Descriptor],
    reference: Option<&str>,
) -> Result<&'a Descriptor, String> {
    let name = |of: &Descriptor| of.annotations().as_ref()?.get(REFERENCE).cloned();
    if let Some(reference) = reference {
        let is_meant = |of: &&Descriptor| {
            name(of).as_deref() == Some(reference) || of.digest().as_ref() == reference
        };
        return manifests.iter().find(is_meant).ok_or_else(|| {
            let names: Vec<String> = manifests.iter().filter_map(name).collect();
            format!("it has no {reference:?}, but {}", list(&names))
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
    let names: Vec<String> = manifests.iter().filter_map(name).collect();
    Err(format!(
        "it has {} images; say --ref with the name of one: {}",
        manifests.len(),
        list(&names)
    ))
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "no names".to_owned();
    }
    let shown = names.iter().map(|name| format!("{name:?}"));
    shown.collect::<Vec<_>>().join(", ")
}

/// Reads all of a small text.
fn whole(mut from: impl Read) -> io::Result<Vec<u8>> {
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
        assert_eq!(choose(&two, None), Ok(&two[1]));
        assert_eq!(choose(&two, Some("old")), Ok(&two[0]));
        assert_eq!(choose(&two[..1], None), Ok(&two[0]));
        assert!(
            choose(&two, Some("other"))
                .unwrap_err()
                .contains("\"old\", \"new\"")
        );
        let same = [descriptor(Some("a"), None), descriptor(None, None)];
        assert!(choose(&same, None).unwrap_err().contains("2 images"));
        assert!(choose(&[], None).is_err());
    }
}
