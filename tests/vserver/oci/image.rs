//! Image layouts and archives, made byte by byte, since some are such as no honest program would write.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::super::host::sha256;

/// An image layout that is being made.
pub struct Image {
    pub top: PathBuf,
    pub layers: Vec<Value>,
}

impl Image {
    pub fn new(top: &Path) -> Self {
        fs::create_dir_all(top.join("blobs/sha256")).unwrap();
        fs::write(top.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            top: top.to_path_buf(),
            layers: Vec::new(),
        }
    }

    /// Adds a blob, and gives its descriptor.
    pub fn blob(&self, bytes: &[u8], kind: &str) -> Value {
        let digest = sha256(bytes);
        fs::write(self.top.join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    /// Adds a layer, compressed by the program of that name, or plain.
    pub fn layer(&mut self, archive: &[u8], compression: &str) {
        let bytes = match compression {
            "tar" => archive.to_vec(),
            program => filter(program, archive),
        };
        let kind = format!("application/vnd.oci.image.layer.v1.tar+{compression}");
        let kind = kind.trim_end_matches("+tar");
        self.layers.push(self.blob(&bytes, kind));
    }

    /// Writes the manifest and an index that names it.
    pub fn finish(&self, name: &str) -> Value {
        let config = self.blob(b"{}", "application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": self.layers,
        });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let mut descriptor = self.blob(manifest.to_string().as_bytes(), kind);
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        self.index(&[descriptor.clone()]);
        descriptor
    }

    /// Writes an index that names these manifests.
    pub fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.top.join("index.json"), index.to_string()).unwrap();
    }
}

/// What a program that is a filter makes of this.
fn filter(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output.stdout
}

/// One entry of an archive: name, kind, target of a link, content.
pub type Entry<'a> = (&'a str, EntryType, &'a str, &'a str);

/// An archive with exactly these names, which no honest program would write.
pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, target, content) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        if matches!(kind, EntryType::Block | EntryType::Char) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub const FILE: EntryType = EntryType::Regular;
pub const DIRECTORY: EntryType = EntryType::Directory;
pub const SYMLINK: EntryType = EntryType::Symlink;

/// An archive of a tree with all that its inodes carry.
pub fn pack(tree: &Path) -> Vec<u8> {
    let packed = Command::new("tar")
        .args([
            "--format=pax",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "-C",
        ])
        .arg(tree)
        .args(["-c", "."])
        .output()
        .unwrap();
    assert!(packed.status.success());
    packed.stdout
}
