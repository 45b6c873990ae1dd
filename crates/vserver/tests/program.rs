//! The program as it is built: what it says without a guest, and how it exits.
//!
//! Whatever starts guests needs root and stands in the workspace's `tests/`.

#![allow(clippy::expect_used)] // clippy.toml allows it in tests, but not in their helpers

use std::process::{Command, Output};

fn vserver(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vserver"));
    command.args(arguments).env("COLUMNS", "80");
    command.output().expect("the program was built")
}

#[test]
fn help_fits_a_terminal_of_80_columns() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["vlimit", "--help"],
        &["vsched", "--help"],
        &["vattribute", "--help"],
        &["vserver-stat", "--help"],
        &["broker", "--help"],
    ] {
        let output = vserver(arguments);
        assert!(output.status.success(), "{arguments:?}");
        let text = String::from_utf8(output.stdout).expect("help is UTF-8");
        assert!(text.contains("Usage: "), "{arguments:?}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{arguments:?}: {line}");
        }
    }
}

#[test]
fn words_that_mean_nothing_exit_with_2_and_do_nothing() {
    for arguments in [
        &[][..],
        &["web"],
        &["web", "fly"],
        &["vlimit", "--fly"],
        &["--config-dir"],
    ] {
        let output = vserver(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
