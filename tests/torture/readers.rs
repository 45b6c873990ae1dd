//! No path is missing for an instant, or reads anything but its bytes, while names are replaced.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vhashify_testkit::moments::equal_guests;
use vhashify_testkit::snapshot::paths;

use crate::attack::{Attack, Ends, Field, scaled};

pub const ATTACK: Attack = Attack {
    name: "inv1_inv6_readers",
    invariants: &[1, 6],
    run,
};

fn run(field: &mut Field<'_>) {
    let host = field.host(2);
    equal_guests(&host, scaled(60));
    let paths: Vec<(PathBuf, Vec<u8>)> = host
        .guests
        .iter()
        .flat_map(|guest| paths(guest))
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    let is_over = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let _ends = Ends(&is_over);
        let watcher = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for (path, content) in &paths {
                    let found = fs::read(path)
                        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    assert_eq!(&found, content, "{}", path.display());
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        while field.goes_on() && !watcher.is_finished() {
            host.run(&[]);
            host.deunify(0, &[]);
            host.deunify(1, &["d1", "d2"]);
            field.tried("runs", 3);
        }
    });
    field.tried("reads", looks.into_inner());
}
