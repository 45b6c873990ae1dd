//! Runs unify without a pause what a guest writes to without a pause.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use vhashify_testkit::program::{output, vhashify};

use super::guests::{assert_untouched, date_all, host_of, start, unify};

/// Makes the files that are written to, each third with a second name.
fn make_files(place: &Path) {
    fs::create_dir_all(place).unwrap();
    for number in 0..30 {
        fs::write(
            place.join(format!("f{number}")),
            format!("{number}\n").repeat(3000),
        )
        .unwrap();
        if number % 3 == 0 {
            fs::hard_link(
                place.join(format!("f{number}")),
                place.join(format!("l{number}")),
            )
            .unwrap();
        }
    }
    date_all(place);
}

/// Writes to the files by any of their names and puts them back as they were, and looks each time whether the other
/// name shows it. Says how often it did, and how often it met a shared file.
const WRITER: &str = r#"
    my $until = time + 120; my ($writes, $shared) = (0, 0); chdir "/usr/local/w";
    while (time < $until and not -e "../enough") { for my $n (0..29) {
        my $name = $n % 3 == 0 && rand() < 0.5 ? "l$n" : "f$n";
        my $seen = $n % 3 == 0 && rand() < 0.5 ? "l$n" : "f$n";
        my $was = "$n\n" x 3000; my $new = "w" . $was; substr($new, rand(3000), 1) = "x";
        $shared++ if (stat $name)[3] > 2;
        open(F, "+<", $name) or die "$name: $!"; print F $new; close F or die;
        open(F, "<", $seen); local $/; my $read = <F>; close F;
        $read eq $new or die "$name was lost in $seen";
        open(F, ">", $name) or die "$name: $!"; print F $was; close F or die;
        utime(1577833200, 1577833200, $name) or die;
        open(F, "<", $seen); $read = <F>; close F;
        $read eq $was or die "$name was not led back in $seen"; $writes++;
    } }
    print "$writes $shared\n";"#;

#[test]
fn inv5_no_write_is_lost_while_runs_unify_at_full_speed() {
    let host = host_of(&["web", "mail"]);
    for name in ["web", "mail"] {
        make_files(&host.vdir(name).join("usr/local/w"));
    }
    let mail = start(&host);
    host.ok(&["web", "exec", "true"]);
    let mut writer = host.vserver(&["web", "exec", "perl", "-e", WRITER]);
    let mut writer = writer
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut runs, begun) = (0, Instant::now());
    while writer.try_wait().unwrap().is_none() {
        // On a busy host a few runs take longer.
        if runs > 3 && begun.elapsed() > Duration::from_secs(8) {
            fs::write(host.vdir("web").join("usr/local/enough"), "").unwrap();
        }
        let mut run = vhashify();
        run.args(["--all", "--protect", "none", "--config-dir"])
            .arg(host.at("conf"))
            .arg("--state-dir")
            .arg(host.at("index"));
        drop(output(&mut run));
        runs += 1;
    }
    let said = writer.wait_with_output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(said.status.success(), "after {runs} runs: {err}");
    let numbers: Vec<u64> = out
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    assert!(
        runs > 3 && numbers[1] > 20,
        "{runs} runs, writes and breaks: {out}"
    );
    assert_untouched(&host, &mail, "full speed");
    unify(&host);
    assert_untouched(&host, &mail, "a run afterwards");
}
