//! Names and links of an image lead to nothing outside of the guest.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::super::host::{Host, listing};
use super::image::{DIRECTORY, Entry, FILE, Image, SYMLINK, archive};
use super::{ok, refused};

/// A directory of the host with a file, both of which are to stay what they are.
struct Outside {
    directory: PathBuf,
    before: BTreeMap<PathBuf, (u32, u64, u32, u32)>,
}

impl Outside {
    fn new(host: &Host) -> Self {
        let directory = host.at("outside");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("secret"), "of the host").unwrap();
        let before = listing(&directory);
        Self { directory, before }
    }

    /// Panics unless nothing was written there, nor where the names of the archives lead.
    fn assert_untouched(&self, host: &Host) {
        assert_eq!(listing(&self.directory), self.before);
        let secret = fs::read(self.directory.join("secret")).unwrap();
        assert_eq!(secret, b"of the host");
        assert!(!host.at("vdirs/evil").exists() && !host.at("evil").exists());
    }
}

/// An image of these layers.
fn image(place: &Path, layers: &[&[Entry<'_>]]) -> PathBuf {
    let mut image = Image::new(place);
    for layer in layers {
        image.layer(&archive(layer), "tar");
    }
    image.finish("x");
    image.top
}

#[test]
fn a_name_that_leads_out_of_the_guest_is_refused() {
    let host = Host::new();
    let outside = Outside::new(&host);
    for (number, layers) in [
        &[&[("../evil", FILE, "", "x")][..]][..],
        &[&[("a/../../evil", FILE, "", "x")]],
        &[&[("/../evil", FILE, "", "x")]],
        &[&[("evil", EntryType::Link, "../outside/secret", "")]],
        &[&[("evil", EntryType::Link, "nothing", "")]],
        &[&[("a/.wh..", FILE, "", "")]],
        &[&[("a/x", FILE, "", ""), ("a/.wh...", FILE, "", "")]],
        &[&[(".wh.", FILE, "", "")]],
        &[&[
            ("evil", SYMLINK, "nowhere", ""),
            ("evil/file", FILE, "", "x"),
        ]],
        &[&[("x", EntryType::new(b'Q'), "", "x")]],
    ]
    .iter()
    .enumerate()
    {
        let image = image(&host.at(&format!("image{number}")), layers);
        let line = refused(&host, "web", &image, &[]);
        assert!(line.contains("layer 1 of 1"), "{line}");
    }
    outside.assert_untouched(&host);
}

/// In one layer and across layers.
#[test]
fn a_link_of_an_image_leads_to_what_is_the_guests_own() {
    let host = Host::new();
    let outside = Outside::new(&host);
    let out = outside.directory.to_str().unwrap();
    let up = format!("../../../../../../../../..{out}");
    let secret = format!("{up}/secret");
    for (number, layers) in [
        &[&[
            ("l", SYMLINK, out, ""),
            ("tmp", DIRECTORY, "", ""),
            (&out[1..], DIRECTORY, "", ""),
            ("l/evil", FILE, "", "x"),
        ][..]][..],
        &[
            &[("l", SYMLINK, &up, ""), (&out[1..], DIRECTORY, "", "")],
            &[
                ("l/evil", FILE, "", "x"),
                ("l/.wh.secret", FILE, "", ""),
                ("l/.wh..wh..opq", FILE, "", ""),
            ],
        ],
        &[&[("l", SYMLINK, &secret, "")], &[("l", FILE, "", "x")]],
        &[&[("/abs", FILE, "", "x")]],
        &[&[
            ("l", SYMLINK, &secret, ""),
            ("hard", EntryType::Link, "l", ""),
        ]],
        &[&[
            ("dev/sda", EntryType::Block, "", ""),
            ("null", EntryType::Char, "", ""),
            ("f", EntryType::Fifo, "", ""),
        ]],
    ]
    .iter()
    .enumerate()
    {
        let name = format!("good{number}");
        let image = image(&host.at(&format!("image{number}")), layers);
        ok(&host, &name, &image, &[]);
        for entry in walkdir::WalkDir::new(host.vdir(&name)) {
            let kind = entry.unwrap().file_type();
            assert!(!kind.is_block_device() && !kind.is_char_device());
        }
    }
    assert_eq!(fs::read(host.vdir("good3").join("abs")).unwrap(), b"x");
    assert!(
        host.vdir("good4")
            .join("hard")
            .symlink_metadata()
            .unwrap()
            .is_symlink()
    );
    outside.assert_untouched(&host);
}
