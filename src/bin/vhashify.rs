//! `vhashify`: see `vhashify --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vhashify::cli::vhashify()
}
