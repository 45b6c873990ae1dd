//! The disk with what a machine runs.
//!
//! ```text
//! /programs/vhashify    as built for this test
//! /programs/vserver     the same, where the test is that of `vserver`
//! /programs/NAME        the test program of tests/NAME.rs; `test-vserver` is that of tests/vserver
//! /programs/init        tests/vm/init.sh
//! /programs/command     the arguments of the command, each ended by a NUL
//! /programs/paths       the paths that Cargo compiled into the programs, for the shell
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;

use crate::support::filesystem::command;

/// The test that starts guests.
pub const VSERVER: &str = "vserver";

/// Makes `image` with `tests` and a command. `folder` is for the moment.
pub fn disk<S: AsRef<OsStr>>(image: &Path, folder: &Path, tests: &[&str], arguments: &[S]) {
    fs::create_dir(folder).unwrap();
    let mut size = put(
        Path::new(env!("CARGO_BIN_EXE_vhashify")),
        &folder.join("vhashify"),
    );
    if tests.contains(&VSERVER) {
        size += put(
            Path::new(crate::support::program::vserver_path()),
            &folder.join("vserver"),
        );
    }
    for test in tests {
        size += put(&test_program(test), &folder.join(in_folder(test)));
    }
    let mut command_line = Vec::new();
    for argument in arguments {
        command_line.extend(argument.as_ref().as_bytes());
        command_line.push(0);
    }
    fs::write(folder.join("command"), command_line).unwrap();
    fs::write(folder.join("paths"), paths()).unwrap();
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

/// A test program that has the name of a program is told from it.
pub fn in_folder(test: &str) -> String {
    match test {
        VSERVER => "test-vserver".to_owned(),
        other => other.to_owned(),
    }
}

fn put(program: &Path, to: &Path) -> u64 {
    fs::hard_link(program, to)
        .or_else(|_| fs::copy(program, to).map(drop))
        .unwrap();
    fs::metadata(to).unwrap().len()
}

fn paths() -> String {
    let quoted = |path: &str| format!("'{}'", path.replace('\'', r"'\''"));
    format!(
        "CARGO_TARGET_TMPDIR={}\nPROGRAM={}\n",
        quoted(env!("CARGO_TARGET_TMPDIR")),
        quoted(env!("CARGO_BIN_EXE_vhashify"))
    )
}

/// Builds the test program of `tests/NAME.rs`, with the features of this one.
fn test_program(name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap();
    built
        .entry(name.to_owned())
        .or_insert_with(|| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .args(["test", "--locked", "--no-run", "--message-format=json"])
                .args(["--test", name]);
            if cfg!(feature = "fault-injection") {
                cargo.args(["--features", "fault-injection"]);
            }
            let messages = command(&mut cargo);
            messages
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|message| {
                    message["target"]["name"] == name && message["profile"]["test"] == true
                })
                .find_map(|message| message["executable"].as_str().map(PathBuf::from))
                .unwrap_or_else(|| panic!("Cargo named no program of the test {name}"))
        })
        .clone()
}
