//! Starting: one guest, many at once, and what stays in memory of each.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::{Host, run};
use crate::{say, show};

/// Now, on the clock that init reads.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// What init said.
fn first_instruction(text: &str) -> Result<Duration> {
    let last = text.lines().last().context("init said nothing")?;
    Ok(Duration::from_nanos(last.trim().parse()?))
}

/// From the command to init's first instruction.
pub fn one(rounds: usize) -> Result<()> {
    let host = Host::new()?;
    host.guest("one", false)?;
    let console = host.at("state/one/console.log");
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = now();
        run(&mut host.vserver(&["one", "start"]))?;
        let ended = || !host.at("state/one/guest.json").exists();
        while !ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        own.push(first_instruction(&fs::read_to_string(&console)?)?.saturating_sub(begun));
        let begun = now();
        let said = run(&mut host.runc("run", &[], "one"))?;
        peer.push(first_instruction(&said)?.saturating_sub(begun));
    }
    let peer = show("runc run: to init's first instruction", &mut peer, None)?;
    show("vserver start: the same", &mut own, Some(peer))?;
    say("    goal: at most 1.0 of it")
}

/// Many at once, eight commands at a time, until the last command has returned; then each one's memory.
pub fn many(count: usize) -> Result<()> {
    let host = Host::new()?;
    let names: Vec<String> = (0..count).map(|number| format!("guest{number}")).collect();
    for name in &names {
        host.guest(name, true)?;
    }
    let what = format!("{count} guests at once");
    let begun = Instant::now();
    for part in names.chunks(8) {
        let mut children = Vec::new();
        for name in part {
            let mut command = host.runc("run", &["--detach"], name);
            children.push(
                command
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?,
            );
        }
        for mut child in children {
            child.wait()?;
        }
    }
    let peer = show(
        &format!("runc run --detach: {what}"),
        &mut [begun.elapsed()],
        None,
    )?;
    for name in &names {
        drop(host.runc("delete", &["--force"], name).status());
    }
    let begun = Instant::now();
    run(&mut host.vserver(&["start-vservers", "--all"]))?;
    show(
        &format!("vserver start-vservers: {what}"),
        &mut [begun.elapsed()],
        Some(peer),
    )?;
    monitors(&host, &names)?;
    let begun = Instant::now();
    run(&mut host.vserver(&["stop-vservers", "--all"]))?;
    show(
        &format!("vserver stop-vservers: {what}"),
        &mut [begun.elapsed()],
        None,
    )?;
    Ok(())
}

/// What the monitors of guests that run hold in memory.
fn monitors(host: &Host, names: &[String]) -> Result<()> {
    // Each becomes its watching self in a moment.
    std::thread::sleep(Duration::from_secs(1));
    for field in ["Rss:", "Pss:", "Private_Dirty:"] {
        let mut sum = 0;
        for name in names {
            let state = host.at("state").join(name).join("guest.json");
            let state: serde_json::Value = serde_json::from_slice(&fs::read(state)?)?;
            let rollup = format!("/proc/{}/smaps_rollup", state["monitor"]["pid"]);
            let text = fs::read_to_string(rollup)?;
            let line = text.lines().find(|line| line.starts_with(field));
            let size = line.and_then(|line| line.split_whitespace().nth(1));
            sum += size.context("no such field")?.parse::<usize>()?;
        }
        say(&format!(
            "a monitor of {}: {field:<14} {} KiB",
            names.len(),
            sum / names.len()
        ))?;
    }
    say("    goal: at most 2048 KiB that it has alone")
}
