//! `vhashify report`: what guests cost, share and could share.

use std::path::Path;

use serde::Serialize;
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Timestamp;

use crate::cli::args::{Common, Format};
use crate::cli::failure::Failure;
use crate::cli::output::Text as _;
use crate::cli::print::{emit, rendered};
use crate::cli::progress::Bar;
use crate::cli::selection;
use crate::report::page::{Origin, page};
use crate::report::{StoreReport, store_report};
use crate::store::Store;

/// Reports on every store, to standard output or to the file `output`.
pub fn report(common: &Common, output: Option<&Path>, bar: &Bar) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Stores<'a> {
        stores: &'a [StoreReport],
    }
    let seconds = Timestamp::now().seconds;
    let mut reports = Vec::new();
    for selected in selection::for_report(common, bar)? {
        let mut store = Store::open(&selected.store)?;
        let sources = &selected.sources;
        reports.push(store_report(&mut store, sources, &common.state_dir, bar)?);
    }
    bar.clear();
    let printed = match common.format {
        Format::Html => {
            let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = Shown::bytes(host.trim_ascii()).to_string();
            page(
                &reports,
                Origin {
                    host: &host,
                    seconds,
                },
            )
        }
        Format::Json | Format::Text => rendered(common, &reports, &Stores { stores: &reports }),
    };
    Ok(emit(&printed, &reports.errors(), output))
}
