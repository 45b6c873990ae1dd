//! `vserver`: see `vserver --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vhashify::cli::vserver()
}
