//! Where the programs are that Cargo built, and where a test may write.
//!
//! A test program stands in `target/PROFILE/deps`; from there everything else is found. Cargo tells only
//! the tests of a program's own package where it is, so here nobody is told. The environment overrules:
//!
//! | what | without more | overruled by |
//! | --- | --- | --- |
//! | [`vhashify`] | `target/PROFILE/vhashify` | `VHASHIFY` |
//! | [`vserver`] | `target/PROFILE/vserver` | `VSERVER` |
//! | [`scratch`] | `target/tmp` | `VHASHIFY_TEST_SCRATCH` |
//! | [`repository`] | where this was compiled | |

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

/// Names `vhashify` where it does not stand beside the tests.
pub const VHASHIFY: &str = "VHASHIFY";

/// Names `vserver` where it does not stand beside the tests.
pub const VSERVER: &str = "VSERVER";

/// Names another directory than `target/tmp`.
pub const SCRATCH: &str = "VHASHIFY_TEST_SCRATCH";

/// The built `vhashify`. Panics where there is none.
pub fn vhashify() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| program("vhashify", VHASHIFY))
}

/// The built `vserver`. Panics where there is none.
pub fn vserver() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| program("vserver", VSERVER))
}

/// A directory for filesystems, guests and pictures: of all tests, so that each makes a name of its own.
pub fn scratch() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = env::var_os(SCRATCH).map_or_else(|| target().join("tmp"), PathBuf::from);
        fs::create_dir_all(&place).unwrap();
        place
    })
}

/// Cargo's target directory: the one that holds `PROFILE/deps` with the running test.
pub fn target() -> &'static Path {
    profile()
        .parent()
        .expect("PROFILE stands in a target directory")
}

/// Where `fixtures` and `tests` are.
pub fn repository() -> &'static Path {
    let this = Path::new(env!("CARGO_MANIFEST_DIR"));
    this.ancestors().nth(2).unwrap()
}

/// Where the faults of a program are described.
pub const FAULTS: &str = "VHASHIFY_FAULT";

/// Panics unless the built `vhashify` does what [`FAULTS`] says: a test of a fault that
/// never happens would pass.
pub fn assert_faults_happen() {
    static HAPPEN: OnceLock<()> = OnceLock::new();
    HAPPEN.get_or_init(|| {
        let place = tempfile::tempdir_in(scratch()).unwrap();
        let collect = Command::new(vhashify())
            .env_remove("VSERVER_CONFDIR")
            .env(FAULTS, "no fault at all")
            .args(["gc", "--destination"])
            .arg(place.path())
            .arg("--state-dir")
            .arg(place.path().join("state"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            !collect.status.success(),
            "{} was built without faults: `make test` builds it (cargo build --features fault-injection)",
            vhashify().display()
        );
    });
}

fn program(name: &str, variable: &str) -> PathBuf {
    let program = env::var_os(variable).map_or_else(|| profile().join(name), PathBuf::from);
    assert!(
        program.is_file(),
        "there is no {}: `make test` builds it (cargo build --features fault-injection), and {variable} \
         names another",
        program.display()
    );
    program
}

fn profile() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let this = env::current_exe().unwrap();
        let directory = this.parent().unwrap();
        // Benches and tests stand in `deps`.
        let is_deps = directory.file_name().is_some_and(|name| name == "deps");
        let profile = if is_deps {
            directory.parent()
        } else {
            Some(directory)
        };
        profile.unwrap().to_path_buf()
    })
}
