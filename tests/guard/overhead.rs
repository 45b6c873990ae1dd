//! What the guard costs those who change nothing: how long things take with it, for each unit of time
//! that they take without it. `make bench-vm` prints it; nothing is asserted of it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use vhashify_testkit::attempts::mark;
use vhashify_testkit::filesystem::{Filesystem, Kind, command};

use super::{Guard, guard};

/// With and without the guard in turn, so that a host that gets busier slows both.
const ROUNDS: usize = 5;

/// The kernel takes a program off its hook a little after its last pin is gone.
const SOON: Duration = Duration::from_secs(2);

/// How often a call is made in a round.
const CALLS: u32 = 20_000;

/// What is unpacked: as many files in a directory, and as large ones, as in a kernel's sources.
const DIRECTORIES: u64 = 60;
const FILES: u64 = 16;
const SIZE: usize = 15_000;

type Work = (&'static str, fn(&Path));

/// By five components below the mount, as most libraries are.
const FILE: &str = "one/two/three/four/file";

const WORK: [Work; 4] = [
    ("stat", |place| {
        for _ in 0..CALLS {
            fs::metadata(place.join(FILE)).unwrap();
        }
    }),
    ("open, close", |place| {
        for _ in 0..CALLS {
            drop(File::open(place.join(FILE)).unwrap());
        }
    }),
    ("open for writing, close", |place| {
        for _ in 0..CALLS {
            drop(
                File::options()
                    .write(true)
                    .open(place.join("private"))
                    .unwrap(),
            );
        }
    }),
    ("unpack", |place| {
        let directory = place.join("unpacked");
        fs::create_dir(&directory).unwrap();
        command(
            Command::new("tar")
                .arg("-xf")
                .arg(place.join("tree.tar"))
                .arg("-C")
                .arg(&directory),
        );
        fs::remove_dir_all(&directory).unwrap();
    }),
];

#[test]
#[ignore = "a measurement: make bench-vm"]
#[allow(clippy::print_stdout)]
fn overhead() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = filesystem.path();
    let store = place.join("hash");
    fs::create_dir(&store).unwrap();
    make(place);
    for (_, work) in WORK {
        work(place);
    }
    let mut ratios: [[Vec<f64>; 2]; WORK.len()] = Default::default();
    for _ in 0..ROUNDS {
        let without = measure(place);
        let loaded = Guard::load(&store);
        let with = measure(place);
        // The one hook that the kernel asks for each component of each path.
        fs::remove_file("/sys/fs/bpf/vhashify/hook-inode_permission").unwrap();
        std::thread::sleep(SOON);
        let with_others = measure(place);
        drop(loaded);
        assert_eq!(guard(&["status"], &store)["loaded"], false);
        std::thread::sleep(SOON);
        for (number, without) in without.iter().enumerate() {
            for (ratios, time) in ratios[number]
                .iter_mut()
                .zip([with[number], with_others[number]])
            {
                ratios.push(time.as_secs_f64() / without.as_secs_f64());
            }
        }
    }
    println!();
    println!("time with the guard / without it: median of {ROUNDS} rounds (least to most)");
    for ((name, _), ratios) in WORK.iter().zip(ratios) {
        let shown = ratios.map(|mut ratios| {
            ratios.sort_by(f64::total_cmp);
            let (least, most) = (ratios[0], ratios[ROUNDS - 1]);
            format!("{:.3} ({least:.3} to {most:.3})", ratios[ROUNDS / 2])
        });
        let [all, others] = shown;
        println!("{name:<24} {all}; but for inode_permission {others}");
    }
}

fn measure(place: &Path) -> [Duration; WORK.len()] {
    WORK.map(|(_, work)| {
        let begun = Instant::now();
        work(place);
        begun.elapsed()
    })
}

fn make(place: &Path) {
    let file = place.join(FILE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "shared").unwrap();
    mark(&file);
    fs::write(place.join("private"), "private").unwrap();
    let tree = place.join("tree");
    for directory in 0..DIRECTORIES {
        let directory = tree.join(format!("drivers/d{directory}"));
        fs::create_dir_all(&directory).unwrap();
        for number in 0..FILES {
            fs::write(directory.join(format!("file{number}.c")), vec![b'c'; SIZE]).unwrap();
        }
    }
    command(
        Command::new("tar")
            .arg("-cf")
            .arg(place.join("tree.tar"))
            .arg("-C")
            .args([&tree, Path::new(".")]),
    );
    fs::remove_dir_all(&tree).unwrap();
}
