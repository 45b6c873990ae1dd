//! A configuration tree, guests, and bundles of `runc` with the same roots.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::place::Workplace;
use crate::userland;

/// What is process 1: it says when its first instruction ran, on the clock that all processes of the
/// host share, and stays.
const INIT: &str = r#"
    #include <stdio.h>
    #include <time.h>
    #include <unistd.h>
    int main(int count, char **arguments) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        printf("%ld\n", now.tv_sec * 1000000000L + now.tv_nsec);
        fflush(stdout);
        if (count > 1) pause();
        return 0;
    }
"#;

/// Everything is in one directory; guests that run are stopped when it goes.
pub struct Host {
    place: Workplace,
}

impl Host {
    pub fn new() -> Result<Self> {
        let place = Workplace::new("guests")?;
        for below in ["conf", "vdirs", "bundles"] {
            fs::create_dir(place.path().join(below))?;
        }
        Ok(Self { place })
    }

    pub fn at(&self, below: &str) -> PathBuf {
        self.place.path().join(below)
    }

    /// Makes a guest, and a bundle of the same root. Its init stays unless it is to end at once.
    pub fn guest(&self, name: &str, stays: bool) -> Result<()> {
        let vdir = self.at("vdirs").join(name);
        for below in ["proc", "dev", "sys"] {
            fs::create_dir_all(vdir.join(below))?;
        }
        let source = self.at("init.c");
        let program = self.at("init");
        if !program.exists() {
            fs::write(&source, INIT)?;
            let mut compile = Command::new("cc");
            run(compile
                .args(["-O2", "-static", "-o"])
                .args([&program, &source]))?;
        }
        fs::hard_link(&program, vdir.join("init"))?;
        let arguments: &[&str] = if stays {
            &["/init", "stay"]
        } else {
            &["/init"]
        };
        self.configure(name, arguments)?;
        let bundle = self.at("bundles").join(name);
        fs::create_dir(&bundle)?;
        run(Command::new("runc").arg("spec").current_dir(&bundle))?;
        let config = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
        spec["root"] = json!({ "path": vdir });
        spec["process"]["args"] = json!(arguments);
        spec["process"]["terminal"] = json!(false);
        Ok(fs::write(&config, spec.to_string())?)
    }

    /// Makes a guest that is a copy of a real one, and stays.
    pub fn real_guest(&self, name: &str, userland: &Path) -> Result<()> {
        userland::copy(userland, &self.at("vdirs").join(name))?;
        self.configure(name, &["/bin/sleep", "infinity"])
    }

    fn configure(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let conf = self.at("conf").join(name);
        let init = conf.join("apps/init");
        fs::create_dir_all(&init)?;
        symlink(self.at("vdirs").join(name), conf.join("vdir"))?;
        fs::write(init.join("style"), "plain\n")?;
        fs::write(init.join("killseq"), "KILL 0\n")?;
        Ok(fs::write(
            init.join("cmd.start"),
            arguments.join("\n") + "\n",
        )?)
    }

    /// Has guests share what they have alike, now.
    pub fn unify(&self, names: &[&str]) -> Result<()> {
        let store = self.at("vdirs/.hash");
        fs::create_dir_all(&store)?;
        let mut vhashify = Command::new(env!("CARGO_BIN_EXE_vhashify"));
        vhashify.args(["--protect", "none", "--manually", "--destination"]);
        vhashify.arg(store).arg("--state-dir").arg(self.at("index"));
        let vdirs = names.iter().map(|name| self.at("vdirs").join(name));
        run(vhashify.args(vdirs)).map(drop)
    }

    /// `vserver … ARGUMENTS`.
    pub fn vserver(&self, arguments: &[&str]) -> Command {
        let mut vserver =
            Command::new(Path::new(env!("CARGO_BIN_EXE_vhashify")).with_file_name("vserver"));
        if arguments.first() != Some(&"start-vservers")
            && arguments.first() != Some(&"stop-vservers")
        {
            vserver.arg("--silent");
        }
        let (name, rest) = arguments.split_at(1);
        let is_many = name[0].ends_with("-vservers");
        let directories = [
            ("--config-dir".as_ref(), self.at("conf")),
            ("--state-dir".as_ref(), self.at("state")),
        ];
        if is_many {
            vserver.arg(name[0]);
        }
        for (option, directory) in directories {
            let option: &Path = option;
            vserver.arg(option).arg(directory);
        }
        if !is_many {
            vserver.arg(name[0]);
        }
        vserver.args(rest).stdin(Stdio::null());
        vserver
    }

    /// `runc … ARGUMENTS`, with the bundle of a guest.
    pub fn runc(&self, command: &str, options: &[&str], name: &str) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.at("runc")).arg(command);
        runc.args(options).arg(format!("vhashify-bench-{name}"));
        if command == "run" {
            runc.current_dir(self.at("bundles").join(name));
        }
        runc.stdin(Stdio::null());
        runc
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let state = self.at("state");
        for guest in fs::read_dir(&state).into_iter().flatten().flatten() {
            let name = guest.file_name().to_string_lossy().into_owned();
            if guest.path().join("guest.json").exists() {
                drop(self.vserver(&[&name, "stop"]).status());
            }
        }
    }
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
