//! Compiles the reaper, a program without a library, by the compiler that compiles the rest.
#![allow(clippy::panic, clippy::print_stdout)] // How a build script speaks.

use std::env;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "reaper/main.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let of_cargo = |name: &str| env::var_os(name).unwrap_or_default();
    let mut compile = Command::new(of_cargo("RUSTC"));
    compile
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "reaper",
            "--crate-type",
            "bin",
        ])
        .arg("--target")
        .arg(of_cargo("TARGET"))
        // Small, at a fixed address, and with nothing that another file would have.
        .args([
            "-Copt-level=s",
            "-Cpanic=abort",
            "-Cdebuginfo=0",
            "-Cstrip=symbols",
        ])
        .args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib"])
        .args([
            "-Clink-arg=-static",
            "-Clink-arg=-no-pie",
            "-Clink-arg=-Wl,--build-id=none",
        ])
        .arg("-o")
        .arg(Path::new(&of_cargo("OUT_DIR")).join("reaper"))
        .arg(SOURCE);
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|name| name == "musl") {
        compile.arg("-Clink-self-contained=no");
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("-Clinker=");
        option.push(linker);
        compile.arg(option);
    }
    match compile.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{SOURCE} cannot be compiled: {status}"),
        Err(error) => panic!("the compiler cannot be run: {error}"),
    }
}
