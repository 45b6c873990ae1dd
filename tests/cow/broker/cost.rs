//! What the broker costs: a measurement, which asserts nothing.

use std::fs::{self, File, OpenOptions};
use std::time::{Duration, Instant};

use vhashify_testkit::filesystem::Kind;
use vhashify_testkit::program::Host;

use super::super::engine::place_in;
use super::in_guest::{alone, in_guest};

#[test]
#[ignore = "a measurement"]
fn how_dear_it_is() {
    alone("cost::how_dear_it_is", &Kind::ALL, |filesystem| {
        let kind = filesystem.kind;
        let host = Host::new(&place_in(filesystem), 2);
        for guest in &host.guests {
            for number in 0..500 {
                let path = guest.join(format!("d{}/f{number}", number % 10));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, format!("{number:10}").repeat(10_240)).unwrap();
                let file = File::open(&path).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(9))
                    .unwrap();
            }
        }
        host.run(&[]);
        fs::write(host.guests[0].join("own"), "own").unwrap();
        let open = |path: &str| {
            let begun = Instant::now();
            drop(OpenOptions::new().append(true).open(path).unwrap());
            begun.elapsed()
        };
        let of_own = |path: &str| (0..5000).map(|_| open(path)).sum::<Duration>() / 5000;
        let alone = of_own(host.guests[0].join("own").to_str().unwrap());
        let (brokered, read, mut breaks) = in_guest(&host, || {
            let brokered = of_own("/own");
            let begun = Instant::now();
            (0..5000).for_each(|_| drop(File::open("/own").unwrap()));
            let read = begun.elapsed() / 5000;
            // The first one walks the guest.
            open("/d0/f0");
            let breaks: Vec<Duration> = (1..500)
                .map(|n| open(&format!("/d{}/f{n}", n % 10)))
                .collect();
            (brokered, read, breaks)
        });
        breaks.sort();
        #[allow(clippy::print_stderr)]
        {
            eprintln!(
                "{kind:?}: open for writing {alone:?}, with the broker {brokered:?}; reading {read:?}; \
                 break of 100 KB: median {:?}, 99 % {:?}",
                breaks[breaks.len() / 2],
                breaks[breaks.len() * 99 / 100],
            );
        }
    });
}
