//! The report of a store as text.

use super::Text;
use crate::outcome::FileError;
use crate::outcome::numbers::{bytes, grouped};
use crate::report::StoreReport;

impl Text for Vec<StoreReport> {
    fn text(&self, _is_verbose: bool) -> String {
        self.iter().map(store_text).collect::<Vec<_>>().join("\n\n")
    }

    fn errors(&self) -> Vec<&FileError> {
        self.iter().flat_map(|report| &report.errors).collect()
    }
}

fn store_text(report: &StoreReport) -> String {
    let store = &report.store;
    let mut lines = vec![
        format!("store {}", store.path),
        format!(
            "{} objects, {}; saves {}",
            grouped(store.objects),
            bytes(store.bytes),
            bytes(store.saved_bytes)
        ),
    ];
    if store.unlinked_objects > 0 {
        lines.push(format!(
            "{} objects that none of these guests uses",
            grouped(store.unlinked_objects)
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<28} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "guest", "files", "alone", "shared", "private", "share"
    ));
    for guest in &report.guests {
        lines.push(format!(
            "{:<28} {:>9} {:>9} {:>9} {:>9} {:>9}",
            shortened(&guest.name, 28),
            grouped(guest.files),
            bytes(guest.bytes),
            bytes(guest.shared_bytes),
            bytes(guest.private_bytes),
            bytes(guest.fair_share_bytes)
        ));
    }
    lines.push(String::new());
    lines.push("alone: without sharing; share: private + its part of what is shared".to_owned());
    lines.extend(page_cache_lines(report));
    lines.extend(unshared_lines(report));
    lines.extend(old_copy_lines(report));
    lines.join("\n")
}

fn page_cache_lines(report: &StoreReport) -> Vec<String> {
    let Some(cache) = report.store.page_cache else {
        let why = report.page_cache_unknown.as_deref().unwrap_or_default();
        return vec![
            String::new(),
            format!("page cache: unknown, this kernel does not tell ({why})"),
        ];
    };
    vec![
        String::new(),
        format!(
            "page cache: {} now, {} of it shared; saves {}",
            bytes(cache.bytes),
            bytes(cache.shared_bytes),
            bytes(cache.saved_bytes)
        ),
        format!(
            "all files read: {} instead of {}",
            bytes(cache.full_bytes),
            bytes(cache.full_unshared_bytes)
        ),
    ]
}

fn unshared_lines(report: &StoreReport) -> Vec<String> {
    let mut lines: Vec<String> = report
        .unshared
        .occurred()
        .map(|(why, count)| {
            format!(
                "{:>12} files, {:>8}: {}",
                grouped(count.files),
                bytes(count.bytes),
                why.name()
            )
        })
        .collect();
    if !lines.is_empty() {
        lines.insert(0, "alike by their metadata and not shared:".to_owned());
        lines.insert(0, String::new());
    }
    lines
}

fn old_copy_lines(report: &StoreReport) -> Vec<String> {
    let old = &report.old_copies;
    if old.processes.is_empty() {
        return Vec::new();
    }
    let memory = old.page_cache_bytes.map_or_else(
        || "memory".to_owned(),
        |count| format!("{} of memory", bytes(count)),
    );
    let mut lines = vec![
        String::new(),
        format!(
            "a restart of these would free {memory} and {} of disk:",
            bytes(old.bytes)
        ),
    ];
    lines.extend(old.processes.iter().map(|process| {
        format!(
            "{:>9} {:<16} {:<28} {:>6} old files",
            process.process,
            shortened(&process.command, 16),
            shortened(&process.guest, 28),
            grouped(process.files.len() as u64)
        )
    }));
    lines
}

/// The end of a long name, which tells more than its beginning when it is a path.
fn shortened(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count - (width - 1)).collect();
    format!("…{end}")
}
