//! Cloning a guest beside copying it with `cp`.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::host::{Host, run};
use crate::{say, show};

/// How many files the guest has, and how large each is: 400 MB in all.
const FILES: usize = 10_000;
const SIZE: usize = 40_000;

/// A guest of generated files, first private, then unified with another.
pub fn beside_cp(rounds: usize) -> Result<()> {
    let host = Host::new()?;
    let store = host.at("vdirs/.hash");
    fs::create_dir(&store)?;
    let hash = host.at("conf/.defaults/apps/vunify/hash");
    fs::create_dir_all(&hash)?;
    symlink(&store, hash.join("root"))?;
    for name in ["web", "mail"] {
        host.guest(name, true)?;
        fs::create_dir(host.at("conf").join(name).join("apps/vunify"))?;
    }
    let web = host.at("vdirs/web");
    for number in 0..FILES {
        let place = web.join(format!("usr/{}", number / 100));
        fs::create_dir_all(&place)?;
        let mut content = vec![b'.'; SIZE];
        content[..8].copy_from_slice(&number.to_le_bytes());
        fs::write(place.join(number.to_string()), content)?;
    }
    fs::remove_dir_all(host.at("vdirs/mail"))?;
    let mail = host.at("vdirs/mail");
    run(Command::new("cp").args(["-a".as_ref(), web.as_path(), mail.as_path()]))?;
    let copy = host.at("vdirs/copy");
    let (copy, rootdir) = (
        copy.as_path(),
        format!("--rootdir={}", host.at("vdirs").display()),
    );
    let clone = [
        "copy", "build", "-m", "clone", &rootdir, "--", "--source", "web",
    ];
    let vserver = || host.vserver(&clone);
    let cp = |reflink: &str| {
        let mut cp = Command::new("cp");
        cp.args(["-a", reflink]).args([web.as_path(), copy]);
        cp
    };
    let measure = |command: &dyn Fn() -> Command| -> Result<Vec<_>> {
        let mut times = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            run(&mut command())?;
            times.push(begun.elapsed());
            fs::remove_dir_all(copy)?;
            drop(fs::remove_dir_all(host.at("conf/copy")));
        }
        Ok(times)
    };
    let mut plain = measure(&|| cp("--reflink=never"))?;
    let plain = show("cp -a, of 400 MB in 10,000 files", &mut plain, None)?;
    if let Ok(mut times) = measure(&|| cp("--reflink=always")) {
        show("cp -a --reflink=always", &mut times, Some(plain))?;
    } else {
        drop(fs::remove_dir_all(copy));
        say("cp -a --reflink=always: this filesystem cannot; name one with VHASHIFY_BENCH_PLACE")?;
    }
    show(
        "clone, nothing unified",
        &mut measure(&vserver)?,
        Some(plain),
    )?;
    let index = host.at("index");
    let mut hashify = host.vserver(&["web", "hashify", "--protect", "none", "mail"]);
    run(hashify.arg("--state-dir").arg(index))?;
    show("clone, all unified", &mut measure(&vserver)?, Some(plain))?;
    say("    goal: well under a second")
}
