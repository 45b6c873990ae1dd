//! A package manager in a guest that shares its files and has a broker, beside the same in a guest that has all
//! files alone and no broker.
//!
//! Both are copies of one real Debian guest, both run, and they take turns. The package is one of Debian's with
//! two thousand files: what it costs to unpack it is a part of what its users wait for.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::{Host, run};
use crate::{say, show, userland};

/// Its files are in one package for all architectures, which needs no other.
const PACKAGE: &str = "vim-runtime";

/// Where apt looks for an archive before it downloads it.
const ARCHIVES: &str = "var/cache/apt/archives";

/// What has a broker and shares its files with [`TWIN`].
const SHARED: &str = "shared";
const TWIN: &str = "twin";
/// What has its own files, and no broker.
const PRIVATE: &str = "private";

pub fn beside_private(rounds: usize) -> Result<()> {
    let host = Host::new()?;
    let archive = match downloaded(&host) {
        Ok(archive) => archive,
        Err(error) => return say(&format!("{PACKAGE}: apt has none here: {error:#}")),
    };
    let userland = userland::built()?.join("alpha");
    for name in [SHARED, TWIN, PRIVATE] {
        host.real_guest(name, &userland)?;
        let cache = host.at("vdirs").join(name).join(ARCHIVES);
        fs::copy(
            &archive,
            cache.join(archive.file_name().context("no name")?),
        )?;
    }
    let switch = host.at("conf").join(SHARED).join("apps/vunify");
    fs::create_dir_all(&switch)?;
    fs::write(switch.join("broker"), "")?;
    host.unify(&[SHARED, TWIN])?;
    for name in [SHARED, TWIN, PRIVATE] {
        run(&mut host.vserver(&[name, "start"]))?;
    }
    for (what, manager) in MANAGERS {
        // The first time, apt makes caches of its own.
        for name in [SHARED, TWIN, PRIVATE] {
            install(&host, name, manager)?;
        }
        beside(&host, &format!("{what}, new"), manager, rounds, &|name| {
            run(&mut host.vserver(&[name, "exec", "dpkg", "--purge", PACKAGE])).map(drop)
        })?;
        let shared = format!("{what}, over shared files");
        beside(&host, &shared, manager, rounds, &|name| match name {
            SHARED => host.unify(&[SHARED, TWIN]),
            _ => Ok(()),
        })?;
    }
    say("    goal: at most 1.10 of it, with apt-get")
}

/// What installs the package, also where it is installed already.
const MANAGERS: [(&str, &[&str]); 2] = [
    (
        "apt-get install",
        &[
            "apt-get",
            "install",
            "--no-install-recommends",
            "--reinstall",
            "--yes",
            PACKAGE,
        ],
    ),
    (
        "dpkg --install",
        &["sh", "-c", "dpkg --install /var/cache/apt/archives/*.deb"],
    ),
];

/// Measures one manager in both guests in turns, each made ready before.
fn beside(
    host: &Host,
    what: &str,
    manager: &[&str],
    rounds: usize,
    make_ready: &dyn Fn(&str) -> Result<()>,
) -> Result<()> {
    let (mut private, mut shared) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (name, times) in [(PRIVATE, &mut private), (SHARED, &mut shared)] {
            make_ready(name)?;
            // Neither waits for what the other, or what came before, left to be written.
            rustix::fs::sync();
            times.push(install(host, name, manager)?);
        }
    }
    let peer = show(&format!("{what}: its own files"), &mut private, None)?;
    show(
        &format!("{what}: shares its files"),
        &mut shared,
        Some(peer),
    )
    .map(drop)
}

fn install(host: &Host, name: &str, manager: &[&str]) -> Result<Duration> {
    let environment = [name, "exec", "env", "DEBIAN_FRONTEND=noninteractive"];
    let mut command = host.vserver(&[&environment, manager].concat());
    let begun = Instant::now();
    run(&mut command)?;
    Ok(begun.elapsed())
}

/// The archive of the package, for the host's release, which is the guests'.
fn downloaded(host: &Host) -> Result<PathBuf> {
    let place = host.at("archive");
    fs::create_dir(&place)?;
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "APT::Sandbox::User=root", "download", PACKAGE]);
    run(apt.current_dir(&place))?;
    let archive = fs::read_dir(&place)?.next().context("no archive")??;
    Ok(archive.path())
}
