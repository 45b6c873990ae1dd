//! The disk with what a machine runs.
//!
//! ```text
//! /programs/vhashify, vserver   as built for these tests
//! /programs/runner              this test program
//! /programs/torture             the other one, where the list asks for it
//! /programs/init                tests/vm/init.sh
//! /programs/items/000, …        the arguments of each item of the list, each ended by a NUL
//! ```

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use vhashify_testkit::built;
use vhashify_testkit::filesystem::command;

use super::item::Item;

/// The name of the other test program.
pub const TORTURE: &str = "torture";

/// Makes `image` with a list. `folder` is for the moment.
pub fn disk(image: &Path, folder: &Path, items: &[Item]) {
    fs::create_dir(folder).unwrap();
    let runner = std::env::current_exe().unwrap();
    let mut size = 0;
    for (program, name) in [
        (built::vhashify(), "vhashify"),
        (built::vserver(), "vserver"),
        (&runner, "runner"),
    ] {
        size += put(program, &folder.join(name));
    }
    if items.iter().any(|item| item.name == TORTURE) {
        size += put(&torture(), &folder.join(TORTURE));
    }
    fs::create_dir(folder.join("items")).unwrap();
    for (number, item) in items.iter().enumerate() {
        let mut arguments = Vec::new();
        for argument in &item.command {
            arguments.extend(argument.as_bytes());
            arguments.push(0);
        }
        fs::write(folder.join(format!("items/{number:03}")), arguments).unwrap();
    }
    let init = folder.join("init");
    fs::write(&init, include_bytes!("init.sh")).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let blocks = size / 1024 + size / 16384 + 8192;
    command(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
            .args([folder, image])
            .arg(format!("{blocks}k")),
    );
    fs::remove_dir_all(folder).unwrap();
}

fn put(program: &Path, to: &Path) -> u64 {
    fs::hard_link(program, to)
        .or_else(|_| fs::copy(program, to).map(drop))
        .unwrap();
    fs::metadata(to).unwrap().len()
}

/// Where Cargo has built, or now builds, the other test program with the features of this one.
fn torture() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(built::repository())
        .args(["test", "--locked", "--no-run", "--message-format=json"])
        .args(["--features", "fault-injection", "--test", TORTURE]);
    let messages = command(&mut cargo);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == TORTURE)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("Cargo names the program")
}
