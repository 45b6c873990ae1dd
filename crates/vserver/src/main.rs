//! `vserver`: see `vserver --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vserver::cli::vserver()
}
