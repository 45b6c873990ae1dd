//! Compiles the guard's program for the kernel, with the feature `guard`.
#![allow(clippy::panic, clippy::print_stdout)] // How a build script speaks.

use std::env;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "src/protect/guard/guard.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_GUARD").is_none() {
        return;
    }
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let place = env::var_os("OUT_DIR").unwrap_or_default();
    // v3 has the atomic instructions that return a value; Linux knows it since 5.12. With -g comes
    // the BTF by which the program finds its way in a kernel's structures.
    let result = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror", "-c", SOURCE, "-o"])
        .arg(Path::new(&place).join("guard.bpf.o"))
        .status();
    let clang = clang.display();
    match result {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} cannot compile {SOURCE}: {status}"),
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "the guard is compiled by clang, and there is no `{clang}`: install the Debian package \
             `clang`, or build without the guard (--no-default-features)"
        ),
        Err(error) => panic!("{clang} cannot be run: {error}"),
    }
}
