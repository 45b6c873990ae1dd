//! `vhashify`: see `vhashify --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vhashify::cli::vhashify()
}
